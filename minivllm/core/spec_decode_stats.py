"""Counters of speculation, by vLLM's names."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class SpecDecodeStats:
    """Totals since the start."""

    num_drafts: int = 0  # times that drafts of a request were verified
    num_draft_tokens: int = 0
    num_accepted_tokens: int = 0
    num_accepted_tokens_per_pos: list[int] = field(default_factory=list)  # how often draft i was accepted

    def observe(self, num_draft_tokens: int, num_accepted: int) -> None:
        """Count one verification."""
        self.num_drafts += 1
        self.num_draft_tokens += num_draft_tokens
        self.num_accepted_tokens += num_accepted
        per_pos = self.num_accepted_tokens_per_pos
        per_pos += [0] * (num_draft_tokens - len(per_pos))
        for position in range(num_accepted):
            per_pos[position] += 1
