"""Drawing: one picture as SVG shapes, with its description and its text version. And the few shapes that all use.

Text and lines that stand on the page carry a class instead of a colour, so that they follow light and dark pages. A
coloured cell keeps its colour and its ink in both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from xml.sax.saxutils import escape, quoteattr

# A drawing that stands alone brings its own colours for the classes; inside a page, stepper.css does.
STYLE = (
    "<style>.mv-paper{fill:#fff}.mv-ink{fill:#1a1a1a}.mv-soft{fill:#595959}.mv-line{stroke:#1a1a1a;fill:none}"
    "@media(prefers-color-scheme:dark){.mv-paper{fill:#16181d}.mv-ink{fill:#f0f0f0}.mv-soft{fill:#b4b4b4}"
    ".mv-line{stroke:#f0f0f0}}</style>"
)
FONT = 'font-family="system-ui, sans-serif" font-size="13"'


@dataclass(frozen=True)
class Drawing:
    """A picture. Steps of one story share most of their shapes, so a shape is kept whole, as one string."""

    width: int
    height: int
    shapes: tuple[str, ...]  # SVG elements, drawn in this order
    alt: str  # one sentence with the numbers of the picture
    text: str  # the same for a terminal

    def to_svg(self) -> str:
        """A standalone SVG document."""
        return "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" {attributes(self.width, self.height)}>',
                f"<title>{escape(self.alt)}</title>",
                STYLE,
                rect(0, 0, self.width, self.height, 'class="mv-paper"', radius=8),
                *self.shapes,
                "</svg>\n",
            ]
        )

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return {"image/svg+xml": self.to_svg(), "text/plain": self.text}


def attributes(width: int, height: int) -> str:
    """The attributes of an svg element of this size, apart from its namespace."""
    return f'viewBox="0 0 {width} {height}" width="{width}" role="img" {FONT}'


def number(value: float) -> str:
    """At most one decimal, and none that says nothing."""
    return f"{value:.1f}".removesuffix(".0")


def rect(x: float, y: float, width: float, height: float, style: str, radius: float = 0) -> str:
    """A rectangle; `style` is the rest of its attributes."""
    corner = f' rx="{number(radius)}"' if radius else ""
    return f'<rect x="{number(x)}" y="{number(y)}" width="{number(width)}" height="{number(height)}"{corner} {style}/>'


def label(
    x: float, y: float, content: str, style: str = 'class="mv-ink"', *, size: int = 13, anchor: str = "start"
) -> str:
    """A line of text whose baseline is at `y`; `anchor` is start, middle or end."""
    where = "" if anchor == "start" else f' text-anchor="{anchor}"'
    return f'<text x="{number(x)}" y="{number(y)}" font-size="{size}"{where} {style}>{escape(content)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, style: str = 'class="mv-line"') -> str:
    """A straight line."""
    return f'<path d="M{number(x1)} {number(y1)}L{number(x2)} {number(y2)}" {style}/>'


def arrow(
    x1: float, y1: float, x2: float, y2: float, style: str = 'class="mv-line"', *, down_first: float = 0
) -> str:
    """A curve to the right or left that leaves and arrives horizontally, with a head at its end.

    `down_first`: so far it goes straight down before it turns.
    """
    start = f"M{number(x1)} {number(y1)}" + (f"v{number(down_first)}" if down_first else "")
    bend, drop = number((x2 - x1) / 2), number(y2 - y1 - down_first)
    curve = f"{start}c{bend} 0 {bend} {drop} {number(x2 - x1)} {drop}"
    back = -6 if x2 > x1 else 6
    return f'<path d="{curve}m{back} -4l{-back} 4l{back} 4" {style}/>'


def arrow_down(x1: float, y1: float, x2: float, y2: float, style: str = 'class="mv-line"') -> str:
    """The same downwards: it leaves and arrives vertically."""
    bend, side, drop = number((y2 - y1) / 2), number(x2 - x1), number(y2 - y1)
    return (
        f'<path d="M{number(x1)} {number(y1)}c0 {bend} {side} {bend} {side} {drop}m-4 -6l4 6l4 -6" {style}/>'
    )


def group(content: list[str], *, go: int | None = None) -> str:
    """Shapes that belong together; `go`: a click on them shows that frame of the stepper."""
    jump = "" if go is None else f' data-go="{go}"'
    return f"<g{jump}>{''.join(content)}</g>"


def attribute(value: str) -> str:
    """A string as a quoted attribute value."""
    return quoteattr(value)
