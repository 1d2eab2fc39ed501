"""What a command of the course tells the shell."""

from __future__ import annotations

from collections.abc import Iterable

GREEN, RED, NOT_STARTED, ENVIRONMENT = 0, 1, 2, 3


def exit_code(outcomes: Iterable[str]) -> int:
    """RED if something is red or missing, GREEN if all is green, ENVIRONMENT if something cannot run here.

    Else NOT_STARTED: there is something to do.
    """
    found = set(outcomes)
    if found & {"red", "missing"}:
        return RED
    if "cannot run" in found:
        return ENVIRONMENT
    return GREEN if found <= {"green"} else NOT_STARTED
