"""Exercise 10.1: Keep the likely: top-k, top-p, min-p. (implement, about 30 minutes)

Three ways to say which tokens may be drawn at all. Each row of the logits [R, V] is a request and
brings its own number. A token that is dropped gets the logit NEVER, minus infinity; a token that is
kept keeps its logit, in its place.

    min-p   keep what is at least min_p times as likely as the most likely token
    top-k   keep the k most likely
    top-p   of what is left, made to add up to 1 again, keep the smallest set that reaches p

`top_k` or `top_p` may be None: then no row asks for it. A row that does not ask for it while
another one does has min_p = 0, top_k = V or top_p = 1, and must come back unchanged. Among equal
logits the lower id is the more likely one. The most likely token always stays.

Yours can serve: python -m minivllm.serve --mine apply_min_p,apply_top_k_top_p

Check: python -m minivllm.course check 10.1     (or: python -m pytest exercises/ch10_sampling/truncate.py)
Stuck: python -m minivllm.course hint 10.1
"""

from __future__ import annotations

import torch

from minivllm.sampling.logits_processors import NEVER


def apply_min_p(logits: torch.Tensor, min_p: torch.Tensor) -> torch.Tensor:
    """Drop tokens less likely than `min_p` [R] times the most likely one. logits [R, V] -> [R, V]."""
    raise NotImplementedError("exercise 10.1: apply_min_p")


def apply_top_k_top_p(
    logits: torch.Tensor, top_k: torch.Tensor | None, top_p: torch.Tensor | None
) -> torch.Tensor:
    """Keep the `top_k` [R] most likely tokens, and of those the smallest set with probability >= `top_p` [R].

    Equal logits are ranked by id. The kept set goes back to the order of ids, so that a row is drawn alike whether or
    not another row of the batch made the sort necessary. logits [R, V] -> [R, V].
    """
    raise NotImplementedError("exercise 10.1: apply_top_k_top_p")
