"""Slot by slot: the cache as one array of N * B rows, and the slot of every position."""

import torch
from torch import Tensor


def gather_blocks(cache: Tensor, block_table: Tensor, seq_len: int) -> Tensor:
    block_size = cache.shape[1]
    positions = torch.arange(seq_len)
    slots = block_table.long()[positions // block_size] * block_size + positions % block_size
    return cache.reshape(-1, *cache.shape[2:]).index_select(0, slots)
