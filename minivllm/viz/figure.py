"""Plot: a matplotlib figure that can stand in a committed notebook: same bytes each time, and a text beside it."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Plot:
    """A figure as PNG.

    Args:
        figure: what was drawn.
        alt: the picture in words, with its numbers, for those who do not see it.
    """

    def __init__(self, figure: Figure, alt: str) -> None:
        from matplotlib import pyplot

        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=90, bbox_inches="tight", metadata={"Software": None})
        self.png = buffer.getvalue()
        self.alt = alt
        pyplot.close(figure)  # otherwise the notebook shows it a second time

    def __repr__(self) -> str:
        return self.alt

    def _repr_mimebundle_(
        self, include: Any = None, exclude: Any = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        return {"image/png": self.png, "text/plain": self.alt}, {"image/png": {"alt": self.alt}}
