"""How long drafts may be, so that speculation has a stated price: wrong guesses are paid for by tokens that were said.

At batch 1 a verified token costs almost nothing: the model's weights are read anyway. In a full batch every token
costs, and a rejected draft is a token computed for nobody. A request begins with a credit of k drafts, earns
`max_rejected_per_token` for each token that it says, and pays 1 for each draft that is rejected. A draft is never
longer than the credit, so at any time

    rejected drafts <= k + max_rejected_per_token * tokens said

whatever the text is like. Ours; vLLM has other means to the same end.
"""

from __future__ import annotations

import numpy as np


def draft_lengths(
    num_speculative_tokens: int,
    max_rejected_per_token: float | None,
    num_generated: np.ndarray,
    num_rejected: np.ndarray,
) -> np.ndarray:
    """Drafts that each request may have now.

    Args:
        num_speculative_tokens: k, the most.
        max_rejected_per_token: what a generated token earns; None = no limit.
        num_generated: [R] tokens that each request has said.
        num_rejected: [R] drafts of it that were rejected.

    Returns:
        [R] int64 in 0..k.
    """
    if max_rejected_per_token is None:
        return np.full(len(num_generated), num_speculative_tokens, dtype=np.int64)
    credit = np.floor(num_speculative_tokens + max_rejected_per_token * num_generated - num_rejected)
    return credit.clip(0, num_speculative_tokens).astype(np.int64)
