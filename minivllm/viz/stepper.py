"""The Stepper: a story in frames, as one piece of HTML that needs nothing from anywhere.

Without JavaScript its first frame stands still, as an image. With it, the reader plays, steps, drags and uses the arrow
keys. The same bundle also lets a reader turn several knobs (`explore`): then every combination is drawn beforehand.
Bytes depend on the content alone, so a notebook that is executed again does not change.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from minivllm.viz.drawing import Drawing, attribute, attributes

MAX_FRAMES = 400


@dataclass(frozen=True)
class Frame:
    """One picture of a story, and what is said about it."""

    drawing: Drawing
    caption: str


class Stepper:
    """A story that can be played, frame after frame, or a picture with several knobs.

    Args:
        frames: the story; with knobs, a frame for each combination of their values, the last knob changing fastest.
        title: names the figure for those who do not see it.
        start: the frame that stands still and that everything starts from.
        axes: the knobs, name -> the labels of its values; None = one axis, the frames themselves.

    Raises:
        ValueError: no frame, more than `MAX_FRAMES`, or a start that is none of them.
    """

    def __init__(
        self,
        frames: Sequence[Frame],
        title: str,
        start: int = 0,
        axes: dict[str, Sequence[Any]] | None = None,
    ) -> None:
        if not 1 <= len(frames) <= MAX_FRAMES:
            raise ValueError(f"a stepper shows 1 to {MAX_FRAMES} frames, not {len(frames)}: draw fewer steps")
        if not 0 <= start < len(frames):
            raise ValueError(f"start must be one of the frames 0 to {len(frames) - 1}, not {start}")
        self.title = title
        self.frames = list(frames)
        count = len(frames)
        axes = {"frame": [f"{i} of {count}" for i in range(1, count + 1)]} if axes is None else axes
        self.axes = {name: [str(value) for value in values] for name, values in axes.items()}
        self.start = start

    def to_html(self) -> str:
        """The figure, with its style and its script."""
        frame, data = self.frames[self.start], self._data()
        picture = base64.b64encode(frame.drawing.to_svg().encode()).decode()
        content = f"{self.title}{data}"
        return "\n".join(
            [
                f'<figure class="mv-stepper" id="mv-{hashlib.sha256(content.encode()).hexdigest()[:12]}"'
                f" aria-label={attribute(self.title)}>",
                f"<style>{_static('stepper.css')}</style>",
                f'<div class="mv-view"><img alt={attribute(frame.drawing.alt)}'
                f' src="data:image/svg+xml;base64,{picture}"></div>',
                f'<figcaption aria-live="polite">{escape(frame.caption)}</figcaption>',
                f'<div class="mv-controls" hidden>{self._controls()}</div>',
                f'<script type="application/json">{data}</script>',
                f"<script>{_static('stepper.js')}</script>",
                "</figure>",
            ]
        )

    def _controls(self) -> str:
        buttons = (
            '<button type="button" data-by="-1">Back</button>'
            '<button type="button" class="mv-play">Play</button>'
            '<button type="button" data-by="1">Next</button>'
        )
        sliders = [
            f'<label>{escape(name)} <input type="range" min="0" max="{len(values) - 1}" value="0">'
            "<output></output></label>"
            for name, values in self.axes.items()
        ]
        return ("" if len(self.axes) > 1 else buttons) + "".join(sliders)

    def _data(self) -> str:
        """All frames as JSON. Frames share most of their shapes, so each distinct shape is sent once."""
        indices: dict[str, int] = {}
        frames = [
            {
                "caption": frame.caption,
                "alt": frame.drawing.alt,
                "shapes": [indices.setdefault(shape, len(indices)) for shape in frame.drawing.shapes],
            }
            for frame in self.frames
        ]
        drawings = [frame.drawing for frame in self.frames]
        data = {
            "attributes": attributes(max(d.width for d in drawings), max(d.height for d in drawings)),
            "axes": list(self.axes.values()),
            "start": self.start,
            "shapes": list(indices),
            "frames": frames,
        }
        return json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")

    def to_text(self) -> str:
        """The frame that stands still, for a terminal."""
        frame = self.frames[self.start]
        return f"{self.title} (frame {self.start + 1} of {len(self.frames)})\n{frame.caption}\n{frame.drawing.text}"

    def __repr__(self) -> str:
        return self.to_text()

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        drawing = self.frames[self.start].drawing
        return {"text/html": self.to_html(), "image/svg+xml": drawing.to_svg(), "text/plain": self.to_text()}


def explore(draw: Callable[..., Frame], title: str, /, **choices: Sequence[Any]) -> Stepper:
    """A picture with knobs: `draw` is called for every combination of the choices, and the reader moves among them.

    Raises:
        ValueError: more than `MAX_FRAMES` combinations.
    """
    combinations = list(product(*choices.values()))
    if len(combinations) > MAX_FRAMES:
        raise ValueError(
            f"these choices make {len(combinations)} pictures, more than {MAX_FRAMES}: offer fewer"
        )
    frames = [draw(**dict(zip(choices, values, strict=True))) for values in combinations]
    return Stepper(frames, title, axes=dict(choices))


def live(draw: Callable[..., Frame], /, **choices: Any) -> Any:
    """The same with ipywidgets: drawn when asked, over any range; only while a kernel runs, never in a static page.

    `choices` are what `ipywidgets.interactive` takes: (first, last) or (first, last, step), a list, a bool.
    """
    from IPython.display import SVG, display
    from ipywidgets import interactive

    def show(**values: Any) -> None:
        frame = draw(**values)
        display(SVG(frame.drawing.to_svg()))
        print(frame.caption)

    return interactive(show, **choices)


@cache
def _static(name: str) -> str:
    return (Path(__file__).parent / "static" / name).read_text(encoding="utf-8").strip()
