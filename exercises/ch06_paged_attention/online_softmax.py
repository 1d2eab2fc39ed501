"""Exercise 6.2: The online softmax. (implement, about 25 minutes)

The scores of a context come in pieces, and after each piece the earlier ones are gone. Write
`absorb`, which takes one more piece into a state of three running values, and `finish`, which makes
the attention output of it.

    highest   [..., M]      the largest score so far
    total     [..., M]      the sum of exp(score - highest) over all scores so far
    acc       [..., M, D]   the sum of exp(score - highest) * value over all of them

These three, in this order, are a SoftmaxState: of M rows at once, each with scores of its own. When
a piece raises `highest`, what was summed so far was taken relative to the old one. One factor mends
it. A row may have seen nothing yet: its highest is NOTHING, which is -inf. Its output is zero.

Check: python -m minivllm.course check 6.2     (or: python -m pytest exercises/ch06_paged_attention/online_softmax.py)
Stuck: python -m minivllm.course hint 6.2
"""

import torch
from torch import Tensor

from minivllm.attention.blockwise import NOTHING, SoftmaxState


def absorb(state: SoftmaxState, scores: Tensor, values: Tensor) -> SoftmaxState:
    """Take S more positions into the state.

    Args:
        state: what the rows know so far; it is not changed.
        scores: [..., M, S]; -inf where a row may not look.
        values: [..., S, D].
    """
    raise NotImplementedError("exercise 6.2: absorb")


def finish(state: SoftmaxState) -> Tensor:
    """The attention output [..., M, D]; zeros for a row that has seen nothing."""
    raise NotImplementedError("exercise 6.2: finish")
