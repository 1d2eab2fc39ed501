"""The tape and the overlap: what is drawn and told is what the engine and the numbers say."""

from xml.etree import ElementTree

import pytest

from minivllm.core.kv_cache_manager import KVCacheManager
from minivllm.core.scheduler import Scheduler, SchedulerConfig
from minivllm.recorder import Recorder
from minivllm.request import Request
from minivllm.sampling_params import SamplingParams
from minivllm.viz.draft_tape import COLORS, rounds, tape_stepper
from minivllm.viz.overlap import draw_overlap
from minivllm.viz.palette import BLUE, GREEN, VERMILION


@pytest.fixture(scope="module")
def log():
    """3 tokens in blocks of 2; a step without drafts, one with the first of 4 right, one with both right."""
    manager = KVCacheManager(12, 2, enable_caching=False)
    scheduler = Scheduler(SchedulerConfig(max_model_len=20), manager)
    with Recorder(manager, scheduler) as log:
        request = Request("a", [1, 2, 3], SamplingParams(max_tokens=8, ignore_eos=True), max_tokens=8)
        scheduler.add_request(request)
        for drafts, said in ([], [4]), ([5, 6, 7, 8], [5, 9]), ([1, 2], [1, 2, 3]):
            scheduler.update_draft_token_ids({"a": drafts})
            scheduler.update_from_output(scheduler.schedule(), {"a": said})
    return log


def rectangles(drawing, color):
    tree = ElementTree.fromstring(drawing.to_svg())
    return [e for e in tree.iter() if e.tag.endswith("rect") and e.get("fill") == color]


def test_rounds_are_the_steps_of_the_engine(log):
    first, second, third = rounds(log, "a", [1, 2, 3])
    assert (first.drafts, first.said, first.given_back) == ((), (4,), ())
    assert second.known == (1, 2, 3, 4) and second.drafts == (5, 6, 7, 8) and second.said == (5, 9)
    assert second.num_kept == 1 and second.blocks == (1, 2, 3, 4) and second.given_back == (4,)
    assert third.known == (1, 2, 3, 4, 5, 9) and third.num_kept == 2 and third.given_back == ()


def test_frames_tell_what_is_drafted_and_what_comes_of_it(log):
    stepper = tape_stepper(log, "a", [1, 2, 3], str, "Tape")
    assert [frame.caption for frame in stepper.frames] == [
        "Step 1: no drafts, one token.",
        "Step 2: 4 tokens are drafted.",
        "Step 2: 1 of 4 drafts kept, 2 tokens said; block 4 given back.",
        "Step 3: 2 tokens are drafted.",
        "Step 3: 2 of 2 drafts kept, 3 tokens said.",
    ]
    drawing = stepper.frames[2].drawing
    assert drawing.text.splitlines() == [
        "text so far: ...2 3 4",
        "drafted:     [5]+ [6]x [7]- [8]-",
        "said:        [5] [9]",
        "blocks:      [1, 2, 3, 4], given back [4]",
    ]
    assert "So far 2 steps, 4 drafts, 1 kept, 3 tokens said." in drawing.alt
    void = [r for r in rectangles(drawing, COLORS["void"]) if float(r.get("width")) > 20]
    assert len(void) == 2
    assert "✗4" in drawing.to_svg()


def test_the_record_has_a_square_for_each_token(log):
    drawing = tape_stepper(log, "a", [1, 2, 3], str).frames[-1].drawing
    small = [r for color in ("own", "kept", "wrong") for r in rectangles(drawing, COLORS[color])]
    small = [r for r in small if r.get("width") == "12"]
    assert len(small) == 6 + 3  # tokens said, drafts in vain


def test_the_overlap_is_what_is_kept():
    p, q = [0.5, 0.3, 0.2], [0.1, 0.3, 0.6]
    drawing = draw_overlap(p, q, ["a", "b", "c"])
    assert "kept with probability 0.60" in drawing.alt
    heights = {
        color: sorted(float(r.get("height")) for r in rectangles(drawing, color) if r.get("width") != "14")
        for color in (GREEN, VERMILION, BLUE)
    }
    assert heights[GREEN] == [30, 60, 90] and heights[BLUE] == heights[VERMILION] == [120]
    assert drawing.text.splitlines()[2].split() == ["c", "model", "0.20", "drafter", "0.60", "kept", "0.20"]
