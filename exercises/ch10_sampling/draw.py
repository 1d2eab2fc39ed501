"""Exercise 10.3: A draw from one random number. (implement, about 15 minutes)

`probs` [R, V] says how likely each token of each row is, and `random` [R] brings one number in [0,
1) for each row. Lay the tokens of a row side by side, in the order of their ids, each as wide as it
is likely. Together they are as wide as the row's sum. The random number is a place on this ruler,
as a share of its length. Take the token that lies there.

    probs  0.2  0.5  0.3         random 0.1 -> token 0, random 0.2 -> token 1, random 0.69 -> 1, random 0.7 -> 2

The row need not add up to exactly 1: stretch the random number instead. A token of probability 0
has no width and is never drawn, also at the ends of the ruler. Of thousands of float32 the sum
drifts: add up in float64.

Yours can serve: python -m minivllm.serve --mine draw

Check: python -m minivllm.course check 10.3     (or: python -m pytest exercises/ch10_sampling/draw.py)
Stuck: python -m minivllm.course hint 10.3
"""

from __future__ import annotations

import torch


def draw(probs: torch.Tensor, random: torch.Tensor) -> torch.Tensor:
    """Inverse of the cumulative distribution: the first token at which it exceeds `random`.

    One random number [R] in [0, 1) for each row suffices, so no draw depends on the size of the vocabulary.
    probs [R, V] -> [R] int64; a token of probability 0 is never chosen.
    """
    raise NotImplementedError("exercise 10.3: draw")
