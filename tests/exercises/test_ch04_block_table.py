"""Grader of chapter 04: block table, slots, slot mapping.

The oracle walks: it lays the positions out one after another and never divides.
"""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minivllm.course.grading import compare

BLOCK = "from minivllm.core.block import KVCacheBlock"
TABLE = "from minivllm.core.block_table import BlockTable"
NUMPY = "import numpy as np"


def places(block_ids, block_size):
    """(block id, offset) of each position, laid out one after another."""
    return [(block_id, offset) for block_id in block_ids for offset in range(block_size)]


def draw_rows(rows):
    """Rows of numbers below one another."""
    return "\n".join(
        f"{name:<10}{''.join(f'{number:>5}' for number in numbers)}" for name, numbers in rows.items()
    )


def slots_of(block_ids, block_size):
    """The slot of each position: blocks lie one after another in memory, `block_size` slots each."""
    first, count = {}, 0
    for block_id in range(max(block_ids, default=-1) + 1):
        first[block_id], count = count, count + block_size
    return [first[block_id] + offset for block_id, offset in places(block_ids, block_size)]


def edges(block_size):
    """Lengths at which an off-by-one shows; they are drawn every time, and not left to luck."""
    return sorted({0, block_size - 1, block_size, block_size + 1, 2 * block_size})


# -- 4.1 ---------------------------------------------------------------------------------------------------------------

STORY = [
    ("blocks_for_85_tokens() == len(table)", "blocks"),
    ("logical_block_of_50() == table.block_ids.index(table.locate(50)[0])", "logical"),
    ("offset_of_50() == table.locate(50)[1]", "offset"),
    ("slot_of_50() == table.slot(50)", "slot"),
    ("empty_slots() == table.capacity - 85", "empty"),
    ("blocks_missing_for_96() == table.num_blocks_missing(96)", "grow"),
    ("blocks_missing_for_97() == table.num_blocks_missing(97)", "grow"),
]


@pytest.mark.exercise("4.1", "smoke")
def test_every_prediction_is_a_whole_number(impl):
    for name in impl.exercise.names:
        assert isinstance(getattr(impl, name)(), int), f"{name}() should return a whole number"


@pytest.mark.exercise("4.1", "examples")
def test_the_numbers(impl):
    history = impl.history(*impl.exercise.names, imports=[BLOCK, TABLE])
    history.run("table = BlockTable(block_size=16)")
    history.run("table.append([KVCacheBlock(block_id) for block_id in (10, 15, 7, 22, 3, 31)])")
    rows = {"logical": range(6), "physical": [10, 15, 7, 22, 3, 31], "first": range(0, 96, 16)}
    for line, law in STORY:
        history.check(line, law, draw_rows(rows))
    print(f"{draw_rows(rows)}\n")


# -- 4.2 ---------------------------------------------------------------------------------------------------------------


def new_table(impl, block_ids, block_size):
    history = impl.history("BlockTable", imports=[BLOCK])
    history.run(f"table = BlockTable(block_size={block_size})")
    history.run(f"table.append([KVCacheBlock(block_id) for block_id in {list(block_ids)}])")
    return history


def check_positions(history, block_ids, block_size, positions):
    expected, slots = places(block_ids, block_size), slots_of(block_ids, block_size)
    for position in positions:
        history.check(
            f"tuple(table.locate({position})) == {expected[position]}",
            "place",
            block_picture(block_ids, block_size),
        )
        history.check(
            f"table.slot({position}) == {slots[position]}", "slot", block_picture(block_ids, block_size)
        )


def block_picture(block_ids, block_size):
    firsts = range(0, len(block_ids) * block_size, block_size)
    slots = [block_id * block_size for block_id in block_ids]
    return draw_rows({"position": firsts, "block": block_ids, "slot": slots})


@pytest.mark.exercise("4.2", "smoke")
def test_a_table_of_one_block(impl):
    history = new_table(impl, [3], 4)
    history.check("table.capacity == 4", "capacity")
    history.check("tuple(table.locate(1)) == (3, 1)", "place")
    history.check("table.slot(1) == 13", "slot")
    history.check("table.num_blocks_missing(5) == 1", "missing")


@pytest.mark.exercise("4.2", "examples")
@pytest.mark.parametrize("block_ids, block_size", [((7, 1, 4), 4), ((10, 15, 7, 22, 3, 31), 16), ((2, 1), 1)])
def test_worked_tables(impl, block_ids, block_size):
    history = new_table(impl, block_ids, block_size)
    check_positions(history, block_ids, block_size, range(len(block_ids) * block_size))
    print(f"{block_picture(block_ids, block_size)}\n")


@pytest.mark.exercise("4.2", "examples")
@pytest.mark.parametrize("held", [0, 1, 3])
def test_growing_over_a_boundary(impl, held):
    history = new_table(impl, range(1, held + 1), 4)
    history.check(f"table.capacity == {4 * held}", "capacity")
    for num_tokens in edges(4):
        needed = len(range(0, num_tokens, 4))  # one block for each position that begins one
        history.check(f"table.num_blocks_missing({num_tokens}) == {max(0, needed - held)}", "missing")


@st.composite
def tables(draw):
    block_size = draw(st.integers(1, 6))
    ids = draw(st.lists(st.integers(1, 12), unique=True, min_size=1, max_size=5))
    return ids, block_size


@pytest.mark.exercise("4.2", "properties")
@settings(max_examples=50)
@given(tables())
def test_every_position_of_any_table(impl, table):
    block_ids, block_size = table
    history = new_table(impl, block_ids, block_size)
    count = len(block_ids) * block_size
    check_positions(history, block_ids, block_size, range(count))
    history.run(f"memory = {{table.slot(position): position for position in range({count})}}")
    history.check(f"[memory[table.slot(p)] for p in range({count})] == {list(range(count))}", "injective")


@pytest.mark.exercise("4.2", "properties")
@settings(max_examples=50)
@given(tables(), st.integers(0, 40))
def test_blocks_missing_for_any_length(impl, table, num_tokens):
    block_ids, block_size = table
    history = new_table(impl, block_ids, block_size)
    history.check(f"table.capacity == {len(places(block_ids, block_size))}", "capacity")
    for length in [*edges(block_size), num_tokens]:
        needed = len(range(0, length, block_size))
        history.check(f"table.num_blocks_missing({length}) == {max(0, needed - len(block_ids))}", "missing")


# -- 4.3 ---------------------------------------------------------------------------------------------------------------


def new_batch(impl, block_tables, block_size):
    history = impl.history("slot_mapping", imports=[NUMPY])
    history.run(f"block_tables = np.array({block_tables}, dtype=np.int32)")
    history.run(f"block_size = {block_size}")
    return history


def check_batch(history, tokens, slots, law="slots"):
    """`tokens` are (row, position) pairs, in the order of the batch."""
    rows, positions = [row for row, _ in tokens], [position for _, position in tokens]
    history.run(f"rows = np.array({rows}, dtype=np.int32)")
    history.run(f"positions = np.array({positions}, dtype=np.int64)")
    history.run("slots = slot_mapping(block_tables, rows, positions, block_size)")
    picture = compare(
        {"row": rows, "position": positions, "expected": slots, "yours": history.value("slots").tolist()}
    )
    history.check(f"slots.tolist() == {slots}", law, picture)
    return picture


@pytest.mark.exercise("4.3", "smoke")
def test_one_token(impl):
    check_batch(new_batch(impl, [[7, 1]], 4), [(0, 5)], [5])


@pytest.mark.exercise("4.3", "examples")
def test_a_prefill_and_a_decode(impl):
    history = new_batch(impl, [[7, 1, 4, 6], [2, 3, 0, 0]], 4)
    print(check_batch(history, [(0, 10), (0, 11), (0, 12), (1, 7)], [18, 19, 24, 15]), "\n")


@pytest.mark.exercise("4.3", "examples")
def test_no_tokens(impl):
    check_batch(new_batch(impl, [[7, 1]], 4), [], [], "empty")


@pytest.mark.exercise("4.3", "examples")
def test_more_slots_than_32_bits_count(impl):
    history = new_batch(impl, [[200_000_000]], 16)
    check_batch(history, [(0, 3)], [3_200_000_003], "wide")
    history.check("slots.dtype == np.int64", "wide")


@st.composite
def batches(draw):
    """Some requests with tables of any length, and a batch of any of their tokens in any order."""
    block_size = draw(st.integers(1, 5))
    ids = draw(st.permutations(range(1, 13)))
    tables = [list(ids[first : first + draw(st.integers(1, 4))]) for first in (0, 4, 8)]
    everything = [(row, p) for row, table in enumerate(tables) for p in range(len(table) * block_size)]
    tokens = draw(st.lists(st.sampled_from(everything), unique=True, max_size=12))
    ends = [(row, len(table) * block_size - 1) for row, table in enumerate(tables)]
    return tables, block_size, [*(end for end in ends if end not in tokens), *tokens]


@pytest.mark.exercise("4.3", "properties")
@settings(max_examples=60)
@given(batches())
def test_any_batch(impl, batch):
    tables, block_size, tokens = batch
    history = new_batch(impl, [table + [0] * (4 - len(table)) for table in tables], block_size)
    slots = [slots_of(table, block_size) for table in tables]
    check_batch(history, tokens, [slots[row][position] for row, position in tokens])
    check_batch(history, tokens[::-1], [slots[row][position] for row, position in reversed(tokens)], "own")


# -- 4.4 ---------------------------------------------------------------------------------------------------------------


def check_pieces(impl, start, stop, block_size):
    history = impl.history("pieces")
    history.run(f"parts = pieces({start}, {stop}, {block_size})")
    parts = [tuple(part) for part in history.value("parts")]
    picture = draw_rows(
        {"block": [p[0] for p in parts], "first": [p[1] for p in parts], "behind": [p[2] for p in parts]}
    )
    history.check("all(first < behind for _, first, behind in parts) == True", "nonempty", picture)
    history.check(
        f"all(0 <= first and behind <= {block_size} for _, first, behind in parts) == True", "inside", picture
    )
    found = [
        logical * block_size + offset for logical, first, behind in parts for offset in range(first, behind)
    ]
    history.run(f"found = [b * {block_size} + i for b, first, behind in parts for i in range(first, behind)]")
    assert found == history.value("found")
    history.check(f"found == {list(range(start, stop))}", "cover", picture)


@pytest.mark.exercise("4.4", "smoke")
def test_a_run_inside_one_block(impl):
    check_pieces(impl, 1, 3, 4)


@pytest.mark.exercise("4.4", "examples")
@pytest.mark.parametrize("start, stop", [(6, 13), (0, 4), (0, 5), (3, 4), (4, 12), (15, 17)])
def test_worked_runs(impl, start, stop):
    check_pieces(impl, start, stop, 4)


@pytest.mark.exercise("4.4", "properties")
@settings(max_examples=80)
@given(st.integers(1, 6), st.integers(0, 20), st.integers(1, 20))
def test_any_run(impl, block_size, start, length):
    check_pieces(impl, start, start + length, block_size)
