"""Points: what a check is worth in a classroom, as plain values that `check --json` prints.

A point is a minute of the exercise's estimate, so a long exercise weighs more than a short one. Green gives them all,
red code that gets past the worked examples half, rounded down. What cannot run on this machine counts neither way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from minivllm.course.catalogue import Exercise

NOTHING_FOUND: dict[str, Any] = {"outcome": "red", "tiers": [], "law": None, "finding": "The check did not come to its end."}


def points(exercise: Exercise, outcome: str, tiers: Sequence[str]) -> int:
    """What one verdict is worth, of `exercise.minutes`."""
    if outcome == "green":
        return exercise.minutes
    return exercise.minutes // 2 if outcome == "red" and "examples" in tiers else 0


def as_table(exercises: Sequence[Exercise], verdicts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The object that `check --json` prints; an exercise without a verdict is red.

    Args:
        verdicts: as in `Verdict.as_row`, in any order.
    """
    found = {verdict["exercise"]: verdict for verdict in verdicts}
    rows = [_row(exercise, found.get(exercise.id, NOTHING_FOUND)) for exercise in exercises]
    return {
        "points": sum(row["points"] for row in rows),
        "out_of": sum(row["out_of"] for row in rows),
        "exercises": rows,
    }


def _row(exercise: Exercise, verdict: Mapping[str, Any]) -> dict[str, Any]:
    outcome, tiers = verdict["outcome"], list(verdict["tiers"])
    return {
        "id": exercise.id,
        "chapter": exercise.chapter,
        "title": exercise.title,
        "kind": exercise.kind,
        "outcome": outcome,
        "passed_tiers": tiers,
        "law": exercise.laws.get(verdict["law"] or "", verdict["law"]),
        "finding": verdict["finding"],
        "points": points(exercise, outcome, tiers),
        "out_of": 0 if outcome == "cannot run" else exercise.minutes,
    }
