"""PoolingParams: instead of a continuation, one vector for the whole text."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PoolingParams:
    """Ask for an embedding: the hidden state of the last token, scaled to length 1.

    Args:
        dimensions: keep only the first so many numbers (and scale those to length 1); None = all.

    Raises:
        ValueError: dimensions is no positive integer.
    """

    dimensions: int | None = None

    def __post_init__(self) -> None:
        given = self.dimensions
        if given is not None and (not isinstance(given, int) or isinstance(given, bool) or given < 1):
            raise ValueError(f"dimensions must be an integer of at least 1, not {given!r}")
