"""Prompt look-up: where the last n tokens stood before, what followed then is likely to follow now.

It costs no model, and pays where an answer repeats its prompt or itself: summaries, edits, code, look-ups. Source:
Saxena, "Prompt Lookup Decoding" (2023); vLLM's method `ngram`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from minivllm.attention.metadata import LayerKVCache
from minivllm.model_config import KVCacheSpec
from minivllm.spec_decode.proposer import Draft, DraftStep


class NgramProposer:
    """Looks for the longest end of a request's tokens, of `shortest` to `longest` tokens, that occurred before.

    `find` stands in the place of `look_up`.
    """

    def __init__(
        self,
        shortest: int,
        longest: int,
        find: Callable[[np.ndarray, int, int, int], list[int]] | None = None,
    ) -> None:
        self.shortest, self.longest = shortest, longest
        self._look_up = find or look_up

    def kv_cache_specs(self) -> list[KVCacheSpec]:
        """None: there is no model."""
        return []

    def bind_kv_caches(self, kv_caches: Sequence[LayerKVCache], max_model_len: int) -> None:
        """None needed."""

    def propose(self, step: DraftStep) -> dict[int, Draft]:
        """Row -> the tokens that followed before."""
        drafts = {}
        for row, max_drafts in zip(step.rows.tolist(), step.max_drafts.tolist(), strict=True):
            if max_drafts > 0:
                known = step.token_ids[row, : step.num_tokens[row]]
                token_ids = self._look_up(known, self.shortest, self.longest, max_drafts)
                if token_ids:
                    drafts[row] = Draft(token_ids)
        return drafts


def look_up(token_ids: np.ndarray, shortest: int, longest: int, num_drafts: int) -> list[int]:
    """What followed the last occurrence of the longest n-gram that `token_ids` [L] end with; [] if there is none.

    An occurrence that `num_drafts` tokens follow is preferred to a later one that fewer follow.
    """
    ends = (
        np.flatnonzero(token_ids[:-1] == token_ids[-1]) + 1
    )  # [m] behind each earlier one of the last token
    length = 1
    while length < longest and len(longer := _longer_matches(token_ids, ends, length + 1)):
        ends, length = longer, length + 1
    if not len(ends) or length < shortest:
        return []
    enough = ends[ends + num_drafts <= len(token_ids)]
    start = int(enough[-1] if len(enough) else ends[0])
    found: list[int] = token_ids[start : start + num_drafts].tolist()
    return found


def _longer_matches(token_ids: np.ndarray, ends: np.ndarray, length: int) -> np.ndarray:
    """Those of `ends`, each behind a match of length - 1 tokens, where one more token matches."""
    ends = ends[ends >= length]
    return ends[token_ids[ends - length] == token_ids[-length]] if len(ends) else ends
