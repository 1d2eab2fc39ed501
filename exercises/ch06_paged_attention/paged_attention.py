"""Exercise 6.4: Paged attention of a mixed batch. (implement, about 40 minutes)

Now the whole thing. `walk_blocks` computes the attention of one request: it walks its block table
and absorbs one block after the other. `paged_attention` does so for every request of a flat batch,
in which some bring one token and others many.

`absorb` and `finish` are those of 6.2, and the walk begins with new_state(rows, D): the state of
`rows` [..., M, D] that have seen nothing.

The request's Q queries are the LAST tokens of its context: query number q stands at position
seq_len - Q + q, and sees the positions up to its own. With H query heads and K kv heads, query head
h reads kv head h // (H / K).

Two rules. Slots behind the last token may hold anything, even NaN: do not let them in. (A weight of
0 does not help, as 0 * NaN is NaN.) And never gather: no tensor that you make may hold more than a
quarter of the keys of a long context.

Check: python -m minivllm.course check 6.4     (or: python -m pytest exercises/ch06_paged_attention/paged_attention.py)
Stuck: python -m minivllm.course hint 6.4
"""

import torch
from torch import Tensor

from minivllm.attention.blockwise import NOTHING, absorb, finish, new_state


def walk_blocks(
    query: Tensor, key_cache: Tensor, value_cache: Tensor, block_table: Tensor, seq_len: int, scale: float
) -> Tensor:
    """Attention of one request, whose queries are the last tokens of its context.

    Args:
        query: [Q, H, D]; query head h reads kv head h // (H // K).
        key_cache: [N, B, K, D]; it already holds the keys of these tokens.
        value_cache: likewise.
        block_table: [max_blocks].
        seq_len: tokens of the context, the Q queries included.
        scale: factor on the scores.

    Returns:
        [Q, H, D].
    """
    raise NotImplementedError("exercise 6.4: walk_blocks")


def paged_attention(
    query: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    block_tables: Tensor,
    seq_lens: Tensor,
    query_start_loc: Tensor,
    scale: float,
) -> Tensor:
    """Causal attention of a flat batch over one layer's paged cache, which already holds this step's tokens.

    Args:
        query: [T, H, D] the tokens of all requests, one request after the other.
        key_cache: [N, B, K, D].
        value_cache: likewise.
        block_tables: [R, max_blocks].
        seq_lens: [R] tokens of each context, those of this step included.
        query_start_loc: [R + 1]: tokens query_start_loc[r] to query_start_loc[r + 1] belong to request r.
        scale: factor on the scores.

    Returns:
        [T, H, D]; zeros for tokens beyond the last request (padding).
    """
    raise NotImplementedError("exercise 6.4: paged_attention")
