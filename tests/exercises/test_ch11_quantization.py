"""Grader of chapter 11: quantization.

The oracles try every number of a type or a grid, shift Python integers, or multiply matrices in float64 with numpy.
"""

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minivllm.course.grading import compare
from minivllm.course.triton_here import SETUP

TORCH = "import torch"
SEEDS = st.integers(0, 999)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Small tensors: more threads only get in one another's way."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def array(tensor):
    """As float64."""
    return tensor.detach().cpu().double().numpy()


def first_true(wrong):
    """The index of the first True of a numpy array, as a tuple of ints; None if there is none."""
    found = np.argwhere(wrong)
    return tuple(int(i) for i in found[0]) if len(found) else None


# -- 11.1 --------------------------------------------------------------------------------------------------------------

WEIGHTS = [Fraction(text) for text in ("-0.6", "-0.2", "0.0", "0.3", "0.9")]


def make_grid(weights, count=16):
    """The evenly spaced numbers from the smallest weight to the largest."""
    low, high = min(weights), max(weights)
    return [low + (high - low) * i / (count - 1) for i in range(count)]


def place(grid, weight):
    """The index of the grid's number that is nearest to the weight."""
    return min(range(len(grid)), key=lambda i: abs(grid[i] - weight))


def stored_bits(group_size):
    """Bits of a group, written down one by one, for each of its weights."""
    stored = [4] * group_size + [16] + [4]
    return Fraction(sum(stored), group_size)


def predictions():
    """(law, question, answer)."""
    grid = make_grid(WEIGHTS)
    wide = make_grid([*WEIGHTS, Fraction("2.4")])
    middles = [(a + b) / 2 for a, b in zip(grid, grid[1:], strict=False)]
    farthest = max(min(abs(middle - number) for number in grid) for middle in middles)
    return [
        ("step", "step", grid[1] - grid[0]),
        ("zero", "zero_point", grid.index(0)),
        ("number", "number_of_largest", place(grid, WEIGHTS[-1])),
        ("number", "number_of_between", place(grid, Fraction("0.27"))),
        ("error", "largest_error", farthest),
        ("outlier", "step_with_outlier", wide[1] - wide[0]),
        ("bits", "bits_with_groups_of_128", stored_bits(128)),
        ("bits", "bits_with_groups_of_32", stored_bits(32)),
        ("words", "words_of_a_row", 4096 * 4 // 32),
    ]


def ruler():
    """The grid as a table."""
    grid = make_grid(WEIGHTS)
    return "\n".join(
        [
            "number " + " ".join(f"{i:>5}" for i in range(16)),
            "weight " + " ".join(f"{float(value):5.1f}" for value in grid),
        ]
    )


@pytest.mark.exercise("11.1", "smoke")
def test_every_prediction_is_a_number(impl):
    for name in impl.exercise.names:
        assert isinstance(getattr(impl, name)(), int | float), f"{name}() should return a number"


@pytest.mark.exercise("11.1", "examples")
@pytest.mark.parametrize(("law", "name", "answer"), predictions())
def test_the_group(impl, law, name, answer):
    history = impl.history(name)
    history.check(f"abs({name}() - {float(answer)!r}) < 1e-9", law, ruler)
    print(f"{name}: {float(answer):g}")


# -- 11.2 --------------------------------------------------------------------------------------------------------------


def numbers_of(dtype):
    """Every number that the type has, in float64; for e4m3 from its definition."""
    if dtype == torch.int8:
        return np.arange(-127.0, 128.0)
    found = []
    for exponent in range(16):
        for mantissa in range(8):
            if exponent == 0:
                found.append(2.0**-6 * mantissa / 8)
            elif (exponent, mantissa) != (15, 7):  # not a number
                found.append(2.0 ** (exponent - 7) * (1 + mantissa / 8))
    return np.array(sorted({*found, *(-value for value in found)}))


def check_eight_bits(history, dtype):
    """All laws but that of rows, for `weight` and what came of it, `q` and `scale`."""
    history.run(f"q, scale = quantize_per_channel(weight, torch.{dtype})")
    history.check(f"(q.dtype, scale.dtype) == (torch.{dtype}, torch.float32)", "type")
    history.check("(q.shape, scale.shape) == (weight.shape, weight.shape[:1])", "type")
    weight, q, scale = (array(history.value(name)) for name in ("weight", "q.float()", "scale"))
    empty = np.abs(weight).max(1) == 0
    history.check(f"scale[{empty.tolist()}].tolist() == {[1.0] * int(empty.sum())}", "zero")
    history.check("(q.float()[weight == 0] == 0).all()", "zero")
    numbers = numbers_of(getattr(torch, dtype))
    largest = np.abs(q).max(1)
    if (row := first_true((largest != numbers.max()) & ~empty)) is not None:
        said = f"The largest number of row {row[0]} is {largest[row[0]]:g}, and should be {numbers.max():g}."
        history.fail("largest", said, [f"assert q.float()[{row[0]}].abs().max() == {numbers.max():g}"])
    reach, needed = scale * numbers.max(), np.abs(weight).max(1)
    if (row := first_true((np.abs(reach - needed) > 1e-5 * needed) & ~empty)) is not None:
        said = f"Row {row[0]} reaches to {reach[row]:.6g}, and its largest weight is {needed[row]:.6g}."
        history.fail("largest", said)
    grid = scale[:, None, None] * numbers
    nearest = np.abs(grid - weight[:, :, None]).min(-1)
    error = np.abs(q * scale[:, None] - weight)
    where = first_true(error > nearest + 1e-6 * np.abs(weight).max(1, keepdims=True))
    if where is not None:
        i, j = where
        best = numbers[np.abs(scale[i] * numbers - weight[i, j]).argmin()]
        said = f"weight[{i}, {j}] is {weight[i, j]:.6g}; q is {q[i, j]:g}, and {best:g} is nearer."
        history.fail("nearest", said, [f"assert q.float()[{i}, {j}] == {best:g}"])


@pytest.mark.exercise("11.2", "smoke")
@pytest.mark.parametrize("dtype", ["int8", "float8_e4m3fn"])
def test_two_outputs(impl, dtype):
    history = impl.history("quantize_per_channel", imports=[TORCH])
    history.run("weight = torch.tensor([[0.5, -1.0, 0.25], [10.0, 3.0, 0.0]])")
    check_eight_bits(history, dtype)


@pytest.mark.exercise("11.2", "examples")
@pytest.mark.parametrize("dtype", ["int8", "float8_e4m3fn"])
@pytest.mark.parametrize(
    "rows",
    [
        [[0.0, 0.0], [1.0, -2.0]],  # a row of zeros
        [[-3.0, 1.0, 1.5], [0.001, 0.0002, -0.0004]],  # the largest is negative
        [[127.0, 1.0, 0.4, 0.6, -1.5]],  # int8 keeps the steps of 1; e4m3 is finer near zero
        [[448.0, 0.5, 0.6, 17.0, 300.0]],
    ],
)
def test_worked_rows(impl, dtype, rows):
    history = impl.history("quantize_per_channel", imports=[TORCH])
    history.run(f"weight = torch.tensor({rows})")
    check_eight_bits(history, dtype)
    print(f"{rows} in {dtype}:\n{history.value('q.float() * scale[:, None]').tolist()}\n")


@pytest.mark.exercise("11.2", "properties")
@settings(max_examples=40)
@given(
    st.sampled_from(["int8", "float8_e4m3fn"]),
    st.integers(1, 4),
    st.integers(1, 24),
    st.sampled_from([1e-4, 0.05, 30.0]),
    SEEDS,
)
def test_every_weight_gets_the_nearest_number(impl, dtype, num_out, num_in, size, seed):
    history = impl.history("quantize_per_channel", imports=[TORCH])
    history.run(f"generator = torch.Generator().manual_seed({seed})")
    history.run(f"weight = {size} * torch.randn({num_out}, {num_in}, generator=generator)")
    check_eight_bits(history, dtype)


@pytest.mark.exercise("11.2", "properties")
@settings(max_examples=20)
@given(st.sampled_from(["int8", "float8_e4m3fn"]), st.integers(2, 5), st.integers(0, 4), SEEDS)
def test_rows_do_not_know_one_another(impl, dtype, num_out, which, seed):
    history = impl.history("quantize_per_channel", imports=[TORCH])
    history.run(f"weight = torch.randn({num_out}, 7, generator=torch.Generator().manual_seed({seed}))")
    history.run(f"q, scale = quantize_per_channel(weight, torch.{dtype})")
    history.run("other = weight.clone()")
    history.run(f"other[{which % num_out}] *= 100   # one output becomes large")
    history.run(f"q2, scale2 = quantize_per_channel(other, torch.{dtype})")
    for row in range(num_out):
        if row != which % num_out:
            history.check(f"scale2[{row}].item() == scale[{row}].item()", "rows")
            history.check(f"q2[{row}].float().tolist() == q[{row}].float().tolist()", "rows")


# -- 11.3 --------------------------------------------------------------------------------------------------------------


def groups_of(weight, group_size):
    """[out, in] -> [out, groups, G], as numpy cuts it."""
    return weight.reshape(len(weight), -1, group_size)


def check_groups(history, group_size, bits=4):
    """Quantize `weight` and check every law of the result `made`; numbers as [out, groups, G]."""
    history.run(f"made = quantize_groups(weight, {group_size}, {bits})")
    num_out, num_in = history.value("weight").shape
    num_groups, top = num_in // group_size, 2**bits - 1
    shapes = f"({num_in}, {num_out}), ({num_groups}, {num_out}), ({num_groups}, {num_out})"
    history.check(f"tuple(tuple(tensor.shape) for tensor in made) == ({shapes})", "shapes")
    types = "(torch.int32, torch.int32, torch.float16)"
    history.check(f"(made.q.dtype, made.zeros.dtype, made.scales.dtype) == {types}", "shapes")
    for name in ("q", "zeros"):
        history.check(f"made.{name}.min() >= 0 and made.{name}.max() <= {top}", "shapes")
    weight = groups_of(array(history.value("weight")), group_size)
    q = groups_of(array(history.value("made.q")).T, group_size)
    zeros, scales = (array(history.value(f"made.{name}")).T[:, :, None] for name in ("zeros", "scales"))
    width = np.maximum(weight.max(-1), 0) - np.minimum(weight.min(-1), 0)
    check_span(history, scales[:, :, 0], np.maximum(width / top, 1e-5))
    restored = (q - zeros) * scales
    if (where := first_true((weight == 0) & (restored != 0))) is not None:
        show_weight(history, "zero", where, weight, restored, "and should be 0")
    grid = (np.arange(top + 1) - zeros[..., None]) * scales[..., None]
    nearest = np.abs(grid - weight[..., None]).min(-1)
    error = np.abs(restored - weight)
    if (where := first_true(error > nearest + 1e-4 * scales)) is not None:
        show_weight(history, "nearest", where, weight, restored, "and the grid has a nearer number")
    is_inside = (q > 0) & (q < top)
    if (where := first_true(error > np.where(is_inside, 0.501, 1.02) * scales)) is not None:
        show_weight(history, "bound", where, weight, restored, "further away than allowed")


def check_span(history, scales, wanted):
    """The step is what the group's range needs, but for its rounding to float16."""
    off = np.abs(scales / wanted - 1) > 0.01
    if (where := first_true(off | ~np.isfinite(scales))) is not None:
        output, group = where
        step, needed = scales[where], wanted[where]
        said = f"The step of group {group} of output {output} is {step:.6g}, and should be {needed:.6g}."
        line = f"assert abs(made.scales[{group}, {output}].item() / {needed!r} - 1) < 0.01"
        history.fail("span", said, [line])


def show_weight(history, law, where, weight, restored, what):
    """Fail for one weight, at [output, group, place in the group]."""
    output, group, place_in_group = where
    at = f"output {output}, group {group}, number {place_in_group}"
    said = f"Weight {weight[where]:.6g} ({at}) came back as {restored[where]:.6g}, {what}."
    row = [f"{value:.3f}" for value in weight[output, group]]
    back = [f"{value:.3f}" for value in restored[output, group]]
    history.fail(law, said, picture=compare({"expected": row, "yours": back}) if len(row) <= 10 else "")


GROUP_NAMES = ("quantize_groups", "dequantize", "GroupQuantized")


@pytest.mark.exercise("11.3", "smoke")
def test_one_group(impl):
    history = impl.history(*GROUP_NAMES, imports=[TORCH])
    history.run("weight = torch.tensor([[-0.6, -0.2, 0.0, 0.9]])")
    check_groups(history, 4)
    history.check("made.zeros.tolist() == [[6]]", "nearest")
    history.check("tuple(dequantize(made).shape) == (1, 4)", "shapes")


@pytest.mark.exercise("11.3", "examples")
@pytest.mark.parametrize(
    ("rows", "group_size"),
    [
        ([[1.0, 2.0, 3.0, 4.0]], 4),  # all positive: the grid begins at 0
        ([[-1.0, -2.0, -3.0, -1.5]], 4),
        ([[0.0, 0.0, 0.0, 0.0, 0.1, 0.2, -0.1, 0.0]], 4),  # a group of zeros
        ([[0.1, 0.2, -0.1, 0.05, 5.0, 0.2, -0.1, 0.05]], 4),  # an outlier, in one group
        ([[0.1, -0.2], [3.0, 4.0], [-0.5, 0.5]], 2),  # three outputs
        ([[0.5, 0.5]], 2),
    ],
)
def test_worked_groups(impl, rows, group_size):
    history = impl.history(*GROUP_NAMES, imports=[TORCH])
    history.run(f"weight = torch.tensor({rows})")
    check_groups(history, group_size)
    made = history.value("made")
    print(f"{rows}\nq {made.q.T.tolist()} zeros {made.zeros.T.tolist()} steps {made.scales.T.tolist()}\n")


@pytest.mark.exercise("11.3", "properties")
@settings(max_examples=40)
@given(
    st.integers(1, 4),
    st.integers(1, 3),
    st.sampled_from([4, 8, 16]),
    st.sampled_from([4, 4, 3, 2, 8]),
    st.sampled_from([0.02, 1.0]),
    SEEDS,
)
def test_every_weight_gets_the_nearest_of_its_group(impl, num_out, num_groups, group_size, bits, size, seed):
    history = impl.history(*GROUP_NAMES, imports=[TORCH])
    history.run(f"generator = torch.Generator().manual_seed({seed})")
    shape = f"{num_out}, {num_groups * group_size}"
    history.run(f"weight = {size} * torch.randn({shape}, generator=generator)")
    history.run("weight[torch.rand(weight.shape, generator=generator) < 0.1] = 0")
    check_groups(history, group_size, bits)


@pytest.mark.exercise("11.3", "properties")
@settings(max_examples=25)
@given(st.integers(1, 3), st.integers(1, 3), st.sampled_from([2, 4]), SEEDS)
def test_dequantizing_is_the_formula(impl, num_out, num_groups, group_size, seed):
    rng = np.random.default_rng(seed)
    q = rng.integers(0, 16, (num_groups * group_size, num_out)).tolist()
    zeros = rng.integers(0, 16, (num_groups, num_out)).tolist()
    scales = rng.choice([0.125, 0.5, 0.0625, 2.0], (num_groups, num_out)).tolist()
    history = impl.history("GroupQuantized", "dequantize", imports=[TORCH])
    history.run(f"q, zeros = torch.tensor({q}).int(), torch.tensor({zeros}).int()")
    history.run(f"made = GroupQuantized(q, zeros, torch.tensor({scales}).half())")
    expected = [
        [
            (q[i][o] - zeros[i // group_size][o]) * scales[i // group_size][o]
            for i in range(num_groups * group_size)
        ]
        for o in range(num_out)
    ]
    history.check(f"dequantize(made).tolist() == {expected}", "formula")


@pytest.mark.exercise("11.3", "properties")
@settings(max_examples=25)
@given(st.integers(1, 3), st.integers(2, 3), st.sampled_from([4, 8]), st.integers(0, 99), SEEDS)
def test_an_outlier_harms_its_own_group_only(impl, num_out, num_groups, group_size, which, seed):
    output, group = which % num_out, which % num_groups
    history = impl.history(*GROUP_NAMES, imports=[TORCH])
    shape = f"{num_out}, {num_groups * group_size}"
    history.run(f"weight = torch.randn({shape}, generator=torch.Generator().manual_seed({seed}))")
    history.run(f"made = quantize_groups(weight, {group_size})")
    history.run(f"weight[{output}, {group * group_size}] = 100   # in group {group} of output {output}")
    history.run(f"other = quantize_groups(weight, {group_size})")
    for o in range(num_out):
        for g in range(num_groups):
            if (o, g) != (output, group):
                rows = f"{g * group_size}:{(g + 1) * group_size}, {o}"
                history.check(f"other.scales[{g}, {o}].item() == made.scales[{g}, {o}].item()", "groups")
                history.check(f"other.q[{rows}].tolist() == made.q[{rows}].tolist()", "groups")


# -- 11.4 --------------------------------------------------------------------------------------------------------------

BIT_OF_OUTPUT = {0: 0, 2: 4, 4: 8, 6: 12, 1: 16, 3: 20, 5: 24, 7: 28}  # the lowest of its four


def read_word(word):
    """The eight numbers of a word, by Python's integers."""
    word &= 0xFFFFFFFF
    return [(word >> BIT_OF_OUTPUT[output]) % 16 for output in range(8)]


def make_word(numbers):
    """The word of eight numbers, as a signed integer of 32 bits."""
    word = sum(number << BIT_OF_OUTPUT[output] for output, number in enumerate(numbers))
    return word - 2**32 if word >= 2**31 else word


@pytest.mark.exercise("11.4", "smoke")
def test_one_word(impl):
    history = impl.history("pack", "unpack", imports=[TORCH])
    history.run("words = pack(torch.tensor([[1, 2, 3, 4, 5, 6, 7, 0]]))")
    history.check("(tuple(words.shape), words.dtype) == ((1, 1), torch.int32)", "words")
    history.check("tuple(unpack(words).shape) == (1, 8)", "identity")


@pytest.mark.exercise("11.4", "examples")
@pytest.mark.parametrize(
    "numbers", [[0, 0, 0, 0, 0, 0, 0, 15], [15] * 8, [8, 0, 0, 0, 0, 0, 0, 0], [0, 1, 2, 3, 4, 5, 6, 7]]
)
def test_worked_words(impl, numbers):
    history = impl.history("pack", "unpack", imports=[TORCH])
    history.run(f"word = int(pack(torch.tensor([{numbers}]))[0, 0])")
    word = history.value("word")

    def picture():
        return compare({"output": range(8), "expected": numbers, "yours": read_word(word)})

    if read_word(word) != numbers:
        history.fail(
            "nibble",
            f"The word is {word & 0xFFFFFFFF:08x}.",
            [f"assert word == {make_word(numbers)}"],
            picture,
        )
    history.check(
        f"unpack(torch.tensor([[{make_word(numbers)}]], dtype=torch.int32)).tolist() == [{numbers}]",
        "identity",
    )
    print(f"{numbers} is the word {make_word(numbers) & 0xFFFFFFFF:08x}\n{picture()}\n")


@pytest.mark.exercise("11.4", "properties")
@settings(max_examples=60)
@given(
    st.lists(
        st.lists(st.lists(st.integers(0, 15), min_size=8, max_size=8), min_size=2, max_size=2),
        min_size=1,
        max_size=3,
    )
)
def test_every_nibble_and_back(impl, rows):
    """Rows of two words each."""
    flat = [[*first, *second] for first, second in rows]
    words = [[make_word(eight) for eight in row] for row in rows]
    history = impl.history("pack", "unpack", imports=[TORCH])
    history.run(f"numbers = torch.tensor({flat})")
    history.run("words = pack(numbers)")
    history.check(f"(tuple(words.shape), words.dtype) == (({len(rows)}, 2), torch.int32)", "words")
    history.check(f"words.tolist() == {words}", "nibble")
    history.check(f"unpack(words).tolist() == {flat}", "identity")
    history.check("unpack(words).dtype == torch.int32", "identity")


# -- 11.5 --------------------------------------------------------------------------------------------------------------


def round_in_numpy(weight, group_size, bits):
    """Round to nearest in groups [out, in], in float64 but for the step, which is stored as float16."""
    groups = groups_of(weight, group_size)
    low, high = groups.min(-1, keepdims=True).clip(max=0), groups.max(-1, keepdims=True).clip(min=0)
    step = ((high - low) / (2**bits - 1)).clip(min=1e-5).astype(np.float16).astype(np.float64)
    zero = np.rint(-low / step).clip(0, 2**bits - 1)
    numbers = (np.rint(groups / step) + zero).clip(0, 2**bits - 1)
    return ((numbers - zero) * step).reshape(weight.shape)


def output_error(x, weights, scale, group_size, bits):
    """Mean squared error of all outputs, from the definition; arguments are float64 arrays."""
    differences = [
        (x / scale) @ round_in_numpy(weight * scale, group_size, bits).T - x @ weight.T for weight in weights
    ]
    return float((np.concatenate(differences, 1) ** 2).mean())


def centered(importance, alpha):
    """The scale of an alpha."""
    scale = importance**alpha
    return scale / np.sqrt(scale.max() * scale.min())


AWQ_NAMES = ("search_scale", "channel_scale", "scaled_error", "GRID")


def awq_case(impl, num_in, outs, seed):
    """A history with calibration data x [24, in] whose channels differ, and matrices."""
    history = impl.history(*AWQ_NAMES, imports=[TORCH])
    history.run(f"generator = torch.Generator().manual_seed({seed})")
    history.run(f"x = torch.randn(24, {num_in}, generator=generator)")
    history.run(f"x *= 0.05 + 4 * torch.rand({num_in}, generator=generator) ** 4   # some channels are large")
    history.run(f"weights = [torch.randn(n, {num_in}, generator=generator) for n in {outs}]")
    return history


def values(history):
    """x and the matrices as float64 arrays."""
    return array(history.value("x")), [array(weight) for weight in history.value("weights")]


def check_close(history, name, expected, law, tolerance=2e-3):
    """A number of the history is what the oracle says."""
    history.check(f"abs({name} / {expected!r} - 1) < {tolerance}", law)


@pytest.mark.exercise("11.5", "smoke")
def test_the_search_runs(impl):
    history = awq_case(impl, 32, [8], 1)
    history.check("tuple(channel_scale(x.abs().mean(0), 0.5).shape) == (32,)", "center")
    history.check("isinstance(float(scaled_error(x, weights, torch.ones(32), 16)), float)", "error")
    history.run("result = search_scale(x, weights, 16)")
    history.check("result.alpha in GRID and tuple(result.scale.shape) == (32,)", "best")


@pytest.mark.exercise("11.5", "examples")
def test_a_scale_of_ones_is_rounding_to_nearest(impl):
    history = awq_case(impl, 32, [8, 4], 2)
    x, weights = values(history)
    expected = output_error(x, weights, np.ones(32), 16, 4)
    history.run("error = scaled_error(x, weights, torch.ones(32), 16)")
    check_close(history, "error", expected, "error")
    print(f"rounded to nearest, the outputs are off by {expected:.4f} (mean square)\n")


@pytest.mark.exercise("11.5", "examples")
@pytest.mark.parametrize("importance", [[1.0, 2.0, 16.0], [0.25, 0.5], [100.0, 1.0, 0.01]])
@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_worked_scales(impl, importance, alpha):
    history = impl.history(*AWQ_NAMES, imports=[TORCH])
    history.run(f"scale = channel_scale(torch.tensor({importance}), {alpha})")
    expected = centered(np.array(importance), alpha).tolist()
    history.check(f"torch.allclose(scale, torch.tensor({expected}), rtol=1e-4)", "center")
    print(f"importance {importance}, alpha {alpha}: scale {[round(value, 3) for value in expected]}")


@pytest.mark.exercise("11.5", "examples")
def test_equal_channels_need_no_scale(impl):
    """Whatever alpha is, the scale is 1 and the error the same: the smallest alpha is taken."""
    history = impl.history(*AWQ_NAMES, imports=[TORCH])
    history.run("x = torch.tensor([[1.0, -1.0, 1.0, -1.0], [-1.0, -1.0, 1.0, 1.0]])")
    history.run("weights = [torch.tensor([[0.3, -0.7, 0.11, 0.9]])]")
    history.run("result = search_scale(x, weights, 4)")
    history.check("result.alpha == 0", "best")
    history.check("result.error == result.rtn_error", "never_worse")


@pytest.mark.exercise("11.5", "properties")
@settings(max_examples=25)
@given(
    st.sampled_from([32, 64]),
    st.sampled_from([[8], [8, 4]]),
    st.sampled_from([4, 3, 2]),
    st.sampled_from([0.0, 0.35, 0.8]),
    SEEDS,
)
def test_the_error_is_that_of_the_outputs(impl, num_in, outs, bits, alpha, seed):
    history = awq_case(impl, num_in, outs, seed)
    x, weights = values(history)
    scale = centered(np.abs(x).mean(0), alpha)
    history.run(f"scale = x.abs().mean(0) ** {alpha}")
    history.run("scale = scale / (scale.max() * scale.min()).sqrt()")
    history.run(f"error = scaled_error(x, weights, scale, 16, {bits})")
    check_close(history, "error", output_error(x, weights, scale, 16, bits), "error")


@pytest.mark.exercise("11.5", "properties")
@settings(max_examples=15)
@given(st.sampled_from([[8], [4, 4]]), st.sampled_from([4, 3]), SEEDS)
def test_no_other_alpha_is_better(impl, outs, bits, seed):
    history = awq_case(impl, 32, outs, seed)
    x, weights = values(history)
    history.run(f"result = search_scale(x, weights, 16, bits={bits})")
    history.check("result.error <= result.rtn_error", "never_worse")
    grid, importance = history.value("GRID"), np.abs(x).mean(0)
    errors = [output_error(x, weights, centered(importance, alpha), 16, bits) for alpha in grid]
    check_close(history, "result.rtn_error", errors[0], "never_worse")
    check_close(history, "result.error", min(errors), "best")
    chosen = history.value("result")
    check_close(history, "result.error", errors[list(grid).index(chosen.alpha)], "best")
    wanted = centered(importance, chosen.alpha).tolist()
    history.check(f"torch.allclose(result.scale, torch.tensor({wanted}), rtol=1e-3)", "best")


@pytest.mark.exercise("11.5", "properties")
@settings(max_examples=10)
@given(st.sampled_from([(2, 8), (4, 4)]), SEEDS)
def test_heads_that_share_a_value_head_share_the_scale(impl, heads, seed):
    history = awq_case(impl, 32, [8], seed)
    history.run(f"result = search_scale(x, weights, 16, heads={heads})")
    history.run(f"per_head = result.scale.unflatten(0, (-1, *{heads}))   # [K, H / K, D]")
    history.check("torch.allclose(per_head, per_head[:, :1].expand_as(per_head))", "heads")


@pytest.mark.exercise("11.5", "properties")
@settings(max_examples=10)
@given(st.sets(st.integers(0, 63), min_size=2, max_size=4), SEEDS)
def test_outlier_channels_are_worth_a_scale(impl, channels, seed):
    history = impl.history(*AWQ_NAMES, imports=[TORCH])
    history.run(f"generator = torch.Generator().manual_seed({seed})")
    history.run("x, unseen = torch.randn(2, 48, 64, generator=generator)")
    history.run(f"for data in (x, unseen): data[:, {sorted(channels)}] *= 30")
    history.run("weights = [torch.randn(16, 64, generator=generator)]")
    history.run("result = search_scale(x, weights, 32)")
    history.check("result.alpha > 0 and result.error < result.rtn_error", "outliers")
    _, weights = values(history)
    unseen = array(history.value("unseen"))
    nearest = output_error(unseen, weights, np.ones(64), 32, 4)
    scaled = output_error(unseen, weights, array(history.value("result.scale")), 32, 4)
    if not scaled < 0.8 * nearest:
        history.fail(
            "outliers", f"On unseen data the error is {scaled:.3f}; rounded to nearest {nearest:.3f}."
        )


# -- 11.6 --------------------------------------------------------------------------------------------------------------

EDGE = 4096  # numbers before and behind the result, more than a tile can reach
KERNEL_IMPORTS = [TORCH, *SETUP, "from minivllm.quantization.packing import pack"]


def check_kernel(impl, num_in, num_out, group_size, seed):
    """Run the kernel into the middle of a canary, and compare every element."""
    history = impl.history("dequantize_into", imports=KERNEL_IMPORTS)
    history.run(f"generator = torch.Generator().manual_seed({seed})")
    num_groups = num_in // group_size
    history.run(f"q = torch.randint(16, ({num_in}, {num_out}), generator=generator)")
    history.run(f"zeros = torch.randint(16, ({num_groups}, {num_out}), generator=generator)")
    history.run(f"scales = (torch.rand({num_groups}, {num_out}, generator=generator) + 0.01).half()")
    history.run(f"whole = torch.full(({num_in * num_out + 2 * EDGE},), 7.0).half().to(device)")
    history.run(f"out = whole[{EDGE}:-{EDGE}].view({num_in}, {num_out}).fill_(float('nan'))")
    history.run("dequantize_into(out, *(t.to(device) for t in (pack(q), pack(zeros), scales)))")
    history.check(f"bool((whole[:{EDGE}] == 7).all() and (whole[-{EDGE}:] == 7).all())", "inside")
    history.check("not out.isnan().any()", "all")
    q, zeros, scales = (array(history.value(name)) for name in ("q", "zeros", "scales"))
    rows = np.arange(num_in) // group_size
    expected = ((q - zeros[rows]) * scales[rows]).astype(np.float16).astype(np.float64)
    out = array(history.value("out"))
    if (where := first_true(out != expected)) is not None:
        k, n = where
        said = f"W[{k}, {n}] is {out[where]:g}, and should be {expected[where]:g}."
        history.fail(
            "formula", said, [f"assert out[{k}, {n}] == {expected[where]!r}"], lambda: signs(out, expected)
        )


def signs(out, expected):
    """The matrix, a character for each element: . right, x wrong."""
    return "\n".join(
        "".join(".x"[int(a != b)] for a, b in zip(*rows, strict=True))
        for rows in zip(out, expected, strict=True)
    )


@pytest.mark.exercise("11.6", "smoke")
def test_one_tile(impl):
    check_kernel(impl, 16, 32, 16, 1)


@pytest.mark.exercise("11.6", "examples")
@pytest.mark.parametrize(
    ("num_in", "num_out", "group_size"),
    [
        (8, 8, 8),  # smaller than a tile
        (24, 40, 8),  # the last tile is cut in both directions, and a tile meets several groups
        (32, 32, 32),  # one group for two tiles
    ],
)
def test_worked_matrices(impl, num_in, num_out, group_size):
    check_kernel(impl, num_in, num_out, group_size, 2)
    print(f"[{num_in}, {num_out}] in groups of {group_size}: right to the last bit")


@pytest.mark.exercise("11.6", "properties")
@settings(max_examples=8)
@given(st.integers(1, 3), st.sampled_from([4, 12, 16]), st.integers(1, 6), SEEDS)
def test_every_element_is_the_formula(impl, num_groups, group_size, words, seed):
    check_kernel(impl, num_groups * group_size, 8 * words, group_size, seed)
