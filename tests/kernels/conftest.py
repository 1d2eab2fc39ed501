"""Random paged batches for the kernels, and an allocator that notices a write beside a result.

Interpreted on a CPU, compiled on a GPU: the same tests. Expected values come from the naive oracle in float32.
"""

import os
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from minivllm.attention.metadata import AttentionMetadata, LayerKVCache
from minivllm.attention.naive import naive_attention

DEVICE = "cuda" if torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") != "1" else "cpu"
GUARD = 256  # elements before and behind every tensor that a wrapper allocates
CANARY = 7.0


@dataclass
class Batch:
    """Requests whose contexts lie in a paged cache that is NaN wherever nothing was written."""

    query: Tensor  # [T, H, D], a view into [T, H + 2 K, D], as the model hands it over
    cache: LayerKVCache
    metadata: AttentionMetadata
    scale: float

    @property
    def caches(self) -> tuple[Tensor, Tensor]:
        return self.cache.key, self.cache.value

    def oracle(self, **options) -> Tensor:
        """What the naive oracle says, in float32 on the CPU."""
        wide = LayerKVCache(*(tensor.float().cpu() for tensor in self.cache))
        meta = self.metadata
        on_cpu = {
            n: getattr(meta, n).cpu() for n in ("slot_mapping", "query_start_loc", "seq_lens", "block_tables")
        }
        numbers = {n: getattr(meta, n) for n in ("max_query_len", "max_seq_len", "block_size")}
        query = self.query.float().cpu()
        return naive_attention(
            query, wide, AttentionMetadata(**on_cpu, **numbers), scale=self.scale, **options
        )

    def check(self, got: Tensor, **options) -> None:
        """Compare with the oracle, within the rounding of the type."""
        assert got.dtype == self.query.dtype and got.shape == self.query.shape
        expected = self.oracle(**options)
        if got.dtype == torch.float32:
            torch.testing.assert_close(got.cpu(), expected, atol=5e-6, rtol=2e-5)
            return
        error = (got.float().cpu() - expected).abs().max()
        assert error <= 4 * torch.finfo(got.dtype).eps * expected.abs().max()


def make_batch(
    lens,
    block_size=16,
    kv_heads=2,
    groups=2,
    head_size=64,
    dtype=torch.float32,
    seed=0,
    spare=2,
    cache_dtype=None,
) -> Batch:
    """lens: (new tokens, earlier tokens) of each request. Blocks are disjoint, in random order; 0 is never used.

    cache_dtype: None = dtype. The oracle reads what the cache holds, so the rounding to it is no error of the kernel.
    """
    generator = torch.Generator().manual_seed(seed)
    seq_lens = [new + old for new, old in lens]
    needed = [-(-n // block_size) for n in seq_lens]
    num_blocks = 1 + sum(needed) + spare
    order = (torch.randperm(num_blocks - 1, generator=generator) + 1).tolist()
    tables = [[order.pop() for _ in range(n)] for n in needed]
    shape = (num_blocks, block_size, kv_heads, head_size)
    cache = LayerKVCache(*(torch.full(shape, float("nan"), dtype=cache_dtype or dtype) for _ in range(2)))
    for table, seq_len in zip(tables, seq_lens, strict=True):
        slots = torch.tensor([table[p // block_size] * block_size + p % block_size for p in range(seq_len)])
        for tensor in cache:
            data = torch.randn(seq_len, kv_heads, head_size, generator=generator)
            tensor.flatten(0, 1)[slots] = data.to(dtype).to(tensor.dtype)
    query_lens = [new for new, _ in lens]
    heads = kv_heads * groups
    qkv = torch.randn(sum(query_lens), heads + 2 * kv_heads, head_size, generator=generator).to(DEVICE, dtype)
    metadata = AttentionMetadata.from_lists(query_lens, seq_lens, tables, block_size, DEVICE)
    cache = LayerKVCache(*(tensor.to(DEVICE) for tensor in cache))
    return Batch(qkv[:, :heads], cache, metadata, head_size**-0.5)


@contextmanager
def guarded():
    """Within it torch.empty and torch.zeros leave room around their result, and the end checks that it stayed."""
    made: list[tuple[Tensor, int]] = []

    def guard(fill):
        def allocate(*shape, dtype=None, device=None):
            size = torch.Size(shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape)
            whole = torch.full((size.numel() + 2 * GUARD,), CANARY, dtype=dtype, device=device)
            whole[GUARD : GUARD + size.numel()] = fill
            made.append((whole, size.numel()))
            return whole[GUARD : GUARD + size.numel()].view(size)

        return allocate

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "zeros", guard(0.0))
        patch.setattr(torch, "empty", guard(float("nan")))
        yield
    assert made, "nothing was allocated"
    for whole, size in made:
        assert (whole[:GUARD] == CANARY).all() and (whole[GUARD + size :] == CANARY).all()


@pytest.fixture(name="make_batch", scope="session")
def make_batch_fixture():
    return make_batch


@pytest.fixture(name="guarded", scope="session")
def guarded_fixture():
    return guarded


@pytest.fixture(scope="session")
def device():
    return DEVICE
