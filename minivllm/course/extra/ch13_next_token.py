"""The end of a step on one of several ranks: from its share of the logits to the next tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
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
        derive_seed(engine_seed, number) if seed is None else seed
        for seed, number in zip(seeds, numbers, strict=True)
    ]
    random = uniform(np.array(drawn_with), np.array(positions))  # [R], in [0, 1)
    return draw(probs, torch.from_numpy(random))
