"""Exercise 13.6: Debug: a rank that disagrees. (debug, about 15 minutes)

Each rank draws the next tokens itself, because that is cheaper than waiting for another rank to
tell. It works as long as all draw the same. Two users complain: their answers turn into nonsense
after the first token. A third, who always sends a seed, sees nothing of it, and with one rank
nobody does.

The rank that reports says one token and another rank has written a different one into its share of
the KV cache. From there on the two halves of the model read different texts. Find the line that
lets ranks disagree, and repair it.

Check: python -m minivllm.course check 13.6     (or: python -m pytest exercises/ch13_parallelism/next_token.py)
Stuck: python -m minivllm.course hint 13.6
"""

from __future__ import annotations

import numpy as np
import torch
from collections.abc import Sequence
from torch import Tensor

from minivllm.parallel.group import TensorParallel
from minivllm.sampling.random import derive_seed, uniform
from minivllm.sampling.sampler import draw


def next_tokens(
    tp: TensorParallel,
    logits: Tensor,
    vocab_size: int,
    seeds: Sequence[int | None],
    numbers: Sequence[int],
    positions: Sequence[int],
    engine_seed: int,
) -> Tensor:
    """Draw the next token of each request. Every rank draws for itself, and all draw the same.

    Args:
        tp: this rank's place, and the collectives.
        logits: [R, v], of this rank's range of the vocabulary; the last rank's may end in padding.
        vocab_size: V, without the padding.
        seeds: [R], the user's seed of each request; None where there is none.
        numbers: [R], each request's number of arrival at the engine.
        positions: [R], how many tokens each request has been given so far.
        engine_seed: the engine's own seed.

    Returns:
        [R] token ids.
    """
    everybody = tp.all_gather(logits)[:, :vocab_size]  # [R, V]
    probs = everybody.float().softmax(dim=-1)
    drawn_with = [
        derive_seed(engine_seed + tp.rank, number) if seed is None else seed
        for seed, number in zip(seeds, numbers, strict=True)
    ]
    random = uniform(np.array(drawn_with), np.array(positions))  # [R], in [0, 1)
    return draw(probs, torch.from_numpy(random))
