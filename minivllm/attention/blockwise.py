"""Paged attention as a kernel does it, in plain torch: block by block through the table, with an online softmax.

paged.py is what the engine runs on a CPU: it gathers whole contexts, because torch is fast at few large operations.
This file walks instead, and never holds more than one block. It is the algorithm of kernels/online_softmax.py and of
kernels/paged_attention_split_kv.py without their tiles and masks, to be read first. Slow: a loop over blocks.

    block_table   | 7 | 3 | 9 |        state   (highest, total, acc) = (-inf, 0, 0)
                    |   |   '-> block 9         |
                    |   '-----> block 3         v  absorb block 7:  rescale what was summed so far, add this block
                    '---------> block 7         v  absorb block 3
                                                v  absorb block 9   ->  finish:  acc / total

Milakov and Gimelshein 2018 (the running softmax); Dao et al. 2022, algorithm 1 (with values); Kwon et al. 2023,
section 4.1 (through a block table).
"""

from typing import NamedTuple

import torch
from torch import Tensor

NOTHING = float("-inf")  # the highest score of a row that has seen no score yet


class SoftmaxState(NamedTuple):
    """What M rows know after a part of their context. A row's attention output over that part is acc / total."""

    highest: Tensor  # [..., M] the highest score so far; -inf: none
    total: Tensor  # [..., M] the sum of exp(score - highest)
    acc: Tensor  # [..., M, D] the sum of exp(score - highest) * value


def gather_blocks(cache: Tensor, block_table: Tensor, seq_len: int) -> Tensor:
    """Collect one request's context in the order of its positions.

    Args:
        cache: [N, B, K, D].
        block_table: [max_blocks] physical block of each logical block; entries beyond the context mean nothing.
        seq_len: tokens of the context.

    Returns:
        [seq_len, K, D].
    """
    num_blocks = -(-seq_len // cache.shape[1])
    blocks = cache[block_table[:num_blocks].long()]  # [num_blocks, B, K, D]
    return blocks.flatten(0, 1)[:seq_len]


def new_state(rows: Tensor, head_size: int) -> SoftmaxState:
    """The state of rows [..., M, any] that have seen nothing yet."""
    shape = rows.shape[:-1]
    zeros = rows.new_zeros((*shape, head_size), dtype=torch.float32)
    return SoftmaxState(zeros.new_full(shape, NOTHING), zeros.new_zeros(shape), zeros)


def absorb(state: SoftmaxState, scores: Tensor, values: Tensor) -> SoftmaxState:
    """Take S more positions into the state.

    Args:
        state: what the rows know so far; it is not changed.
        scores: [..., M, S]; -inf where a row may not look.
        values: [..., S, D].
    """
    highest = torch.maximum(state.highest, scores.amax(-1))  # [..., M]
    shift = torch.where(highest == NOTHING, 0.0, highest)  # a row that has seen nothing: no inf - inf
    weights = torch.exp(scores - shift.unsqueeze(-1))  # [..., M, S]
    rescale = torch.exp(state.highest - shift)  # [..., M]
    total = state.total * rescale + weights.sum(-1)
    acc = state.acc * rescale.unsqueeze(-1) + weights @ values
    return SoftmaxState(highest, total, acc)


def finish(state: SoftmaxState) -> Tensor:
    """The attention output [..., M, D]; zeros for a row that has seen nothing."""
    return state.acc / torch.where(state.total > 0, state.total, 1.0).unsqueeze(-1)


def merge(one: SoftmaxState, other: SoftmaxState) -> SoftmaxState:
    """The state of rows that have seen two disjoint parts of their context, in any order."""
    highest = torch.maximum(one.highest, other.highest)
    shift = torch.where(highest == NOTHING, 0.0, highest)
    factors = torch.exp(one.highest - shift), torch.exp(other.highest - shift)
    total = one.total * factors[0] + other.total * factors[1]
    acc = one.acc * factors[0].unsqueeze(-1) + other.acc * factors[1].unsqueeze(-1)
    return SoftmaxState(highest, total, acc)


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
    num_queries, num_heads, head_size = query.shape
    block_size, num_kv_heads = key_cache.shape[1:3]
    group = num_heads // num_kv_heads
    rows = query.float().view(num_queries, num_kv_heads, group, head_size).transpose(0, 1)
    rows = rows.flatten(1, 2)  # [K, Q * G, D]: all rows that read the same kv head
    first = seq_len - num_queries  # the position of the first query
    own = torch.arange(first, seq_len, device=query.device).repeat_interleave(group)  # [Q * G]
    state = new_state(rows, head_size)
    for index, start in enumerate(range(0, seq_len, block_size)):
        length = min(block_size, seq_len - start)  # slots behind the last token hold anything, even NaN
        block = int(block_table[index])
        keys = key_cache[block, :length].float().transpose(0, 1)  # [K, S, D]
        values = value_cache[block, :length].float().transpose(0, 1)
        scores = rows @ keys.transpose(1, 2) * scale  # [K, Q * G, S]
        positions = torch.arange(start, start + length, device=query.device)  # [S]
        scores = scores.masked_fill(positions > own[:, None], NOTHING)  # nobody looks into the future
        state = absorb(state, scores, values)
    out = finish(state).view(num_kv_heads, num_queries, group, head_size).transpose(0, 1)
    return out.flatten(1, 2).to(query.dtype)  # [Q, H, D]


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
    out = torch.zeros_like(query)
    starts = query_start_loc.tolist()
    for r, seq_len in enumerate(seq_lens.tolist()):
        tokens = slice(starts[r], starts[r + 1])
        if starts[r] < starts[r + 1]:
            out[tokens] = walk_blocks(query[tokens], key_cache, value_cache, block_tables[r], seq_len, scale)
    return out
