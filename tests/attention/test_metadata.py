import pytest

from minivllm.attention.metadata import AttentionMetadata


def test_slots_follow_the_block_table():
    metadata = AttentionMetadata.from_lists([3, 1], [6, 1], [[5, 2], [7]], block_size=4)
    assert metadata.slot_mapping.tolist() == [5 * 4 + 3, 2 * 4, 2 * 4 + 1, 7 * 4]
    assert metadata.query_start_loc.tolist() == [0, 3, 4]
    assert metadata.seq_lens.tolist() == [6, 1]
    assert metadata.block_tables.tolist() == [[5, 2], [7, 0]]
    assert (metadata.max_query_len, metadata.max_seq_len, metadata.block_size) == (3, 6, 4)
    assert metadata.plan is None


@pytest.mark.parametrize(
    ("query_lens", "seq_lens", "tables"),
    [([], [], []), ([1], [1, 2], [[1]]), ([3], [2], [[1]]), ([0], [2], [[1]]), ([1], [5], [[1]])],
)
def test_lists_that_make_no_batch_are_refused(query_lens, seq_lens, tables):
    with pytest.raises(ValueError, match="need"):
        AttentionMetadata.from_lists(query_lens, seq_lens, tables, block_size=4)
