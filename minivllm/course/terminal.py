"""Plain text for a terminal of 80 columns: colour only where somebody looks, and wanted (NO_COLOR), never needed."""

from __future__ import annotations

import os
import sys
import textwrap

WIDTH = 80
COLORS = {"green": "32", "red": "31", "yellow": "33", "bold": "1"}
OF_OUTCOME = {"green": "green", "red": "red", "unchecked": "yellow", "missing": "red", "cannot run": "yellow"}


def paint(text: str, color: str | None) -> str:
    """The text in a colour, if standard output is a terminal and NO_COLOR is not set."""
    if color is None or os.environ.get("NO_COLOR") or not sys.stdout.isatty():
        return text
    return f"\033[{COLORS[color]}m{text}\033[0m"


def wrap(text: str, indent: str = "") -> str:
    """Fill paragraphs to 80 columns; one that has an indented line is a picture or a list and stays as it is."""
    paragraphs = text.strip("\n").split("\n\n")
    return "\n\n".join(
        textwrap.indent(paragraph, indent)
        if any(line.startswith((" ", "- ")) for line in paragraph.splitlines())
        else textwrap.fill(paragraph, WIDTH, initial_indent=indent, subsequent_indent=indent)
        for paragraph in paragraphs
    )
