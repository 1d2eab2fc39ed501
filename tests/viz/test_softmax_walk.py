"""The picture of the online softmax: its numbers are those of a softmax over all scores at once."""

import math
from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st

from minivllm.viz.softmax_walk import Walk, draw_walk, walk_stepper


@given(st.lists(st.floats(-20, 20), min_size=1, max_size=11), st.integers(1, 4), st.randoms())
def test_the_weights_are_the_softmax_up_to_their_total(scores, block_size, random):
    order = list(range(-(-len(scores) // block_size)))
    random.shuffle(order)
    walk = Walk(scores, [b + 5 for b in order], block_size, order)
    true = sum(math.exp(score) for score in scores)
    for position, score in enumerate(scores):
        assert math.isclose(walk.weights[position] / walk.total, math.exp(score) / true, rel_tol=1e-9)
    assert max(walk.weights.values()) == 1


def test_a_higher_score_shrinks_what_came_before():
    scores = [1.0, 0.0, 3.0]
    before, after = Walk(scores, [7, 4], 2, [0]), Walk(scores, [7, 4], 2, [0, 1])
    assert math.isclose(after.rescale, math.exp(-2))
    for position in (0, 1):
        assert math.isclose(after.weights[position], before.weights[position] * after.rescale)
    assert "multiplied by 0.135" in after.tell() and "block 4" in after.tell()
    assert "the old sums stay" in Walk(scores, [7, 4], 2, [1, 0]).tell()


def test_every_frame_is_well_formed_and_described():
    stepper = walk_stepper([1.0, 2.0, -3.0, 0.5, 4.0], block_ids=[7, 3, 9], block_size=2)
    assert len(stepper.frames) == 4
    for frame in stepper.frames:
        ElementTree.fromstring(frame.drawing.to_svg())
        assert "5 scores in blocks [7, 3, 9]" in frame.drawing.alt and frame.caption.endswith(".")
    assert len({(f.drawing.width, f.drawing.height) for f in stepper.frames}) == 1
    assert draw_walk(Walk([1.0], [3], 2)).text.startswith("  block  3  scores   1.0  weights     -")
