"""One query and head at a time, from the last block to the first, with two running sums and no state object."""

import torch
from torch import Tensor


def walk_blocks(query, key_cache, value_cache, block_table, seq_len, scale) -> Tensor:
    out = torch.empty_like(query)
    for q in range(query.shape[0]):
        for head in range(query.shape[1]):
            kv_head = head * key_cache.shape[2] // query.shape[1]
            visible = seq_len - query.shape[0] + q + 1
            out[q, head] = one_row(
                query[q, head], key_cache, value_cache, kv_head, block_table, visible, scale
            )
    return out


def one_row(query, key_cache, value_cache, kv_head, block_table, visible, scale) -> Tensor:
    block_size = key_cache.shape[1]
    log_sum, mean = torch.tensor(-torch.inf), torch.zeros_like(query)
    for index in reversed(range(-(-visible // block_size))):
        here = slice(0, min(block_size, visible - index * block_size))
        block = block_table[index]
        scores = (key_cache[block, here, kv_head] * query).sum(-1) * scale
        log_block = torch.logsumexp(scores, 0)
        of_block = torch.softmax(scores, 0) @ value_cache[block, here, kv_head]
        new = torch.logaddexp(log_sum, log_block)
        mean = mean * torch.exp(log_sum - new) + of_block * torch.exp(log_block - new)
        log_sum = new
    return mean


def paged_attention(query, key_cache, value_cache, block_tables, seq_lens, query_start_loc, scale) -> Tensor:
    out = query * 0
    for r in range(len(seq_lens)):
        first, behind = query_start_loc[r], query_start_loc[r + 1]
        chunk = query[first:behind]
        out[first:behind] = walk_blocks(
            chunk, key_cache, value_cache, block_tables[r], int(seq_lens[r]), scale
        )
    return out
