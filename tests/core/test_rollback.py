"""Taking drafts back: the table is that of a run that never had them, and what others hold stays theirs."""

from hypothesis import given
from hypothesis import strategies as st

from minivllm.core.block_pool import BlockPool
from minivllm.core.block_table import BlockTable
from minivllm.core.rollback import num_rejected, trim_table


def test_a_step_says_what_it_keeps_and_one_token_more():
    assert [num_rejected(4, said) for said in (1, 2, 5)] == [4, 3, 0]


@given(st.integers(1, 4), st.integers(1, 20), st.integers(0, 12), st.booleans())
def test_only_the_blocks_of_tokens_that_count_stay(block_size, num_tokens, num_drafts, is_shared):
    pool, table = BlockPool(64, False), BlockTable(block_size)
    table.append(pool.get_new_blocks(table.num_blocks_missing(num_tokens + num_drafts)))
    if is_shared:
        pool.touch(table)
    before, num_free = list(table), pool.num_free_blocks
    table = trim_table(pool, table, num_tokens)
    needed = len({position // block_size for position in range(num_tokens)})
    assert list(table) == before[:needed] and table.block_size == block_size
    mine = 1 + is_shared
    assert [b.ref_cnt for b in before] == [mine] * needed + [mine - 1] * (len(before) - needed)
    assert pool.num_free_blocks == num_free + (0 if is_shared else len(before) - needed)
    if not is_shared and len(before) > needed:
        assert pool.get_new_blocks(1) == [before[-1]] or len(before) - needed > 1
