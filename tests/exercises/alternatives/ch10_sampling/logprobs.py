"""In float64 with numpy, sorting every row."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class TokenLogprobs:
    token_ids: list[int]
    logprobs: list[float]
    rank: int


def gather_logprobs(logits, token_ids, num_logprobs):
    told = []
    for row, token, count in zip(
        logits.double().numpy(), token_ids.tolist(), num_logprobs.tolist(), strict=True
    ):
        logprobs = row - np.logaddexp.reduce(row)
        order = np.argsort(-row, kind="stable")
        ids = [token, *order[: len(row) if count < 0 else count].tolist()]
        told.append(TokenLogprobs(ids, [float(logprobs[i]) for i in ids], 1 + int(np.sum(row > row[token]))))
    return told
