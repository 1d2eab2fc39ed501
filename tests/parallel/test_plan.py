"""Dividing a model, on paper: ranges of layers, places of ranks, and what does not divide."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minivllm import zoo
from minivllm.config import EngineConfig
from minivllm.model_config import ModelConfig
from minivllm.parallel.plan import Plan, check_plan, layer_ranges

TUTOR = ModelConfig.from_pretrained(zoo.path("tutor"))
MODEL = replace(
    TUTOR,
    path=Path("unused"),
    num_attention_heads=12,
    num_key_value_heads=4,
    intermediate_size=96,
    num_hidden_layers=3,
    layer_windows=(None,) * 3,
)


@given(num_layers=st.integers(1, 200), num_stages=st.integers(1, 40))
def test_stages_hold_all_layers_in_order_and_as_evenly_as_can_be(num_layers, num_stages):
    if num_layers < num_stages:
        with pytest.raises(
            ValueError, match=r"pipeline_parallel_size \(\d+\) must be at most the model's number"
        ):
            layer_ranges(num_layers, num_stages)
        return
    ranges = layer_ranges(num_layers, num_stages)
    assert [layer for stage in ranges for layer in stage] == list(range(num_layers))
    sizes = [len(stage) for stage in ranges]
    assert len(sizes) == num_stages and max(sizes) - min(sizes) <= 1
    assert sizes[-1] == min(sizes)  # the last stage also has the output head


@pytest.mark.parametrize(
    ("num_layers", "num_stages", "sizes"),
    [(7, 4, [2, 2, 2, 1]), (6, 4, [1, 2, 2, 1]), (5, 2, [3, 2]), (11, 4, [3, 3, 3, 2]), (8, 3, [3, 3, 2])],
)
def test_what_is_left_over_goes_to_the_later_of_the_stages_before_the_last(num_layers, num_stages, sizes):
    assert [len(stage) for stage in layer_ranges(num_layers, num_stages)] == sizes


@given(tensor=st.integers(1, 8), pipeline=st.integers(1, 8))
def test_every_rank_has_one_place(tensor, pipeline):
    plan = Plan(tensor, pipeline)
    places = {plan.place(rank) for rank in range(plan.world_size)}
    assert places == {(stage, place) for stage in range(pipeline) for place in range(tensor)}
    assert plan.place(plan.output_rank) == (pipeline - 1, 0)
    for stage, group in enumerate(plan.tensor_groups()):
        assert [plan.place(rank) for rank in group] == [(stage, place) for place in range(tensor)]


@pytest.mark.parametrize(
    ("plan", "sentence"),
    [
        (
            Plan(8),
            r"tensor_parallel_size \(8\) must divide the model's num_attention_heads \(12\); it can be 1, 2, 4, 12$",
        ),
        (
            Plan(3),
            r"tensor_parallel_size \(3\) must divide the model's num_key_value_heads \(4\) or be a multiple of it",
        ),
        (Plan(1, 4), r"pipeline_parallel_size \(4\) must be at most the model's number of layers \(3\)"),
    ],
)
def test_what_does_not_divide_is_a_sentence(plan, sentence):
    with pytest.raises(ValueError, match=sentence) as caught:
        check_plan(plan, MODEL)
    assert "\n" not in str(caught.value)


def test_an_inner_size_that_does_not_divide():
    with pytest.raises(
        ValueError, match=r"must divide the model's intermediate_size \(90\); it can be 1, 2$"
    ):
        check_plan(Plan(4), replace(MODEL, intermediate_size=90))


@pytest.mark.parametrize("sizes", [(1, 1), (2, 3), (4, 1), (12, 2)])
def test_what_divides_passes(sizes):
    check_plan(Plan(*sizes), MODEL)


def test_one_process_cannot_be_several():
    with pytest.raises(ValueError, match="distributed_executor_backend 'uni' is one process"):
        EngineConfig(tensor_parallel_size=2, distributed_executor_backend="uni")
    assert EngineConfig().executor_backend == "uni"
    assert EngineConfig(pipeline_parallel_size=2).executor_backend == "mp"
    assert EngineConfig(distributed_executor_backend="mp").executor_backend == "mp"
