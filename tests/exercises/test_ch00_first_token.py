"""Grader of chapter 00: the waste of one request, counted in a real block pool, and the greedy pick."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minivllm.course.grading import LawBroken, compare

# -- 0.1 ---------------------------------------------------------------------------------------------------------------


def filled(num_tokens, block_size):
    """(blocks, empty slots) after writing tokens one by one, and the picture of the blocks."""
    blocks = []
    for _ in range(num_tokens):
        if not blocks or blocks[-1] == block_size:
            blocks.append(0)
        blocks[-1] += 1
    picture = "\n".join(
        f"block {i:>2}  {'#' * used}{'.' * (block_size - used)}" for i, used in enumerate(blocks)
    )
    return len(blocks), len(blocks) * block_size - num_tokens, picture


@pytest.mark.exercise("0.1", "smoke")
def test_every_prediction_is_a_whole_number(impl):
    for name in impl.exercise.names:
        answer = getattr(impl, name)(8) if name == "most_empty_slots" else getattr(impl, name)()
        assert isinstance(answer, int), f"{name} should return a whole number"


@pytest.mark.exercise("0.1", "examples")
@pytest.mark.parametrize("block_size", [16, 4])
def test_the_request_of_41_tokens(impl, block_size):
    blocks, empty, picture = filled(41, block_size)
    history = impl.history(*impl.exercise.names)
    history.check(f"blocks_of_{block_size}() == {blocks}", "blocks", picture)
    history.check(f"empty_slots_of_{block_size}() == {empty}", "waste", picture)
    print(f"41 tokens in blocks of {block_size}\n{picture}\n")


@pytest.mark.exercise("0.1", "properties")
@pytest.mark.parametrize("block_size", [1, 2, 3, 8, 16])
def test_the_most(impl, block_size):
    most = max(filled(num_tokens, block_size)[1] for num_tokens in range(1, 4 * block_size))
    history = impl.history("most_empty_slots")
    history.check(f"most_empty_slots({block_size}) == {most}", "bound", filled(block_size + 1, block_size)[2])


# -- 0.2 ---------------------------------------------------------------------------------------------------------------


def first_largest(row):
    """The oracle: Python's own max and index, on a list."""
    return row.index(max(row))


def check(impl, rows):
    program = ["import torch", f"greedy_pick(torch.tensor({rows}))"]
    picked = impl.greedy_pick(torch.tensor(rows, dtype=torch.float32))

    def broken(law, finding):
        picture = compare({"row": range(len(rows)), "expected": expected, "yours": got})
        raise LawBroken(impl.exercise.laws[law], finding, program, picture, law)

    expected = [first_largest(row) for row in rows]
    got = picked.tolist() if isinstance(picked, torch.Tensor) and picked.ndim == 1 else []
    if not isinstance(picked, torch.Tensor) or picked.shape != (len(rows),) or picked.dtype != torch.int64:
        what = (
            f"{tuple(picked.shape)} of {picked.dtype}"
            if isinstance(picked, torch.Tensor)
            else type(picked).__name__
        )
        broken("shape", f"Expected ({len(rows)},) of torch.int64, and got {what}.")
    for number, (row, token_id) in enumerate(zip(rows, got, strict=True)):
        if not 0 <= token_id < len(row) or row[token_id] != max(row):
            alone = impl.greedy_pick(torch.tensor([row], dtype=torch.float32)).tolist()
            law = "rows" if alone == [expected[number]] else "largest"
            broken(
                law,
                f"Row {number}: the largest logit is {max(row)}, at id {expected[number]}, not {token_id}.",
            )
        if token_id != expected[number]:
            broken(
                "ties", f"Row {number}: ids {expected[number]} and {token_id} have the same logit {max(row)}."
            )


@pytest.mark.exercise("0.2", "smoke")
def test_one_row(impl):
    check(impl, [[0.5, 2.0, 1.0]])


@pytest.mark.exercise("0.2", "examples")
@pytest.mark.parametrize(
    "rows",
    [
        [[1.0, 3.0, 3.0, 2.0]],
        [[0.0, 0.0, 0.0], [1.0, 2.0, 1.0], [5.0, 4.0, 5.0]],
        [[-3.0, -1.0, -2.0], [0.25, 0.5, 0.75]],
    ],
)
def test_worked_rows(impl, rows):
    check(impl, rows)
    print("\n".join(f"{row} -> {first_largest(row)}" for row in rows) + "\n")


@pytest.mark.exercise("0.2", "properties")
@settings(max_examples=100)
@given(st.data())
def test_any_rows(impl, data):
    num_columns = data.draw(st.integers(1, 6))
    logit = st.sampled_from([-2.0, -0.5, 0.0, 0.25, 1.0, 1.25, 4.0])  # few values: ties are common
    row = st.lists(logit, min_size=num_columns, max_size=num_columns)
    check(impl, data.draw(st.lists(row, min_size=1, max_size=5)))


@pytest.mark.exercise("0.2", "properties")
def test_a_whole_vocabulary(impl):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 3072, generator=generator)
    assert impl.greedy_pick(logits).tolist() == [first_largest(row) for row in logits.tolist()], (
        "3 rows of 3,072 logits: a picked token is not the first of the largest"
    )
