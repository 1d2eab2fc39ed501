"""The scaling plan: its arithmetic against numbers worked out by hand, and the book's table against the program."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from minivllm.parallel.scaling import H100, MODELS, Machine, Shape, estimate, table

BOOK = Path(__file__).parents[2] / "book" / "parallelism.md"
BEGIN, END = "<!-- scaling plan -->\n", "\n<!-- end of the plan -->"
# Every quantity is a round number: 2 layers x 10 x (4 x 1 x 2 + 3 x 4) + 2 x 10 x 10 = 600 weights of 2 bytes.
TINY = Shape(2, 10, 4, 2, 2, 1, 10)
SLOW = Machine(
    memory=10_000,
    memory_bandwidth=100,
    operations=1e9,
    link=20,
    network=10,
    link_latency=0.5,
    network_latency=1,
    gpus_per_node=2,
    usable_memory=1,
)


def test_one_gpu_reads_weights_and_cache():
    one = estimate(TINY, SLOW, 1, 1, batch=2, context=5)
    assert TINY.num_params == 600 and TINY.kv_bytes_per_token == 16
    assert one.weight_bytes == 1200 and one.room_for_tokens == (10_000 - 1200) // 16
    assert one.token_seconds == pytest.approx((1200 + 2 * 5 * 16) / 100)
    assert one.tokens_per_second == pytest.approx(2 / one.token_seconds)
    assert one.communication_share == 0


def test_two_tensor_ranks_read_half_and_sum_twice_a_layer():
    one = estimate(TINY, SLOW, 2, 1, batch=2, context=5)
    sums = 2 * 2 * (0.5 + 2 * 1 / 2 * 2 * 10 * 2 / 20)
    assert one.token_seconds == pytest.approx((600 + 80) / 100 + sums)
    assert one.communication_share == pytest.approx(sums / one.token_seconds)


def test_two_stages_read_half_each_and_a_token_passes_both():
    one = estimate(TINY, SLOW, 1, 2, batch=2, context=5)
    stage = (600 + 80) / 100 + 1 + 2 * 10 * 2 / 10
    assert one.token_seconds == pytest.approx(2 * stage)
    assert one.tokens_per_second == pytest.approx(2 / stage)


def test_beyond_the_node_sums_take_the_network_and_kv_heads_are_repeated():
    inside = estimate(TINY, replace(SLOW, gpus_per_node=4), 4, 1, batch=2, context=5)
    outside = estimate(TINY, SLOW, 4, 1, batch=2, context=5)
    assert outside.token_seconds - inside.token_seconds == pytest.approx(
        4 * (0.5 + 2 * 3 / 4 * 40 * (1 / 10 - 1 / 20))
    )
    assert outside.room_for_tokens == (10_000 - 300) * 2 // 16  # two kv heads on four ranks


def test_a_large_batch_is_bound_by_operations():
    one = estimate(TINY, replace(SLOW, operations=10), 1, 1, batch=1000, context=0)
    assert one.token_seconds == pytest.approx(2 * 600 * 1000 / 10)


def test_the_shapes_have_the_published_numbers_of_weights():
    assert [round(shape.num_params / 1e9, 1) for shape in MODELS.values()] == [8.0, 70.6, 405.8]


def test_the_book_shows_what_the_program_prints():
    text = BOOK.read_text(encoding="utf-8")
    assert text[text.index(BEGIN) + len(BEGIN) : text.index(END)] == table()


def test_what_the_book_reads_in_the_table():
    def of(model, tensor, pipeline=1):
        return estimate(MODELS[model], H100, tensor, pipeline, 64, 2048)

    assert 8 * of("8B", 1).tokens_per_second > of("8B", 8).tokens_per_second
    assert of("8B", 8).token_seconds < of("8B", 1).token_seconds
    assert of("70B", 8).token_seconds < min(of("70B", 4).token_seconds, of("70B", 2, 4).token_seconds)
    assert of("70B", 2, 4).tokens_per_second > of("70B", 8).tokens_per_second
    assert of("405B", 16).communication_share > 0.5 > of("405B", 8, 2).communication_share
