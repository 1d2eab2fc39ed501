"""A random paged batch to grade attention with: small, made from a few numbers, NaN wherever nothing was written."""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import Tensor

from minivllm.attention.metadata import AttentionMetadata, LayerKVCache
from minivllm.attention.naive import naive_attention
from minivllm.course.extra.guarded import guarded


class PagedCase:
    """Requests whose contexts lie in a paged cache, in blocks that are in no order.

    Args:
        lens: (new tokens, earlier tokens) of each request.
        block_size: tokens of a block.
        kv_heads: K.
        group: query heads of a kv head: H = K * group.
        head_size: D.
        seed: everything random follows from it.
        large: factor on the queries, for large logits.
        device: where the tensors lie.
    """

    def __init__(
        self,
        lens: Sequence[tuple[int, int]],
        block_size: int = 4,
        kv_heads: int = 1,
        group: int = 1,
        head_size: int = 4,
        seed: int = 0,
        large: float = 1.0,
        device: str = "cpu",
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.query_lens, self.lens = [new for new, _ in lens], [new + old for new, old in lens]
        self.block_size, self.scale, self.device = block_size, head_size**-0.5, device
        needed = [-(-length // block_size) for length in self.lens]
        ids = list(range(1, sum(needed) + 3))  # block 0 is the null block, and two are nobody's
        random.Random(seed).shuffle(ids)
        self.tables = [[ids.pop() for _ in range(count)] for count in needed]
        shape = len(ids) + sum(needed) + 1, block_size, kv_heads, head_size
        self.key_cache, self.value_cache = (torch.full(shape, float("nan")) for _ in range(2))
        self.keys, self.values = (
            [torch.randn(length, kv_heads, head_size, generator=generator) for length in self.lens]
            for _ in range(2)
        )  # of each request, in the order of its positions: [S, K, D]
        for r, table in enumerate(self.tables):
            for position in range(self.lens[r]):
                block, offset = table[position // block_size], position % block_size
                self.key_cache[block, offset] = self.keys[r][position]
                self.value_cache[block, offset] = self.values[r][position]
        tokens = sum(self.query_lens)
        self.query = large * torch.randn(tokens, kv_heads * group, head_size, generator=generator)
        self.metadata = AttentionMetadata.from_lists(self.query_lens, self.lens, self.tables, block_size)
        self.expected = self._naive()  # [T, H, D]
        self.block_tables, self.seq_lens = self.metadata.block_tables, self.metadata.seq_lens
        self.query_start_loc, self.slot_mapping = self.metadata.query_start_loc, self.metadata.slot_mapping
        for name in ("query", "key_cache", "value_cache"):  # beside them there is nothing to be found
            setattr(self, name, guarded(getattr(self, name).to(device)))
        self.block_tables = guarded(self.block_tables.to(device), 0)
        self.seq_lens, self.slot_mapping = self.seq_lens.to(device), self.slot_mapping.to(device)

    def _naive(self) -> Tensor:
        cache = LayerKVCache(self.key_cache, self.value_cache)
        return naive_attention(self.query, cache, self.metadata, scale=self.scale)

    def moved(self, seed: int = 1) -> PagedCase:
        """The same contexts in other physical blocks."""
        twin = object.__new__(PagedCase)
        twin.__dict__.update(self.__dict__)
        num_blocks = len(self.key_cache)
        order = list(range(1, num_blocks))
        random.Random(seed).shuffle(order)
        place = torch.tensor([0, *order])  # old block -> new block
        twin.key_cache, twin.value_cache = (torch.empty_like(c) for c in (self.key_cache, self.value_cache))
        twin.key_cache[place], twin.value_cache[place] = self.key_cache, self.value_cache
        twin.key_cache, twin.value_cache = guarded(twin.key_cache), guarded(twin.value_cache)
        twin.block_tables = place.to(self.block_tables.device)[self.block_tables.long()].int()
        return twin

    def without_nan(self) -> PagedCase:
        """The same with zeros where nothing was written."""
        twin = object.__new__(PagedCase)
        twin.__dict__.update(self.__dict__)
        twin.key_cache, twin.value_cache = self.key_cache.nan_to_num(), self.value_cache.nan_to_num()
        return twin

    @property
    def arguments(self) -> tuple[Tensor | float, ...]:
        """Those of `paged_attention`."""
        caches = self.key_cache, self.value_cache
        return self.query, *caches, self.block_tables, self.seq_lens, self.query_start_loc, self.scale

    @property
    def decode_arguments(self) -> tuple[Tensor | float, ...]:
        """Those of a decode kernel: every request brings one token, so there is no query_start_loc."""
        return self.query, self.key_cache, self.value_cache, self.block_tables, self.seq_lens, self.scale


def is_close(found: Tensor, expected: Tensor, tolerance: float = 1e-4) -> bool:
    """Equal shapes, and values up to rounding; NaN is never close."""
    found, expected = found.float().cpu(), expected.float().cpu()
    return found.shape == expected.shape and bool(
        torch.allclose(found, expected, rtol=tolerance, atol=tolerance)
    )


def picture(found: Tensor, expected: Tensor) -> str:
    """The first number of every token and head, expected and found; a ^ stands below each row that differs."""
    if found.shape != expected.shape:
        return f"expected shape {tuple(expected.shape)}, yours {tuple(found.shape)}"
    rows = [f"{'':14}expected      yours"]
    found, expected = found.float().cpu().flatten(1, -2), expected.float().cpu().flatten(1, -2)
    for token in range(len(expected)):
        for head in range(expected.shape[1]):
            one, other = expected[token, head], found[token, head]
            mark = "" if is_close(other, one) else "  <-"
            rows.append(f"row {token:<3} head {head:<2} {one[0]:8.3f} {other[0]:10.3f}{mark}")
    return "\n".join(rows[:25])
