"""Somebody's parts in the real engine: right ones change no token, wrong ones are noticed from outside."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from minivllm import LLM, SamplingParams
from minivllm.core.step_checks import BrokenLawError
from minivllm.course.lockstep import DifferenceError
from minivllm.course.shadow import shadowed
from minivllm.course.shadow_function import FunctionDifferenceError, shadowed_function
from minivllm.course.traces import TRACES
from minivllm.parts import PART_NAMES, REFERENCE, Parts, reference_of
from minivllm.sampling.sampler import greedy_pick
from minivllm.serve.trace import compared_with, run_trace


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
    results = [run_trace(TRACES[chapter], parts) for chapter in (5, 10, 12)]
    assert called == set(PART_NAMES)
    assert results == [run_trace(TRACES[chapter], compared_with(parts, chapter)) for chapter in (5, 10, 12)]


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


def test_a_proposer_that_is_never_right_changes_no_token_that_is_not_drawn(other, reference_result):
    """Drafts may be anything. What is drawn by chance is another sample then, from the same distribution."""
    mine = run_trace(TRACES[12], other(look_up="look_up_nonsense"))
    theirs = reference_result(12)
    assert mine.output_hash != theirs.output_hash  # of the sampled ones
    greedy = replace(TRACES[12], rounds=[TRACES[12].rounds[0]])
    assert run_trace(greedy, other(look_up="look_up_nonsense")) == run_trace(greedy, REFERENCE)


def test_a_table_that_is_not_trimmed_is_noticed(other, tmp_path):
    reports = []
    parts = shadowed(other(trim_table="trim_nothing"), tmp_path / "test_shadow.py", reports.append)
    with pytest.raises(DifferenceError):
        run_trace(TRACES[12], parts)
    assert "your trim_table decided otherwise" in " ".join(reports[0].split())
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path / "test_shadow.py")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1 and "DifferenceError" in done.stdout


def test_the_reference_in_the_shadow_never_differs_when_it_verifies_drafts(tmp_path, reference_result):
    parts = shadowed(Parts(trim_table=reference_of("trim_table")), tmp_path / "test_shadow.py")
    assert run_trace(TRACES[12], parts).output_hash == reference_result(12).output_hash


def test_the_shadow_of_the_rule_writes_one_row(other, tmp_path):
    reports, file = [], tmp_path / "test_shadow.py"
    mine = other(rejection_sample="always_accept").rejection_sample
    rule = shadowed_function("rejection_sample", mine, file, reports.append)
    p = torch.tensor([[0.5, 0.5, 0.0], [0.25, 0.0, 0.75]])
    q = torch.tensor([[0.5, 0.5, 0.0], [0.0, 1.0, 0.0]])
    with pytest.raises(FunctionDifferenceError):
        rule(p, q, torch.tensor([0, 1]), torch.tensor([0.5, 0.5], dtype=torch.float64))
    text = file.read_text(encoding="utf-8")
    assert "torch.tensor([1], dtype=torch.int64)" in text and "[False]" in reports[0]


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


def test_the_walk_over_blocks_serves_the_same_tokens(reference_result):
    mine = run_trace(TRACES[6], Parts(paged_attention=reference_of("paged_attention")))
    assert mine.output_hash == reference_result(6).output_hash


def test_attention_that_forgets_the_table_changes_the_tokens(other, reference_result):
    mine = run_trace(TRACES[6], other(paged_attention="attention_without_table"))
    assert mine.output_hash != reference_result(6).output_hash


def test_the_shadow_of_attention_writes_one_request_and_its_blocks(other, tmp_path):
    reports, file = [], tmp_path / "test_shadow.py"
    mine = other(paged_attention="attention_without_table").paged_attention
    attention = shadowed_function("paged_attention", mine, file, reports.append)
    cache = torch.arange(100 * 2 * 3.0).sin().view(100, 2, 1, 3)
    tables, starts = torch.tensor([[0, 1], [40, 7]]), torch.tensor([0, 1, 2])
    with pytest.raises(FunctionDifferenceError):
        attention(torch.ones(2, 1, 3), cache, cache, tables, torch.tensor([3, 3]), starts, 1.0)
    text = file.read_text(encoding="utf-8")
    assert "torch.tensor([[2, 1]], dtype=torch.int64)" in text and len(text) < 2500
