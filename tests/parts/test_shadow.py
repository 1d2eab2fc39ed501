"""Lockstep without a model: the reference never differs from itself, wrong parts do, and the exported test says so."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minivllm.core.scheduler import SchedulerConfig
from minivllm.course.history import History
from minivllm.course.lockstep import DifferenceError, Sizes
from minivllm.course.shadow import shadowed
from minivllm.course.shrink import shrink
from minivllm.parts import REFERENCE
from minivllm.request import Request, RequestStatus
from minivllm.sampling_params import SamplingParams

ROOT = Path(__file__).resolve().parents[2]
WRONG = {
    "block_pool": ("LeakingPool", "UncountedPool", "ImpatientPool", "RaisingPool"),
    "shared_blocks": ("no_shared_blocks", "shared_blocks_without_the_first"),
    "fork_table": ("fork_full_blocks_only", "fork_without_touch"),
    "copy_on_write": ("copy_and_keep",),
    "hash_block_tokens": ("hash_without_parent",),
    "find_longest_cache_hit": ("hit_with_gaps",),
}
SIZES = Sizes(24, 4)
ALL_WRONG = [(part, name) for part, names in WRONG.items() for name in names]


def drive(scheduler, waves, num_choices=2, aborted=(), max_steps=300):
    """Serve waves of prompts; the answers are a function of the request's tokens. Returns the finished outputs."""
    outputs, waves = {}, list(waves)
    for step_number in range(max_steps):
        if waves and step_number % 5 == 0:
            prompt = waves.pop(0)
            params = SamplingParams(max_tokens=6)
            group = []
            for index in range(num_choices):
                name = f"{len(waves)}-{index}"
                request = Request(name, prompt, params, max_tokens=6, fork_from=group[0] if group else None)
                group.append(request)
                outputs[name] = request.output_token_ids
            scheduler.add_requests(group)
        if step_number in aborted:
            running = [request.request_id for request in scheduler.running[:1]]
            scheduler.finish_requests(running, RequestStatus.FINISHED_ABORTED)
        step = scheduler.schedule()
        sampled = {}
        for name, count in step.num_scheduled_tokens.items():
            request = scheduler.requests[name]
            if step.num_computed_tokens[name] + count == request.num_tokens:
                sampled[name] = [(sum(request.all_token_ids) * 7 + int(name[-1])) % 5]
        scheduler.update_from_output(step, sampled)
        if not waves and not scheduler.has_unfinished_requests():
            return outputs
    raise AssertionError("no progress")


def shadow_of(parts, file, tell, sizes=SIZES, **config):
    return sizes.build(SchedulerConfig(max_model_len=60, **config), shadowed(parts, file, tell))


WAVES = [
    [1, 2, 3, 4, 5, 6],
    [9, 2, 3, 4, 5, 6],
    [1, 2, 3, 4, 9, 9, 9],
    [5, 6, 7],
    [8, 8, 8, 8, 5, 6, 7, 8, 1],
    [5, 6, 7, 8, 3],  # the same block as before, after another prefix
    [1, 2, 3, 4, 5],
]


@pytest.fixture(scope="module")
def reported(other, tmp_path_factory):
    """(part, name) of a wrong part -> its report, and the test that was written; each part is run once."""
    folder = tmp_path_factory.mktemp("shadow")
    found = {}
    for part, name in ALL_WRONG:
        reports, file = [], folder / f"test_{name}.py"
        scheduler = shadow_of(other(**{part: name}), file, reports.append)
        with pytest.raises(DifferenceError):
            drive(scheduler, WAVES, num_choices=3)
        (report,) = reports
        found[part, name] = report, file
    return found


@pytest.mark.parametrize(("part", "name"), ALL_WRONG)
def test_a_wrong_part_is_caught(reported, part, name):
    report, file = reported[part, name]
    assert f"your {part} decided otherwise" in report
    assert "Yours:" in report and "The reference:" in report and str(file) in report
    assert all(len(line) <= 80 for line in report.splitlines() if str(file) not in line)


def test_the_reports_say_what_is_wrong(reported):
    def says(part, name):
        return " ".join(reported[part, name][0].split())

    missing_copy = says("shared_blocks", "no_shared_blocks")
    assert "yours copies nothing before it writes; the reference copies block" in missing_copy
    assert "is about to write into block" in missing_copy
    kept = says("copy_on_write", "copy_and_keep")
    assert re.search(r"block \d+ has 2 references in yours; in the reference the same block", kept)
    assert re.search(r"yours has \d+ free blocks, the reference has \d+", says("block_pool", "LeakingPool"))
    assert "yours raises IndexError: pop from empty list (other_parts.py, line" in says(
        "block_pool", "RaisingPool"
    )


def test_the_exported_tests_are_red_and_green_with_the_reference(reported):
    """In a fresh process: red as they are, green once PARTS is empty."""
    wrong = (
        ("shared_blocks", "no_shared_blocks"),
        ("block_pool", "UncountedPool"),
        ("block_pool", "LeakingPool"),
    )
    red = [reported[one][1] for one in wrong]
    green = []
    for file in red:
        text = re.sub(r"PARTS = \{.*?\}\n", "PARTS = {}\n", file.read_text(encoding="utf-8"), flags=re.DOTALL)
        green.append(file.with_name(file.name.replace("test_", "test_green_")))
        green[-1].write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *map(str, [*red, *green])]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, check=False)
    assert f"{len(red)} failed, {len(green)} passed" in done.stdout, done.stdout[-3000:]
    assert not re.search(r"FAILED \S*test_green", done.stdout)


@pytest.mark.parametrize(("part", "name"), ALL_WRONG)
def test_the_exported_history_is_small(reported, part, name):
    text = reported[part, name][1].read_text(encoding="utf-8")
    assert text.count("'request_id'") <= 4


def test_a_part_that_is_right_but_different_is_left_alone(other, tmp_path):
    """Without a prefix cache the order of free blocks is nobody's business."""
    sizes = Sizes(24, 4, enable_caching=False)
    parts = other(block_pool="StackPool")
    mine = drive(shadow_of(parts, tmp_path / "t.py", pytest.fail, sizes), WAVES, num_choices=3)
    assert mine == drive(sizes.build(SchedulerConfig(max_model_len=60), REFERENCE), WAVES, num_choices=3)


@settings(max_examples=30)
@given(
    waves=st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=20), min_size=1, max_size=5),
    num_choices=st.integers(1, 3),
    num_blocks=st.integers(10, 30),
    block_size=st.integers(1, 5),
    budget=st.integers(4, 40),
    policy=st.sampled_from(["fcfs", "shortest-first"]),
    aborted=st.sets(st.integers(0, 12), max_size=3),
    swap=st.booleans(),
)
def test_the_reference_never_differs_from_itself(
    tmp_path_factory, waves, num_choices, num_blocks, block_size, budget, policy, aborted, swap
):
    sizes = Sizes(max(num_blocks, 28 // block_size + 2), block_size, num_swap_blocks=12 if swap else 0)
    config = {
        "max_num_batched_tokens": budget,
        "max_num_seqs": 4,
        "policy": policy,
        "preemption_mode": "swap" if swap else "recompute",
    }
    scheduler = shadow_of(REFERENCE, Path("unused.py"), pytest.fail, sizes, **config)
    with_shadow = drive(scheduler, waves, num_choices, aborted)
    assert scheduler._history.replay(REFERENCE) is None
    alone = drive(
        sizes.build(SchedulerConfig(max_model_len=60, **config), REFERENCE), waves, num_choices, aborted
    )
    assert with_shadow == alone


def test_a_replay_tells_the_same(other):
    """A history written by hand: a fork, a beam's token, an abort."""
    history = History(Sizes(12, 2), {"max_model_len": 20})
    child = {
        "request_id": "b",
        "prompt_token_ids": [1, 2, 3],
        "max_tokens": 4,
        "is_beam": True,
        "output_token_ids": [5],
    }
    for event in (
        ("add", [{"request_id": "a", "prompt_token_ids": [1, 2, 3], "max_tokens": 4, "is_beam": True}]),
        ("steps", 1),
        ("fork", "a", child),
        ("append", "a", 6),
        ("steps", 1),
        ("finish", ["a"], "FINISHED_ABORTED"),
        ("append", "b", 7),
        ("steps", 1),
    ):
        history.record(*event)
    assert history.replay(REFERENCE) is None
    difference = history.replay(other(shared_blocks="no_shared_blocks"))
    assert difference is not None and (difference.step, difference.kind) == (2, "copy")


def test_a_difference_after_the_last_step_survives_the_shrinking(other):
    """The leak shows when the request is aborted: what comes after the last step must not be cut off."""
    history = History(Sizes(12, 2), {"max_model_len": 20})
    history.record("add", [{"request_id": "x", "prompt_token_ids": [1, 2, 3, 4, 5], "max_tokens": 9}])
    history.record("steps", 1)
    history.record("finish", ["x"], "FINISHED_ABORTED")
    leaking = other(block_pool="LeakingPool")
    before, after = history.replay(leaking), shrink(history, leaking).replay(leaking)
    assert before is not None and after is not None
    assert before.kind == after.kind == "free"
