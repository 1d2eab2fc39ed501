"""Grader of chapter 07: Triton PagedAttention.

The oracles are torch's own sums and the naive attention of minivllm/attention/naive.py. Inputs lie in the middle of NaN
and results in the middle of canaries, so a lane that should be masked is noticed whether it reads or writes.
"""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minivllm.course.grading import compare
from minivllm.course.triton_here import SETUP

TENSORS = (*SETUP, "import torch", "from minivllm.course.extra.guarded import empty, guarded, is_alive")
CASE = "from minivllm.course.extra.paged_case import PagedCase, is_close"


def begin(impl, name, seed=None):
    history = impl.history(name, imports=[*TENSORS, CASE])
    if seed is not None:
        history.run(f"_ = torch.manual_seed({seed})")
    return history


def numbers(tensor):
    return [f"{x:.2f}" for x in tensor.flatten().tolist()]


def row_picture(expected, found):
    rows = {"place": range(expected.numel()), "expected": numbers(expected), "yours": numbers(found)}
    return compare(rows)


def check_out(history, expected):
    """`out` is what the expression `expected` gives, and the canaries around it are alive."""

    def drawn():
        return row_picture(history.value(expected), history.value("out"))

    history.check("is_alive(out)", "canary", drawn)
    history.check(f"is_close(out, {expected})", "result", drawn)
    return drawn


# -- 7.1 ---------------------------------------------------------------------------------------------------------------


def check_add(impl, n, tile, seed=0):
    history = begin(impl, "add", seed)
    history.run(f"x, y = (guarded(torch.randn({n}, device=device)) for _ in range(2))")
    history.run(f"out = empty({n}, device=device)")
    history.run(f"add(x, y, out, tile={tile})")
    return check_out(history, "x + y")


@pytest.mark.exercise("7.1", "smoke")
def test_one_full_tile(impl):
    check_add(impl, 4, 4)


@pytest.mark.exercise("7.1", "examples")
@pytest.mark.parametrize("n", [3, 5, 11])
def test_worked_additions(impl, n):
    print(f"{n} places, 4 lanes a program\n{check_add(impl, n, 4)()}\n")


@pytest.mark.exercise("7.1", "properties")
@settings(max_examples=20)
@given(st.integers(1, 20), st.sampled_from([1, 2, 4, 8, 32]), st.integers(0, 99))
def test_any_addition(impl, n, tile, seed):
    check_add(impl, n, tile, seed)


# -- 7.2 ---------------------------------------------------------------------------------------------------------------


def check_row_max(impl, rows, columns, gap, shift, seed=0):
    history = begin(impl, "row_max", seed)
    whole = f"torch.randn({rows}, {columns + gap}, device=device) + {shift}"
    history.run(f"x = guarded({whole})[:, :{columns}]   # rows lie {columns + gap} numbers apart")
    history.run(f"out = empty({rows}, device=device)")
    history.run("row_max(x, out)")
    return check_out(history, "x.amax(1)")


@pytest.mark.exercise("7.2", "smoke")
def test_one_row(impl):
    check_row_max(impl, 1, 4, 0, 0)


@pytest.mark.exercise("7.2", "examples")
@pytest.mark.parametrize(("columns", "gap", "shift"), [(5, 0, -9), (4, 3, 9), (3, 1, -9)])
def test_worked_rows(impl, columns, gap, shift):
    drawn = check_row_max(impl, 3, columns, gap, shift)
    print(f"3 rows of {columns} numbers around {shift}\n{drawn()}\n")


@pytest.mark.exercise("7.2", "properties")
@settings(max_examples=20)
@given(
    st.integers(1, 4),
    st.integers(1, 9),
    st.integers(0, 2),
    st.sampled_from([-9, 0, 9]),
    st.integers(0, 99),
)
def test_any_rows(impl, rows, columns, gap, shift, seed):
    check_row_max(impl, rows, columns, gap, shift, seed)


# -- 7.3 ---------------------------------------------------------------------------------------------------------------


def check_gather(impl, length, block_size, tile, seed=0):
    history = begin(impl, "gather")
    size = f"block_size={block_size}, head_size=1, seed={seed}, device=device"
    history.run(f"case = PagedCase([(1, {length - 1})], {size})")
    history.run("cache = guarded(case.key_cache[..., 0, 0])   # [N, B], NaN where no token lies")
    history.run(f"out = empty({length}, device=device)")
    history.run(f"gather(cache, case.block_tables[0], out, tile={tile})")
    return check_out(history, "case.keys[0].flatten()")


@pytest.mark.exercise("7.3", "smoke")
def test_one_block(impl):
    check_gather(impl, 4, 4, 4)


@pytest.mark.exercise("7.3", "examples")
@pytest.mark.parametrize(("length", "tile"), [(7, 4), (7, 16), (10, 2)])
def test_worked_gathers(impl, length, tile):
    drawn = check_gather(impl, length, 4, tile, seed=length)
    print(f"{length} positions in blocks of 4, {tile} lanes\n{drawn()}\n")


@pytest.mark.exercise("7.3", "properties")
@settings(max_examples=20)
@given(st.integers(1, 14), st.integers(1, 5), st.sampled_from([1, 2, 4, 16]), st.integers(0, 99))
def test_any_gather(impl, length, block_size, tile, seed):
    check_gather(impl, length, block_size, tile, seed)


# -- 7.4 and 7.8 -------------------------------------------------------------------------------------------------------


def begin_rows(impl, name, lens, seed, large=1):
    """Rows of different lengths, NaN behind each."""
    history = begin(impl, name, seed)
    columns = max([*lens, 1])
    history.run(f"lens = guarded(torch.tensor({lens}, device=device), 0)")
    history.run(f"x = guarded({large} * torch.randn({len(lens)}, {columns}, device=device))")
    history.run("x[torch.arange(x.shape[1], device=device) >= lens[:, None]] = torch.nan   # behind the ends")
    return history


def check_row_sum(impl, lens, tile, seed=0):
    history = begin_rows(impl, "row_sum", lens, seed)
    history.run(f"out = empty({len(lens)}, device=device)")
    history.run(f"row_sum(x, lens, out, tile={tile})")
    return check_out(history, "x.nan_to_num().sum(1)")


@pytest.mark.exercise("7.4", "smoke")
def test_one_round(impl):
    check_row_sum(impl, [4], 4)


@pytest.mark.exercise("7.4", "examples")
@pytest.mark.parametrize("lens", [[8, 8], [5, 3], [1, 0, 9]])
def test_worked_sums(impl, lens):
    print(f"rows of {lens} numbers, 4 lanes\n{check_row_sum(impl, lens, 4)()}\n")


lengths = st.lists(st.integers(0, 13), min_size=1, max_size=4)


@pytest.mark.exercise("7.4", "properties")
@settings(max_examples=20)
@given(lengths, st.sampled_from([1, 2, 4, 16]), st.integers(0, 99))
def test_any_sums(impl, lens, tile, seed):
    check_row_sum(impl, lens, tile, seed)


def check_softmax(impl, lens, seed=0, large=1):
    history = begin_rows(impl, "softmax", lens, seed, large)
    history.run("out = empty(*x.shape, device=device)")
    history.run("softmax(x, lens, out)")
    history.run("is_there = ~x.isnan()")

    def drawn():
        expected = history.value("torch.softmax(x.nan_to_num(nan=-torch.inf), 1)")
        return row_picture(expected, history.value("torch.where(is_there, out, 0.0)"))

    history.check("is_alive(out) and bool((out[~is_there] == -77).all())", "canary", drawn)
    history.check("is_close(torch.where(is_there, out, 0.0).sum(1), torch.ones(len(lens)))", "one", drawn)
    expected = "torch.softmax(x.nan_to_num(nan=-torch.inf), 1)"
    history.check(f"is_close(torch.where(is_there, out, 0.0), {expected})", "result", drawn)
    return drawn


@pytest.mark.exercise("7.8", "smoke")
def test_a_row_of_four(impl):
    check_softmax(impl, [4])


@pytest.mark.exercise("7.8", "examples")
@pytest.mark.parametrize("lens", [[8, 4], [3], [5, 1]])
def test_worked_softmaxes(impl, lens):
    print(f"rows of {lens} scores\n{check_softmax(impl, lens)()}\n")


@pytest.mark.exercise("7.8", "properties")
@settings(max_examples=20)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=3), st.integers(0, 99), st.sampled_from([1, 300]))
def test_any_softmax(impl, lens, seed, large):
    check_softmax(impl, lens, seed, large)


# -- 7.5 ---------------------------------------------------------------------------------------------------------------


def check_kv_write(impl, slots, kv_heads, head_size, gap, seed=0):
    """Tokens whose keys and values are pieces of wider tensors, `gap` and gap + 1 heads of others between them."""
    history = begin(impl, "kv_write", seed)
    tokens, num_blocks = len(slots), max(slots) // 4 + 2
    for index, name in enumerate(("key", "value")):
        whole = f"torch.randn({tokens}, {kv_heads + gap + index}, {head_size}, device=device)"
        history.run(f"{name} = guarded({whole})[:, :{kv_heads}]")
    shape = f"{num_blocks}, 4, {kv_heads}, {head_size}"
    history.run(f"key_cache, value_cache = (empty({shape}, device=device) for _ in range(2))")
    history.run(f"slots = torch.tensor({slots}, device=device)")
    history.run("kv_write(key, value, key_cache, value_cache, slots)")
    history.run("rest = [i for i in range(key_cache.shape[0] * 4) if i not in slots.tolist()]")
    for name in ("key", "value"):

        def drawn(name=name):
            found, wanted = history.value(f"{name}_cache.flatten(0, 1)[slots]"), history.value(name)
            return row_picture(wanted.flatten(1)[:, :1], found.flatten(1)[:, :1])

        cache = f"{name}_cache.flatten(0, 1)"
        history.check(f"is_close({cache}[slots], {name})", "result", drawn)
        history.check(f"bool(({cache}[rest] == -77).all())", "others", drawn)
        history.check(f"is_alive({name}_cache)", "canary", drawn)


@pytest.mark.exercise("7.5", "smoke")
def test_one_token(impl):
    check_kv_write(impl, [5], 1, 4, 0)


@pytest.mark.exercise("7.5", "examples")
@pytest.mark.parametrize(
    ("slots", "kv_heads", "head_size", "gap"), [([6, 7, 12], 2, 4, 0), ([9, 2], 1, 3, 2), ([4, 15], 3, 5, 1)]
)
def test_worked_writes(impl, slots, kv_heads, head_size, gap):
    check_kv_write(impl, slots, kv_heads, head_size, gap)
    print(
        f"slots {slots}, {kv_heads} kv heads of {head_size}, rows {gap} heads apart: written, the rest untouched"
    )


@pytest.mark.exercise("7.5", "properties")
@settings(max_examples=15)
@given(
    st.lists(st.integers(0, 19), min_size=1, max_size=4, unique=True),
    st.integers(1, 3),
    st.integers(1, 5),
    st.integers(0, 2),
    st.integers(0, 99),
)
def test_any_write(impl, slots, kv_heads, head_size, gap, seed):
    check_kv_write(impl, slots, kv_heads, head_size, gap, seed)


# -- 7.6 and 7.7 -------------------------------------------------------------------------------------------------------


def attend(impl, name, lens, shape, more="", *, moved=False):
    """Run it with NaN in unused slots; if that fails, with zeros there, to tell why; also with blocks moved."""
    history = begin(impl, name)
    words = "".join(f", {key}={value}" for key, value in shape.items())
    history.run(f"case = PagedCase({[(1, length - 1) for length in lens]}{words}, device=device)")

    def drawn():
        from minivllm.course.extra.paged_case import picture

        return picture(history.value("out"), history.value("case.expected"))

    def check(which, law):
        history.run("out = empty(*case.expected.shape, device=device)")
        history.run(f"{name}(out, *{which}.decode_arguments{more})")
        history.check("is_alive(out)", "canary", drawn)
        if law != "unused" or history.value("is_close(out, case.expected)"):
            history.check("is_close(out, case.expected)", law, drawn)
            return
        check("case.without_nan()", "result")  # right with zeros: then it was the NaN
        history.run(f"{name}(out, *case.decode_arguments{more})")
        history.check("is_close(out, case.expected)", "unused", drawn)

    check("case", "unused")
    if moved:
        check("case.moved()", "moved")
    return drawn


@st.composite
def decodes(draw, max_requests=2):
    """Few and small, as an interpreted program takes milliseconds; lengths around the borders, odd head counts."""
    block_size = draw(st.integers(1, 5))
    edges = st.sampled_from([1, max(1, block_size - 1), block_size, block_size + 1])
    lens = draw(st.lists(edges | st.integers(1, 11), min_size=1, max_size=max_requests))
    shape = {"block_size": block_size, "kv_heads": draw(st.integers(1, 2)), "group": draw(st.integers(1, 3))}
    return lens, shape | {"head_size": draw(st.sampled_from([3, 4, 5])), "seed": draw(st.integers(0, 99))}


@pytest.mark.exercise("7.6", "smoke")
def test_one_block_one_head(impl):
    attend(impl, "decode", [4], {})


@pytest.mark.exercise("7.6", "examples")
@pytest.mark.parametrize(
    ("what", "lens", "shape"),
    [
        ("two requests, blocks of 4", [6, 1], {}),
        ("three query heads share a kv head", [5], {"group": 3}),
        ("three kv heads, six query heads", [3], {"kv_heads": 3, "group": 2}),
        ("nothing is a power of two", [7], {"block_size": 3, "head_size": 5}),
    ],
)
def test_worked_decodes(impl, what, lens, shape):
    print(f"{what}\n{attend(impl, 'decode', lens, shape, moved=True)()}\n")


@pytest.mark.exercise("7.6", "properties")
@settings(max_examples=8)
@given(decodes())
def test_any_decode(impl, case):
    attend(impl, "decode", *case)


@pytest.mark.exercise("7.7", "smoke")
def test_one_piece(impl):
    attend(impl, "decode_split", [4], {}, ", num_splits=1")


@pytest.mark.exercise("7.7", "examples")
@pytest.mark.parametrize(
    ("what", "lens", "shape", "splits"),
    [
        ("four blocks, two pieces", [14], {}, 2),
        ("five blocks, four pieces: shares of two, and an empty piece", [9], {"block_size": 2}, 4),
        ("one token, four pieces", [1, 6], {"group": 2, "head_size": 3}, 4),
    ],
)
def test_worked_splits(impl, what, lens, shape, splits):
    drawn = attend(impl, "decode_split", lens, shape, f", num_splits={splits}", moved=True)
    print(f"{what}\n{drawn()}\n")


@pytest.mark.exercise("7.7", "properties")
@settings(max_examples=6)
@given(decodes(max_requests=1), st.sampled_from([1, 2, 4]))
def test_any_split(impl, case, splits):
    attend(impl, "decode_split", *case, f", num_splits={splits}")
