"""Somebody's parts in the real engine: right ones change no token, wrong ones are noticed from outside."""

from dataclasses import replace

import pytest
import torch

from minivllm import LLM, SamplingParams
from minivllm.core.step_checks import BrokenLawError
from minivllm.course.shadow_function import FunctionDifferenceError, shadowed_function
from minivllm.course.traces import TRACES
from minivllm.parts import PART_NAMES, REFERENCE, Parts, reference_of
from minivllm.sampling.sampler import greedy_pick
from minivllm.serve.trace import run_trace


@pytest.fixture(scope="module")
def reference_result():
    """chapter -> the result of its trace with the reference, run once."""
    results = {}

    def result(chapter):
        if chapter not in results:
            results[chapter] = run_trace(TRACES[chapter], REFERENCE)
        return results[chapter]

    return result


def test_every_part_is_called():
    """Counting copies of all parts at once: each is used by some trace, and the tokens do not change."""
    called = set()

    def counted(name):
        part = reference_of(name)

        def call(*arguments):
            called.add(name)
            return part(*arguments)

        return call

    parts = Parts(**{name: counted(name) for name in PART_NAMES})
    results = [run_trace(TRACES[chapter], parts) for chapter in (5, 10)]
    assert called == set(PART_NAMES)
    assert results == [run_trace(TRACES[chapter], REFERENCE) for chapter in (5, 10)]


@pytest.mark.parametrize("chapter", [5, 9])
def test_another_correct_allocator_serves_the_same_tokens(other, reference_result, chapter):
    mine = run_trace(TRACES[chapter], other(block_pool="StackPool"))
    assert mine.output_hash == reference_result(chapter).output_hash


def test_another_correct_pick_serves_the_same_tokens(other, reference_result):
    assert run_trace(TRACES[0], other(greedy_pick="greedy_twin")) == reference_result(0)


@pytest.mark.parametrize(
    ("part", "wrong", "says"),
    [
        ("shared_blocks", "no_shared_blocks", "about to write into block"),
        ("block_pool", "UncountedPool", "references, and block tables hold it"),
        ("block_pool", "LeakingPool", "the allocator counts"),
    ],
)
def test_a_broken_law_stops_the_engine(other, part, wrong, says):
    with pytest.raises(BrokenLawError, match=says):
        run_trace(TRACES[5], other(**{part: wrong}))


def test_a_wrong_slot_changes_the_tokens(other, reference_result):
    mine = run_trace(TRACES[4], other(slot_mapping="slot_without_offset"))
    assert mine.output_hash != reference_result(4).output_hash


def test_traces_meet_what_they_are_for(reference_result):
    assert reference_result(5).num_preemptions > 0
    assert reference_result(9).num_cached_tokens > 0


def test_greedy_pick_takes_the_lowest_id_among_equals():
    logits = torch.tensor([[1.0, 3.0, 3.0, 2.0], [0.0, 0.0, 0.0, 0.0], [-1.0, -2.0, -3.0, -0.5]])
    assert greedy_pick(logits).tolist() == [1, 0, 3]


def test_the_shadow_of_a_function_writes_a_small_test(other, tmp_path):
    reports = []
    file = tmp_path / "test_shadow.py"
    parts = other(greedy_pick="greedy_last")
    pick = shadowed_function("greedy_pick", parts.greedy_pick, file, reports.append)
    assert pick(torch.eye(3)).tolist() == [0, 1, 2]
    logits = torch.zeros(3, 100)
    logits[:, 7] = 1
    logits[1, 60] = 1
    with pytest.raises(FunctionDifferenceError):
        pick(logits)
    assert "[[1.0, 1.0]]" in reports[0]
    assert "torch.tensor([[1.0, 1.0]], dtype=torch.float32)" in file.read_text(encoding="utf-8")


def test_the_shadow_of_a_function_in_the_engine(other, tmp_path):
    mine = other(greedy_pick="greedy_twin")
    pick = shadowed_function("greedy_pick", mine.greedy_pick, tmp_path / "test_shadow.py")
    llm = LLM("tutor", parts=replace(mine, greedy_pick=pick), num_gpu_blocks_override=20, max_model_len=64)
    (output,) = llm.generate("What is", SamplingParams(temperature=0, max_tokens=3), use_tqdm=False)
    assert len(output.outputs[0].token_ids) == 3
