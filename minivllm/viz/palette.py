"""Colours that a colour-blind reader can tell apart, and a pattern beside each, so that colour never stands alone.

Source: Okabe and Ito, "Color Universal Design" (2008). The contrast rule is WCAG 2.1's.
"""

from __future__ import annotations

from dataclasses import dataclass

BLACK = "#000000"
ORANGE = "#E69F00"
SKY_BLUE = "#56B4E9"
GREEN = "#009E73"
YELLOW = "#F0E442"
BLUE = "#0072B2"
VERMILION = "#D55E00"
PURPLE = "#CC79A7"
WHITE = "#FFFFFF"
GREY = "#DDDDDD"  # not one of the eight: for what is empty or idle

OKABE_ITO = (BLACK, ORANGE, SKY_BLUE, GREEN, YELLOW, BLUE, VERMILION, PURPLE)


@dataclass(frozen=True)
class Style:
    """How one state is drawn, wherever it is drawn."""

    color: str
    hatch: str  # matplotlib's pattern language; "" = plain
    letter: str  # for text: an ASCII map, a cell of a table
    label: str


# The five classes of a KV cache's slots, see minivllm/sim/usage.py.
MEMORY_STYLES = {
    "used": Style(BLUE, "", "#", "used: holds a token"),
    "reserved": Style(SKY_BLUE, "//", "r", "reserved: will be written"),
    "internal": Style(ORANGE, "xx", "i", "internal: will never be written"),
    "external": Style(VERMILION, "..", "e", "external: enough, but in pieces"),
    "free": Style(GREY, "", ".", "free"),
}

# What a request does in a step, see minivllm/sim/schedule.py.
REQUEST_STYLES = {
    "waiting": Style(GREY, "", ".", "waits"),
    "prefill": Style(ORANGE, "//", "P", "prompt (prefill)"),
    "decode": Style(BLUE, "", "d", "one token a step (decode)"),
}


def luminance(color: str) -> float:
    """Relative luminance of "#RRGGBB", 0 (black) to 1 (white)."""

    def linear(channel: int) -> float:
        share = channel / 255
        return share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4

    red, green, blue = (linear(int(color[i : i + 2], 16)) for i in (1, 3, 5))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    """Contrast ratio of two colours, 1 to 21; text needs at least 4.5."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def ink_on(background: str) -> str:
    """Black or white, whichever can be read better on `background`."""
    return max((BLACK, WHITE), key=lambda ink: contrast(ink, background))
