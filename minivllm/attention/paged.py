"""Paged attention in plain torch: the whole batch in a few large operations, without a loop over requests.

PagedAttention (Kwon et al. 2023, section 4.1) reads each request's context through its block table. A kernel
walks the table block by block. Torch cannot, so this file gathers: requests that look alike (similar number
of queries, similar context) form a group, their contexts are collected into one padded tensor, and one call
of scaled_dot_product_attention serves the group. Which rows and slots that takes is the same for every layer,
so it is worked out once per step, in the plan.

Padding never reads memory that no token has written: a padded query repeats its request's last query, a
padded context position repeats its request's last slot and is masked. So what lies in unused slots (even NaN)
cannot matter, and no row is ever masked completely.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from minivllm.attention.cache_dtype import from_cache, movable, to_cache
from minivllm.attention.metadata import AttentionMetadata, LayerKVCache

Ints = NDArray[np.int64]

# Context slots (padding included) that one group gathers: on a CPU what its cache holds, on a GPU what fills the
# device. It also bounds the memory that attention takes beside the KV cache.
MAX_GROUP_SLOTS = {"cpu": 4096, "cuda": 1 << 18}
SIMILAR_CONTEXT = 128  # up to this length contexts share a group however different they are


@dataclass(frozen=True)
class ContextView:
    """What a group looks at under one window: which slots, and who may see which."""

    slots: Tensor  # [Rg * S] int64
    bias: Tensor  # [Rg, 1, Q, S] in the query's dtype: 0 where a query may look, -inf elsewhere


@dataclass(frozen=True)
class RequestGroup:
    """Rg requests, their queries padded to a common length Q. Numbers for planning stay on the host."""

    query_rows: Tensor  # [Rg * Q] int64: row of the flat batch of each query
    real_rows: Tensor | None  # which of these rows are no padding; None: all of them
    out_rows: Tensor  # the rows of the flat batch where the results of those belong
    positions: Ints  # [Rg, Q]: position of each query in its context
    seq_lens: Ints  # [Rg]
    block_tables: Ints  # [Rg, max_blocks]
    block_size: int
    views: dict[tuple[int | None, torch.dtype], ContextView] = field(default_factory=dict)

    def context(self, window: int | None, dtype: torch.dtype) -> ContextView:
        """The context under a sliding window (None: all of it), worked out on first use in a step.

        Positions that slid out of every query's window are not gathered: their blocks may be gone already.
        """
        key = (window, dtype)
        if key not in self.views:
            self.views[key] = self._make_context(window, dtype)
        return self.views[key]

    def _make_context(self, window: int | None, dtype: torch.dtype) -> ContextView:
        first = np.zeros_like(self.seq_lens)  # [Rg]: where the gathered context begins
        if window is not None:
            first = np.maximum(self.positions[:, 0] - window + 1, 0)
        longest = int((self.seq_lens - first).max())
        key_positions = first[:, None] + np.arange(longest)  # [Rg, S]
        written = np.minimum(key_positions, np.maximum(self.seq_lens[:, None] - 1, 0))
        logical, offset = np.divmod(written, self.block_size)
        slots = np.take_along_axis(self.block_tables, logical, 1) * self.block_size + offset
        ago = self.positions[:, :, None] - key_positions[:, None, :]  # [Rg, Q, S]; negative: in the future
        hidden = torch.from_numpy(ago < 0 if window is None else (ago < 0) | (ago >= window))
        bias = torch.zeros(hidden.shape, dtype=dtype).masked_fill_(hidden, float("-inf"))
        device = self.query_rows.device
        return ContextView(torch.from_numpy(slots.ravel()).to(device), bias[:, None].to(device))


@dataclass(frozen=True)
class PagedPlan:
    """The groups of one step. Every request with queries is in exactly one of them."""

    groups: Sequence[RequestGroup]


def build_plan(metadata: AttentionMetadata) -> PagedPlan:
    """Group a step's requests by number of queries (powers of two: padding stays below 2x) and by context.

    Runs on the host, where group sizes are needed as numbers; on a GPU that is one synchronization per step.
    """
    device = metadata.slot_mapping.device
    starts, seq_lens, block_tables = (
        tensor.cpu().numpy().astype(np.int64)
        for tensor in (metadata.query_start_loc, metadata.seq_lens, metadata.block_tables)
    )
    query_lens = np.diff(starts)  # [R]
    groups = []
    for rows in _similar_requests(query_lens, seq_lens, MAX_GROUP_SLOTS.get(device.type, 1 << 18)):
        lens = query_lens[rows, None]  # [Rg, 1]
        steps = np.arange(lens.max())
        offsets = np.minimum(steps, lens - 1)  # [Rg, Q]: padding repeats the last query
        query_rows = (starts[rows, None] + offsets).ravel()
        is_real = (steps < lens).ravel()
        padded = not is_real.all()
        groups.append(
            RequestGroup(
                query_rows=torch.from_numpy(query_rows).to(device),
                real_rows=torch.from_numpy(is_real.nonzero()[0]).to(device) if padded else None,
                out_rows=torch.from_numpy(query_rows[is_real]).to(device),
                positions=np.maximum(seq_lens[rows, None] - lens + offsets, 0),
                seq_lens=seq_lens[rows],
                block_tables=block_tables[rows],
                block_size=metadata.block_size,
            )
        )
    return PagedPlan(groups)


def _similar_requests(query_lens: Ints, seq_lens: Ints, max_slots: int) -> Iterator[Ints]:
    """Yield the request numbers of one group after the other; a loop over groups, not over requests."""
    bucket = np.ceil(np.log2(np.maximum(query_lens, 1)))
    order = np.lexsort((-seq_lens, -bucket))
    order = order[query_lens[order] > 0]
    while len(order):
        longest = max(1, int(seq_lens[order[0]]))
        alike = bucket[order] == bucket[order[0]]
        if longest > SIMILAR_CONTEXT:
            alike &= 2 * seq_lens[order] > longest
        num_alike, fitting = int(alike.sum()), max(1, max_slots // longest)
        num_groups = -(-num_alike // fitting)
        size = -(-num_alike // num_groups)  # even shares instead of full groups and a rest
        yield order[:size]
        order = order[size:]


def paged_attention(
    query: Tensor,
    kv_cache: LayerKVCache,
    metadata: AttentionMetadata,
    *,
    scale: float,
    window: int | None = None,
) -> Tensor:
    """Causal attention of a flat batch over the paged cache, which already holds this step's keys and values.

    Args:
        query: [T, H, D]; H is a multiple of the cache's K, and query head h reads kv head h // (H // K).
        kv_cache: one layer's cache; what is gathered of a smaller type is widened to the query's.
        metadata: the step; its `plan` should come from `build_plan`, else one is built for this call alone.
        scale: factor on the scores.
        window: how many of the latest tokens a token sees, itself included; None: all.

    Returns:
        [T, H, D]; zeros for tokens beyond the last request (padding).
    """
    plan = metadata.plan if isinstance(metadata.plan, PagedPlan) else build_plan(metadata)
    num_kv_heads, head_dim = kv_cache.key.shape[2:]
    keys, values = (cache.view(-1, num_kv_heads * head_dim) for cache in kv_cache)  # [N * B, K * D]
    out = torch.zeros(query.shape, dtype=query.dtype, device=query.device)
    for group in plan.groups:
        view = group.context(window, query.dtype)
        rows, _, _, context_len = view.bias.shape
        shape = (rows, context_len, num_kv_heads, head_dim)
        attended = F.scaled_dot_product_attention(
            query.index_select(0, group.query_rows).unflatten(0, (rows, -1)).transpose(1, 2),  # [Rg, H, Q, D]
            _gather(keys, view.slots, query.dtype).view(shape).transpose(1, 2),  # [Rg, K, S, D]
            _gather(values, view.slots, query.dtype).view(shape).transpose(1, 2),
            attn_mask=view.bias,
            scale=scale,
            enable_gqa=query.shape[1] != num_kv_heads,
        )
        flat = attended.transpose(1, 2).flatten(0, 1)  # [Rg * Q, H, D]
        out.index_copy_(0, group.out_rows, flat if group.real_rows is None else flat[group.real_rows])
    return out


def _gather(cache: Tensor, slots: Tensor, dtype: torch.dtype) -> Tensor:
    """Rows [n] of a cache [N * B, K * D] -> [n, K * D] in the type to compute in."""
    return from_cache(movable(cache).index_select(0, slots).view(cache.dtype), dtype)


def reshape_and_cache(key: Tensor, value: Tensor, kv_cache: LayerKVCache, slot_mapping: Tensor) -> None:
    """Write key and value [T, K, D] of this step's tokens into their slots of the cache, in place.

    A cache of another type takes them rounded and saturated.
    """
    for cache, new in zip(kv_cache, (key, value), strict=True):
        movable(cache).flatten(0, 1).index_copy_(0, slot_mapping, movable(to_cache(new, cache.dtype)))


def copy_blocks(kv_caches: Sequence[LayerKVCache], pairs: Tensor) -> None:
    """Copy whole blocks in every layer, in place. pairs: [P, 2] of (source, destination) block ids.

    All sources are read before any destination is written; destinations must differ from one another.
    """
    sources, destinations = pairs.long().unbind(1)
    for layer in kv_caches:
        for cache in map(movable, layer):
            cache.index_copy_(0, destinations, cache.index_select(0, sources))
