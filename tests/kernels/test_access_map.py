"""The access map against the real kernels: a slot is poisoned, and exactly the programs that read it turn NaN."""

from xml.etree import ElementTree

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minivllm.kernels._triton import HAS_TRITON
from minivllm.viz.access_map import Batch, access_stepper

triton_only = pytest.mark.skipif(not HAS_TRITON, reason="Triton has no wheel for this system")
BATCH = Batch([[5, 2, 4], [1, 3]], [7, 4], block_size=3, num_blocks=6)


def run(name, caches):
    """One kernel over BATCH's tables -> [R, 1, D]."""
    device, scale = caches[0].device, 0.5
    tables = torch.tensor([[5, 2, 4], [1, 3, 0]], dtype=torch.int32, device=device)
    seq_lens = torch.tensor(BATCH.seq_lens, dtype=torch.int32, device=device)
    arguments = torch.ones(2, 1, 4, device=device), *caches, tables, seq_lens
    if name == "course":
        from minivllm.course.extra.ch07_decode import decode

        out = torch.empty(2, 1, 4, device=device)
        decode(out, *arguments, scale)
        return out
    if name == "package":
        from minivllm.kernels.paged_attention import paged_attention_triton

        return paged_attention_triton(*arguments, scale=scale)
    from minivllm.kernels.paged_attention_split_kv import paged_attention_split_kv_triton

    return paged_attention_split_kv_triton(*arguments, num_splits=2, scale=scale)


@triton_only
@pytest.mark.parametrize(
    ("name", "which"), [("course", 0), ("course", 1), ("package", 1), ("split", 1)], ids=str
)  # which: keys or values
def test_the_kernels_read_the_slots_of_the_map_and_no_others(device, name, which):
    for slot in range(BATCH.num_blocks * BATCH.block_size):
        shape = (BATCH.num_blocks, BATCH.block_size, 1, 4)
        caches = [torch.zeros(shape, device=device) for _ in range(2)]
        caches[which].flatten(0, 1)[slot] = torch.nan
        found = run(name, caches).isnan().any(-1)
        for request, head in BATCH.programs:
            assert bool(found[request, head]) == (slot in BATCH.slots_of((request, head))), (slot, request)


@given(st.lists(st.integers(1, 20), min_size=1, max_size=3), st.integers(1, 5), st.sampled_from([1, 2, 4]))
def test_the_pieces_of_a_context_share_it_out(lens, block_size, splits):
    ids = iter(range(1, 99))
    tables = [[next(ids) for _ in range(-(-length // block_size))] for length in lens]
    whole = Batch(tables, lens, block_size, 99)
    cut = Batch(tables, lens, block_size, 99, num_splits=splits)
    for r, length in enumerate(lens):
        pieces = [cut.slots_of((r, 0, s) if splits > 1 else (r, 0)) for s in range(splits)]
        assert sum(map(len, pieces)) == length and set().union(*pieces) == whole.slots_of((r, 0))
        assert {cut.content()[slot][1:] for slot in set().union(*pieces)} == set(map(str, range(length)))


def test_every_frame_is_well_formed_and_described():
    stepper = access_stepper(BATCH)
    assert len(stepper.frames) == 4
    for frame in stepper.frames:
        ElementTree.fromstring(frame.drawing.to_svg())
    first, last = stepper.frames[0], stepper.frames[2]
    assert "program (0, 0) loads block 5 with 1 of 4 lanes masked" in first.drawing.alt
    assert "program (0, 0)  block  4  slots 12 x x x" in last.drawing.text
    assert (
        stepper.frames[2].caption == "Round 2: 1 of 2 programs load a block; 3 of their 4 lanes are masked."
    )
    assert "every program has ended" in stepper.frames[3].drawing.alt
