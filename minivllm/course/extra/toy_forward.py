"""A model that can be followed by eye: its logits depend on all tokens so far, and it writes down what it is asked."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

VOCABULARY = 50


class ToyForward:
    """Continues one text. `calls` holds the tokens of each call."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []
        self._state = 1

    def __call__(self, token_ids: Sequence[int]) -> Tensor:
        """The next tokens, at least one -> their logits [T, V]."""
        assert len(token_ids) > 0, "the model is called with no tokens"
        self.calls.append([int(token) for token in token_ids])
        rows = []
        for token in token_ids:
            self._state = (31 * self._state + 7 * int(token) + 3) % 1009  # another state for any other text
            rows.append(torch.arange(VOCABULARY).roll(self._state % VOCABULARY).float())
        return torch.stack(rows)
