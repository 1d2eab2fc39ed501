"""Rounding in groups, and the words of the checkpoint."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minivllm.quantization.packing import (
    dequantize,
    pack,
    pack_checkpoint,
    quantize_groups,
    unpack,
    unpack_checkpoint,
)

NIBBLE_OF_OUTPUT = {
    0: 0,
    1: 4,
    2: 1,
    3: 5,
    4: 2,
    5: 6,
    6: 3,
    7: 7,
}  # AutoAWQ's "gemm": nibble i holds output [0, 2, 4, 6, 1, 3, 5, 7][i]

shapes = {
    "groups": st.integers(1, 3),
    "group_size": st.sampled_from([32, 64, 128]),
    "words": st.integers(1, 4),
    "size": st.sampled_from([1e-3, 0.05, 3.0]),
    "seed": st.integers(0, 2**16),
}


def random_weight(groups, group_size, words, size, seed):
    return torch.randn(8 * words, groups * group_size, generator=torch.Generator().manual_seed(seed)) * size


@given(st.lists(st.integers(0, 15), min_size=8, max_size=8))
def test_every_output_lies_in_its_nibble(numbers):
    word = int(pack(torch.tensor([numbers]))[0, 0]) & 0xFFFFFFFF
    assert [(word >> 4 * NIBBLE_OF_OUTPUT[output]) & 15 for output in range(8)] == numbers


@settings(max_examples=30)
@given(st.integers(1, 4), st.integers(1, 5), st.integers(0, 2**16))
def test_unpacking_undoes_packing(rows, words, seed):
    numbers = torch.randint(16, (rows, 8 * words), generator=torch.Generator().manual_seed(seed))
    packed = pack(numbers)
    assert packed.dtype == torch.int32 and packed.shape == (rows, words)
    assert torch.equal(unpack(packed), numbers.int())


@given(st.sampled_from([2, 3, 5, 8]), st.integers(0, 2**16))
def test_other_numbers_of_bits_round_to_their_own_grid(bits, seed):
    """Each weight's nearest number among all that its group can stand for, found by trying them all."""
    weight = random_weight(2, 32, 1, 0.3, seed)
    quantized = quantize_groups(weight, 32, bits)
    assert quantized.q.min() >= 0 and quantized.q.max() <= 2**bits - 1
    got = dequantize(quantized)
    for group in range(2):
        scale, zero = quantized.scales[group].double(), quantized.zeros[group].double()
        grid = (torch.arange(2**bits) - zero[:, None]) * scale[:, None]  # [out, numbers]
        part = slice(32 * group, 32 * group + 32)
        nearest = (grid[:, None] - weight[:, part, None].double()).abs().amin(-1)
        error = (got[:, part].double() - weight[:, part].double()).abs()
        assert (error <= nearest + 1e-6).all()


@settings(max_examples=30)
@given(**shapes)
def test_a_weight_moves_by_at_most_half_a_step(groups, group_size, words, size, seed):
    weight = random_weight(groups, group_size, words, size, seed)
    quantized = quantize_groups(weight, group_size)
    assert quantized.q.min() >= 0 and quantized.q.max() <= 15
    assert quantized.zeros.min() >= 0 and quantized.zeros.max() <= 15
    steps = quantized.scales.float().repeat_interleave(group_size, 0).T  # [out, in]
    # At the ends of the range the rounding of the zero point and of the scale adds up to half a step more.
    assert ((dequantize(quantized) - weight).abs() <= steps * 1.02).all()
    inside = (quantized.q > 0) & (quantized.q < 15)
    error = (dequantize(quantized) - weight).abs().T
    assert (error[inside] <= steps.T[inside] * 0.501).all()


@settings(max_examples=20)
@given(**shapes)
def test_packed_and_unpacked_again_it_is_bit_equal_to_the_formula(groups, group_size, words, size, seed):
    quantized = quantize_groups(random_weight(groups, group_size, words, size, seed), group_size)
    tensors = pack_checkpoint(quantized)
    assert {n: t.dtype for n, t in tensors.items()} == {
        "qweight": torch.int32,
        "qzeros": torch.int32,
        "scales": torch.float16,
    }
    numbers = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    num_in, num_out = groups * group_size, 8 * words
    assert numbers == num_in * num_out // 2 + groups * num_out * (2 + 0.5)
    q, zeros, scales = quantized
    group = torch.arange(num_in) // group_size
    formula = (q - zeros[group]).half() * scales[group]
    assert torch.equal(unpack_checkpoint(tensors), formula.T)


def test_zero_stays_zero_and_a_group_of_one_sign_is_no_trap():
    weight = torch.full((8, 64), 0.5)  # in the second group every weight is the same
    weight[:, 0] = 0.0
    weight[1] = -weight[1]
    weight[2] = 0.0
    got = dequantize(quantize_groups(weight, 32))
    torch.testing.assert_close(got, weight, atol=1e-3, rtol=1e-3)
    assert (got[weight == 0] == 0).all()


@pytest.mark.parametrize("group_size", [32, 64])
def test_smaller_groups_err_less(group_size):
    weight = random_weight(4, 128, 2, 1.0, 0)
    errors = [
        (dequantize(quantize_groups(weight, size)) - weight).square().mean() for size in (group_size, 128)
    ]
    assert errors[0] < errors[1]
