"""Grader of chapter 06: paged attention, online softmax.

The oracles: the contexts as they were drawn, softmax in float64 over all scores at once, and the naive attention of
minivllm/attention/naive.py, one token and head at a time.
"""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.overrides import TorchFunctionMode

from minivllm.course.extra.paged_case import picture
from minivllm.course.grading import compare

CASE = "from minivllm.course.extra.paged_case import PagedCase, is_close"
STATE = "from minivllm.attention.blockwise import NOTHING, SoftmaxState, new_state"
TORCH = "import torch"


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def lens_around(block_size):
    """Context lengths: often 1, B - 1, B, B + 1, where it goes wrong."""
    edges = [length for length in (1, block_size - 1, block_size, block_size + 1) if length]
    return st.sampled_from(edges) | st.integers(1, 13)


# -- 6.1 ---------------------------------------------------------------------------------------------------------------


@st.composite
def gathers(draw):
    block_size = draw(st.integers(1, 5))
    shape = {
        "block_size": block_size,
        "kv_heads": draw(st.integers(1, 3)),
        "head_size": draw(st.integers(1, 3)),
    }
    return draw(lens_around(block_size)), shape, draw(st.integers(0, 99))


def check_gather(impl, length, shape, seed):
    history = impl.history("gather_blocks", imports=[CASE])
    words = ", ".join(f"{name}={value}" for name, value in shape.items())
    history.run(f"case = PagedCase([(1, {length - 1})], {words}, seed={seed})")
    history.run("table = case.block_tables[0]")
    for line, law in (("", "place"), ("case = case.moved()", "moved")):
        if line:
            history.run(line)
            history.run("table = case.block_tables[0]")
        history.run(f"found = gather_blocks(case.key_cache, table, {length})")
        case = history.value("case")
        history.check(f"tuple(found.shape) == {tuple(case.keys[0].shape)}", "shape")
        history.check("is_close(found, case.keys[0])", law, lambda: rows_picture(history))
    return history


def rows_picture(history):
    """The first number of each position's key."""
    case, found = history.value("case"), history.value("found")
    first = [[f"{x:.2f}" for x in rows[:, 0, 0].tolist()] for rows in (case.keys[0], found)]
    rows = {"position": range(len(first[0])), "expected": first[0], "yours": first[1]}
    return f"block table {case.tables[0]}, the first number of each row\n{compare(rows)}"


@pytest.mark.exercise("6.1", "smoke")
def test_one_block(impl):
    check_gather(impl, 4, {"block_size": 4}, 0)


@pytest.mark.exercise("6.1", "examples")
@pytest.mark.parametrize("length", [3, 8, 10])
def test_worked_gathers(impl, length):
    history = check_gather(impl, length, {"block_size": 4, "kv_heads": 2, "head_size": 3}, length)
    print(f"{length} tokens in blocks of 4\n{rows_picture(history)}\n")


@pytest.mark.exercise("6.1", "properties")
@settings(max_examples=50)
@given(gathers())
def test_any_table(impl, case):
    check_gather(impl, *case)


@pytest.mark.exercise("6.1", "properties")
def test_entries_behind_the_context_mean_nothing(impl):
    history = impl.history("gather_blocks", imports=[TORCH, CASE])
    history.run("case = PagedCase([(1, 4)], block_size=4)")
    history.run("table = torch.cat([case.block_tables[0], torch.tensor([999, -7])])   # as in a wider batch")
    history.run("found = gather_blocks(case.key_cache, table, 5)")
    history.check("is_close(found, case.keys[0])", "place", lambda: rows_picture(history))


# -- 6.2 and 6.3 -------------------------------------------------------------------------------------------------------

HIDDEN = -torch.inf


@st.composite
def pieces(draw, min_pieces=1):
    """How 1 to 9 scores of 1 to 3 rows are cut, which of them a row may not see, and how large they are."""
    sizes = draw(st.lists(st.integers(1, 3), min_size=min_pieces, max_size=4))
    rows = draw(st.integers(1, 3))
    hidden = draw(st.lists(st.tuples(st.integers(0, rows - 1), st.integers(0, sum(sizes) - 1)), max_size=4))
    first = draw(st.booleans())  # the first piece is often hidden from a whole row
    if first:
        hidden += [(0, column) for column in range(sizes[0])]
    return sizes, rows, sorted(set(hidden)), draw(st.sampled_from([1, 1, 300])), draw(st.integers(0, 99))


def begin(impl, names, case):
    """A history that has scores [M, S], values [S, 2] and, from float64 and all at once, what they should give."""
    sizes, rows, hidden, large, seed = case
    history = impl.history(*names, imports=[TORCH, CASE, STATE])
    history.run(f"_ = torch.manual_seed({seed})")
    history.run(f"scores = {large} * torch.randn({rows}, {sum(sizes)})")
    history.run(f"values = torch.randn({sum(sizes)}, 2)")
    for row, column in hidden:
        history.run(f"scores[{row}, {column}] = NOTHING   # row {row} may not look at position {column}")
    return history


def truth(scores, values):
    """(highest, total, output) in float64."""
    scores, values = scores.double(), values.double()
    highest = scores.amax(-1)
    weights = torch.exp(scores - highest.clamp(min=-1e300)[:, None])
    total = weights.sum(-1)
    return highest, total, (weights @ values) / total.clamp(min=1e-300)[:, None]


def state_picture(history, upto):
    """What the rows should know after `upto` scores, and what they know."""
    state = history.value("state")
    highest, total, _ = truth(history.value("scores")[:, :upto], history.value("values")[:upto])
    lines = ["row   highest: expected   yours      total: expected   yours"]
    for row in range(len(highest)):
        lines.append(
            f"{row:<12}{highest[row]:13.3f} {state.highest[row]:7.3f}{total[row]:21.3f} {state.total[row]:7.3f}"
        )
    return "\n".join(lines)


def check_state(history, name, upto, law="fields"):
    """The state knows the first `upto` scores: its highest, and its total relative to that."""
    scores, values = history.value("scores")[:, :upto], history.value("values")[:upto]
    highest, total, _ = truth(scores, values)
    seen = [row for row in range(len(highest)) if highest[row] > HIDDEN]
    unseen = [row for row in range(len(highest)) if row not in seen]

    def drawn():
        return state_picture(history, upto)

    for row in unseen:
        history.check(f"{name}.highest[{row}].item() == NOTHING", "unseen", drawn)
        history.check(f"{name}.total[{row}].item() == 0", "unseen", drawn)
    for row in seen:
        what = f"{name}.highest[{row}].item(), {name}.total[{row}].item()"
        history.check(f"all(map(torch.isfinite, map(torch.tensor, ({what}))))", "large", drawn)
        wanted = [round(highest[row].item(), 4), round(total[row].item(), 4)]
        history.check(f"is_close(torch.tensor([{what}]), torch.tensor({wanted}), 1e-3)", law, drawn)


def check_output(history, scores, values):
    """`out` is softmax(scores) @ values; zeros for a row that saw nothing."""
    highest, _, out = truth(scores, values)
    for row in range(len(highest)):
        wanted = [round(x, 5) for x in out[row].tolist()]
        law = "output" if highest[row] > HIDDEN else "unseen"
        history.check(
            f"is_close(out[{row}], torch.tensor({wanted}), 1e-3)", law, lambda: out_picture(history, out)
        )


def out_picture(history, expected):
    found = history.value("out")
    return picture(found[:, None], expected[:, None])


def absorb_all(impl, case):
    """Absorb the pieces one after the other, with all checks after each."""
    history = begin(impl, ("absorb", "finish"), case)
    history.run("state = new_state(scores, 2)")
    start = 0
    for size in case[0]:
        piece = f"scores[:, {start}:{start + size}], values[{start}:{start + size}]"
        history.run("before = [field.clone() for field in state]")
        history.run(f"next_state = absorb(state, {piece})")
        history.check("all(map(torch.equal, state, before))", "pure")
        history.run("state = next_state")
        start += size
        check_state(history, "state", start)
    history.run("out = finish(state)")
    check_output(history, history.value("scores"), history.value("values"))
    return history


@pytest.mark.exercise("6.2", "smoke")
def test_one_piece(impl):
    history = absorb_all(impl, ([3], 1, [], 1, 0))
    history.check("tuple(out.shape) == (1, 2)", "output")


@pytest.mark.exercise("6.2", "examples")
@pytest.mark.parametrize("scores", [[1.0, 2.0, 5.0], [5.0, 2.0, 1.0], [90.0, 91.0, 200.0]])
def test_worked_scores(impl, scores):
    history = impl.history("absorb", "finish", imports=[TORCH, CASE, STATE])
    history.run(f"scores = torch.tensor([{scores}])")
    history.run("values = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])")
    history.run("state = new_state(scores, 2)")
    print(f"scores {scores}, one after the other")
    for i in range(3):
        history.run(f"state = absorb(state, scores[:, {i}:{i + 1}], values[{i}:{i + 1}])")
        check_state(history, "state", i + 1)
        print(f"{state_picture(history, i + 1)}\n")
    history.run("out = finish(state)")
    check_output(history, history.value("scores"), history.value("values"))


@pytest.mark.exercise("6.2", "examples")
def test_a_row_that_has_seen_nothing(impl):
    absorb_all(impl, ([2, 2], 2, [(0, 0), (0, 1), (0, 2), (0, 3)], 1, 1))


@pytest.mark.exercise("6.2", "properties")
@settings(max_examples=40)
@given(pieces())
@example(([1, 1], 1, [], 300, 4))
def test_any_pieces(impl, case):
    absorb_all(impl, case)


@pytest.mark.exercise("6.2", "properties")
@settings(max_examples=10)
@given(st.integers(1, 3), st.integers(0, 99))
def test_several_heads_at_once(impl, heads, seed):
    history = impl.history("absorb", "finish", imports=[TORCH, CASE, STATE])
    history.run(f"_ = torch.manual_seed({seed})")
    history.run(f"scores, values = torch.randn({heads}, 2, 5), torch.randn({heads}, 5, 3)")
    history.run("state = absorb(new_state(scores, 3), scores[..., :2], values[:, :2])")
    history.run("out = finish(absorb(state, scores[..., 2:], values[:, 2:]))")
    history.check("is_close(out, torch.softmax(scores, -1) @ values)", "output")


PARTIAL = """
def partial(scores, values):   # the state of rows that have seen these scores, computed all at once
    highest = scores.amax(-1)
    weights = torch.exp(scores - torch.where(highest == NOTHING, 0.0, highest)[:, None])
    return SoftmaxState(highest, weights.sum(-1), weights @ values)
""".strip()


def parts_of(impl, case):
    """A history with a state for each piece: part[0], part[1], ..."""
    history = begin(impl, ("merge",), case)
    history.run(PARTIAL)
    history.run("part = []")
    start = 0
    for size in case[0]:
        columns = f"{start}:{start + size}"
        history.run(f"part.append(partial(scores[:, {columns}], values[{columns}]))")
        start += size
    return history


def same(one, other):
    """An expression: two states are equal, infinities included, up to rounding."""
    return f"all(torch.allclose(a, b, rtol=1e-3, atol=1e-4, equal_nan=False) for a, b in zip({one}, {other}))"


def check_merge(impl, case):
    history = parts_of(impl, case)
    history.run("before = [field.clone() for one in part for field in one]")
    history.run("state = merge(part[0], part[1])")
    history.check("all(map(torch.equal, [field for one in part for field in one], before))", "pure")
    both = case[0][0] + case[0][1]
    history.run(f"whole = partial(scores[:, :{both}], values[:{both}])")

    def drawn():
        return state_picture(history, both)

    finite = "all(field.isfinite().all() for field in (state.total, state.acc))"
    hidden = bool((history.value("whole.highest") == HIDDEN).any())
    history.check(finite, "neutral" if hidden else "large", drawn)
    history.check(same("state", "whole"), "whole", drawn)
    history.check(same("merge(part[1], part[0])", "state"), "order", drawn)
    history.run("empty = new_state(scores, 2)")
    for line in ("merge(empty, empty)", "merge(part[0], empty)", "merge(empty, part[0])"):
        wanted = "empty" if "part" not in line else "part[0]"
        history.check(same(line, wanted), "neutral", drawn)
    if len(case[0]) > 2:
        one, other = "merge(merge(part[0], part[1]), part[2])", "merge(part[0], merge(part[1], part[2]))"
        history.check(same(one, other), "associative", drawn)
    return history, drawn


@pytest.mark.exercise("6.3", "smoke")
def test_two_parts(impl):
    check_merge(impl, ([2, 2], 1, [], 1, 0))


@pytest.mark.exercise("6.3", "examples")
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_worked_merges(impl, seed):
    _, drawn = check_merge(impl, ([2, 3, 1], 2, [(0, 0), (0, 1)], 1, seed))
    print(f"two parts of 2 and 3 scores; row 0 sees nothing of the first\n{drawn()}\n")


@pytest.mark.exercise("6.3", "properties")
@settings(max_examples=40)
@given(pieces(min_pieces=2))
@example(([1, 1, 1], 1, [], 300, 4))
def test_any_parts(impl, case):
    check_merge(impl, case)


# -- 6.4 ---------------------------------------------------------------------------------------------------------------


@st.composite
def batches(draw, max_requests=3):
    """(lens, shape) of a mixed batch: some bring one token, some their whole prompt, some a chunk."""
    block_size = draw(st.integers(1, 5))
    lens = []
    for _ in range(draw(st.integers(1, max_requests))):
        total = draw(lens_around(block_size))
        new = draw(st.sampled_from([1, total]) | st.integers(1, total))
        lens.append((new, total - new))
    shape = {"block_size": block_size, "kv_heads": draw(st.integers(1, 2)), "group": draw(st.integers(1, 3))}
    return lens, shape | {"seed": draw(st.integers(0, 99)), "large": draw(st.sampled_from([1.0, 1.0, 80.0]))}


def attend(impl, lens, shape):
    """Run the batch as it is, moved to other blocks, and with other rubbish in the unused slots."""
    history = impl.history("paged_attention", imports=[TORCH, CASE])
    words = "".join(f", {name}={value}" for name, value in shape.items())
    history.run(f"case = PagedCase({lens}{words})")
    expected = history.value("case.expected")

    def drawn():
        return picture(history.value("found"), expected)

    history.run("clean = case.without_nan()")
    history.run("found = paged_attention(*clean.arguments)")
    history.check(f"tuple(found.shape) == {tuple(expected.shape)}", "oracle")
    history.check("found.isfinite().all()", "large" if shape.get("large", 1) > 1 else "oracle", drawn)
    history.check("is_close(found, case.expected)", "oracle", drawn)
    history.run("found = paged_attention(*case.arguments)   # NaN in every slot without a token")
    history.check("is_close(found, case.expected)", "unused", drawn)
    history.run("found = paged_attention(*case.moved().arguments)")
    history.check("is_close(found, case.expected)", "moved", drawn)
    return drawn


@pytest.mark.exercise("6.4", "smoke")
def test_one_token(impl):
    attend(impl, [(1, 0)], {})


@pytest.mark.exercise("6.4", "examples")
@pytest.mark.parametrize(
    ("what", "lens", "shape"),
    [
        ("one token looks at five, in blocks of 4", [(1, 4)], {}),
        ("a prompt of five tokens at once", [(5, 0)], {"group": 2}),
        (
            "a decode, a chunk and a prompt in one batch",
            [(1, 6), (3, 2), (4, 0)],
            {"kv_heads": 2, "group": 3},
        ),
    ],
)
def test_worked_batches(impl, what, lens, shape):
    drawn = attend(impl, lens, shape)
    print(f"{what}\n{drawn()}\n")


@pytest.mark.exercise("6.4", "properties")
@settings(max_examples=40)
@given(batches())
def test_any_batch(impl, case):
    attend(impl, *case)


@pytest.mark.exercise("6.4", "properties")
def test_padding_behind_the_last_request(impl):
    history = impl.history("paged_attention", imports=[TORCH, CASE])
    history.run("case = PagedCase([(1, 3), (2, 0)])")
    history.run(
        "padded = torch.cat([case.query, torch.ones(2, *case.query.shape[1:])])   # two rows of nobody"
    )
    history.run("found = paged_attention(padded, *case.arguments[1:])")
    history.check("is_close(found[:3], case.expected)", "oracle")
    history.check("found[3:].tolist() == torch.zeros_like(found[3:]).tolist()", "padding")


class Largest(TorchFunctionMode):
    """Watches how many numbers a tensor holds that is made, not a view of what was there before."""

    def __init__(self, known):
        super().__init__()
        self.known = {tensor.untyped_storage().data_ptr() for tensor in known}
        self.largest = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().data_ptr() not in self.known:
                self.largest = max(self.largest, tensor.untyped_storage().nbytes() // tensor.element_size())
        return result


@pytest.mark.exercise("6.4", "budget")
def test_it_never_gathers(impl):
    history = impl.history("paged_attention", imports=[CASE])
    history.run("case = PagedCase([(1, 255)], block_size=4, head_size=8)")
    case = history.value("case")
    keys = case.keys[0].numel()
    known = [argument for argument in case.arguments if isinstance(argument, torch.Tensor)]
    with Largest(known) as watch:
        history.run("found = paged_attention(*case.arguments)")
    history.namespace["largest"] = watch.largest
    history.program.append(
        "# largest: counted while this ran, the numbers in the largest tensor that was made"
    )
    history.check(
        f"largest <= {keys // 4}",
        "small",
        f"A context of 256 tokens has keys of {keys:,} numbers; a tensor of {watch.largest:,} was made.",
    )
