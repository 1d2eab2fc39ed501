"""Exercise 6.4: Paged attention of a mixed batch."""

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
