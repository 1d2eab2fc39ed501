"""Copying blocks: the Triton kernel and its torch twin against a plain Python copy, element by element."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from minivllm import ops
from minivllm.attention.metadata import LayerKVCache
from minivllm.kernels import _triton, copy_blocks

DEVICE = "cuda" if torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") != "1" else "cpu"
needs_triton = pytest.mark.skipif(not _triton.HAS_TRITON, reason="Triton has no wheel for this system")


@st.composite
def copies(draw: st.DrawFn) -> tuple[torch.Tensor, list[int], list[int]]:
    """A cache with a different number in every element, and disjoint source and target blocks."""
    num_blocks = draw(st.integers(2, 9))
    block_size, num_kv_heads = draw(st.sampled_from([1, 3, 16])), draw(st.integers(1, 3))
    shape = (num_blocks, block_size, num_kv_heads, draw(st.sampled_from([1, 5, 64])))
    order = draw(st.permutations(range(num_blocks)))
    num_targets = draw(st.integers(0, num_blocks - 1))
    dst, sources = order[:num_targets], order[num_targets:]
    src = [draw(st.sampled_from(sources)) for _ in dst]  # one block may be copied to several
    return torch.arange(math.prod(shape), dtype=torch.float32).reshape(shape), src, dst


def copied_in_python(cache: torch.Tensor, src: list[int], dst: list[int]) -> list:
    blocks = cache.tolist()
    for source, target in zip(src, dst, strict=True):
        blocks[target] = cache[source].tolist()
    return blocks


def check(copy, cache: torch.Tensor, src: list[int], dst: list[int]) -> None:
    on_device = cache.to(DEVICE)
    ids = [torch.tensor(x, dtype=torch.int64, device=DEVICE) for x in (src, dst)]
    copy(on_device, *ids)
    assert on_device.tolist() == copied_in_python(cache, src, dst)


@given(copies())
def test_torch_copies_what_python_copies(case):
    check(copy_blocks.copy_blocks_torch, *case)


@needs_triton
@settings(max_examples=25)  # the interpreter runs one program at a time
@given(copies())
def test_triton_copies_what_python_copies(case):
    check(copy_blocks.copy_blocks_triton, *case)


@needs_triton
@pytest.mark.parametrize("dtype", [torch.float32, torch.float8_e4m3fn], ids=str)
@settings(max_examples=15)
@given(
    pairs=st.lists(
        st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=4, unique_by=lambda p: p[1]
    )
)
@example(pairs=[(1, 2), (2, 3)])  # block 2 was freed and taken again
@example(pairs=[(1, 2), (1, 3)])
def test_the_backend_copies_in_every_layer_and_reads_all_sources_first(dtype, pairs):
    def cache(layer, which):
        numbers = torch.arange(6 * 2 * 1 * 4).view(6, 2, 1, 4) % 12 + 20 * layer + 40 * which
        return numbers.float().to(dtype).to(DEVICE)

    caches = [LayerKVCache(cache(layer, 0), cache(layer, 1)) for layer in range(2)]
    backend = ops.attention_backend("triton", DEVICE)
    backend.copy_blocks(caches, torch.tensor(pairs, device=DEVICE))
    for layer, tensors in enumerate(caches):
        for which, tensor in enumerate(tensors):
            before = cache(layer, which).float().cpu()
            expected = copied_in_python(before, *zip(*pairs, strict=True))
            assert tensor.float().tolist() == expected


@needs_triton
def test_a_block_larger_than_one_tile_arrives_whole():
    cache = torch.arange(3 * 16 * 2 * 64, dtype=torch.float32).reshape(3, 16, 2, 64)
    assert cache[0].numel() > copy_blocks.MAX_TILE
    check(copy_blocks.copy_blocks_triton, cache, [1], [2])


@needs_triton
@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2], ids=str
)
def test_every_bit_pattern_of_every_type_arrives(dtype):
    """NaN and infinity included: a copy rounds nothing."""
    patterns = torch.arange(2 * 8192, dtype=torch.int32).to(torch.uint8).view(dtype)
    cache = patterns.reshape(4, 2, 2, -1).clone().to(DEVICE)
    copy_blocks.copy_blocks_triton(cache, *torch.tensor([[1, 2], [0, 3]], device=DEVICE))
    copied = cache.view(torch.uint8).cpu()
    assert torch.equal(copied, patterns.view(torch.uint8).reshape(copied.shape)[[1, 1, 2, 2]])


@needs_triton
def test_a_cache_with_holes_is_refused():
    holes = torch.zeros(4, 2, 2, 6, device=DEVICE)[..., ::2]
    ids = torch.tensor([1], device=DEVICE)
    with pytest.raises(ValueError, match="contiguous"):
        copy_blocks.copy_blocks_triton(holes, ids, ids + 1)


@pytest.mark.parametrize(
    ("name", "said"), [("HAS_TRITON", "not installed"), ("INTERPRETED", "on a CUDA device")]
)
def test_where_a_kernel_cannot_run_the_sentence_names_the_way_out(monkeypatch, name, said):
    monkeypatch.setattr(_triton, name, False)
    ids = torch.tensor([1])
    with pytest.raises(RuntimeError, match=f"{said}.*use the torch path"):
        copy_blocks.copy_blocks_triton(torch.zeros(4, 1, 1, 1), ids, ids + 1)


def test_the_kernels_can_be_imported_where_triton_has_no_wheel():
    """In a fresh process in which Triton cannot be found: every module loads, and the torch twin works."""
    names = [path.stem for path in Path(copy_blocks.__file__).parent.glob("*.py")]
    program = (
        "import sys; sys.modules['triton'] = None; import importlib, torch\n"
        f"for name in {names!r}: importlib.import_module('minivllm.kernels.' + name)\n"
        "from minivllm import ops\n"
        "print(sys.modules['minivllm.kernels._triton'].HAS_TRITON)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout == "False\n", done.stderr
    assert len(names) > 5
