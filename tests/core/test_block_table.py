"""Logical position -> slot, with the worked examples that introductions to paging use."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minivllm.core.block import KVCacheBlock
from minivllm.core.block_table import BlockTable, cdiv


def table_of(block_ids, block_size):
    table = BlockTable(block_size)
    table.append([KVCacheBlock(i) for i in block_ids])
    return table


def test_85_tokens_take_six_blocks_of_16():
    assert cdiv(85, 16) == 6
    assert BlockTable(16).num_blocks_missing(85) == 6


def test_token_50_lies_in_the_fourth_block_at_offset_2():
    table = table_of([10, 15, 7, 22], 16)
    assert table.locate(50) == (22, 2)
    assert table.slot(50) == 22 * 16 + 2
    assert table.capacity == 64
    assert [table.num_blocks_missing(n) for n in (50, 64, 65, 80, 81)] == [0, 0, 1, 1, 2]


@given(st.integers(1, 9), st.permutations(range(1, 9)), st.data())
def test_slots_are_distinct_and_match_plain_arithmetic(block_size, block_ids, data):
    table = table_of(block_ids, block_size)
    n = data.draw(
        st.sampled_from([0, 1, block_size - 1, block_size, block_size + 1, len(block_ids) * block_size])
    )
    slots = [table.slot(p) for p in range(n)]
    assert slots == [block_ids[p // block_size] * block_size + p % block_size for p in range(n)]
    assert len(set(slots)) == n


def test_replace_returns_what_stood_there():
    table = table_of([3, 4], 2)
    assert table.replace(1, KVCacheBlock(9)).block_id == 4
    assert table.block_ids == [3, 9]


def test_a_position_beyond_the_table_is_an_error():
    with pytest.raises(IndexError):
        table_of([3], 2).slot(2)
