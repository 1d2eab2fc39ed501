"""First fit and buddies against a row of cells: what is free is looked up there, one address at a time."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minivllm.sim.allocators import BuddyAllocator, Extent, FirstFitAllocator, next_power_of_two


def runs_of_free(cells):
    """The free runs of a row of cells, as (start, size)."""
    text = "".join("x" if taken else "." for taken in cells)
    runs, start = [], 0
    for part in text.replace("x", "|x|").replace("||", "|").split("|"):
        if part.startswith("."):
            runs.append((start, len(part)))
        start += len(part)
    return runs


def arenas(capacity):
    """The buddy system's arenas: one for each 1 in the binary number, the largest first."""
    digits, found, start = f"{capacity:b}", [], 0
    for i, digit in enumerate(digits):
        if digit == "1":
            size = 2 ** (len(digits) - 1 - i)
            found.append((start, size))
            start += size
    return found


def largest_free_chunks(cells, start, size):
    """All of the arena [start, start + size) that is free, in aligned halves of halves, each as large as can be."""
    if not any(cells[start : start + size]):
        return [(start, size)]
    if size == 1:
        return []
    half = size // 2
    return largest_free_chunks(cells, start, half) + largest_free_chunks(cells, start + half, half)


def expected_first_fit(cells, size):
    return next(((start, size) for start, free in runs_of_free(cells) if free >= size), None)


def expected_buddy(cells, size):
    chunk = 1
    while chunk < size:
        chunk += chunk
    chunks = [c for arena in arenas(len(cells)) for c in largest_free_chunks(cells, *arena)]
    fitting = sorted((free, start) for start, free in chunks if free >= chunk)
    return (fitting[0][1], chunk) if fitting else None


# Many operations, more of them allocations, mostly of small sizes: so that holes of equal size come to stand apart.
SIZES = st.sampled_from([1, 1, 1, 2, 2, 3, 4, 5, 8, 24])
KINDS = st.sampled_from(["allocate", "allocate", "allocate", "free", "free", "double"])
OPERATIONS = st.lists(st.tuples(KINDS, SIZES, st.integers(0, 9)), min_size=12, max_size=40)


@pytest.mark.parametrize(
    ("make", "expected"), [(FirstFitAllocator, expected_first_fit), (BuddyAllocator, expected_buddy)]
)
@given(capacity=st.integers(1, 70), operations=OPERATIONS)
def test_against_a_row_of_cells(make, expected, capacity, operations):
    allocator, cells, live = make(capacity), [False] * capacity, []
    for kind, size, which in operations:
        if kind == "allocate":
            extent = allocator.allocate(size)
            assert extent == expected(cells, size)
            if extent is not None:
                assert extent.size == allocator.size_for(size) >= size
                assert not any(cells[extent.start : extent.end]) and extent.end <= capacity
                cells[extent.start : extent.end] = [True] * extent.size
                live.append(extent)
        elif live:
            extent = live.pop(which % len(live))
            allocator.free(extent)
            cells[extent.start : extent.end] = [False] * extent.size
        assert sum(hole.size for hole in allocator.holes()) == cells.count(False)
        assert allocator.holes() == sorted(allocator.holes())
    for extent in live:
        allocator.free(extent)
    assert allocator.holes() == make(capacity).holes()


def test_first_fit_fragments_by_itself():
    """Half of the memory is free, and half of that cannot be had in one piece."""
    allocator = FirstFitAllocator(8)
    extents = [allocator.allocate(2) for _ in range(4)]
    allocator.free(extents[0])
    allocator.free(extents[2])
    assert allocator.holes() == [(0, 2), (4, 2)]
    assert allocator.allocate(3) is None
    allocator.free(extents[1])
    assert allocator.holes() == [(0, 6)]
    assert allocator.allocate(3) == (0, 3)


def test_a_buddy_splits_down_and_joins_up():
    allocator = BuddyAllocator(16)
    small = allocator.allocate(2)
    assert small == (0, 2)
    assert allocator.holes() == [(2, 2), (4, 4), (8, 8)]
    other = allocator.allocate(3)
    assert other == (4, 4)  # rounded up
    allocator.free(small)
    assert allocator.holes() == [(0, 4), (8, 8)]
    allocator.free(other)
    assert allocator.holes() == [(0, 16)]


def test_a_capacity_that_is_no_power_of_two_is_a_row_of_arenas():
    allocator = BuddyAllocator(15728)
    assert [hole.size for hole in allocator.holes()] == [8192, 4096, 2048, 1024, 256, 64, 32, 16]
    assert [allocator.allocate(2048).start for _ in range(7)] == [12288, 8192, 10240, 0, 2048, 4096, 6144]
    assert allocator.allocate(2048) is None


@given(st.integers(1, 70), OPERATIONS)
def test_doubling_joins_exactly_a_free_buddy(capacity, operations):
    allocator, live = BuddyAllocator(capacity), []
    for kind, size, which in operations:
        if kind == "allocate":
            if (extent := allocator.allocate(size)) is not None:
                live.append(extent)
        elif live and kind == "free":
            allocator.free(live.pop(which % len(live)))
        elif live:
            index = which % len(live)
            old, before = live[index], allocator.holes()
            new = allocator.double(old)
            start = old.start // (2 * old.size) * (2 * old.size)
            buddy = Extent(start if old.start != start else start + old.size, old.size)
            assert (new is not None) == (buddy in before)
            if new is None:
                assert allocator.holes() == before
            else:
                assert new == (start, 2 * old.size)
                assert allocator.holes() == [hole for hole in before if hole != buddy]
                live[index] = new
    for extent in live:
        allocator.free(extent)
    assert allocator.holes() == BuddyAllocator(capacity).holes()


@pytest.mark.parametrize("make", [FirstFitAllocator, BuddyAllocator])
def test_misuse(make):
    with pytest.raises(ValueError, match="capacity must be"):
        make(0)
    allocator = make(8)
    with pytest.raises(ValueError, match="size must be"):
        allocator.allocate(0)
    extent = allocator.allocate(2)
    allocator.allocate(1)
    allocator.free(extent)
    with pytest.raises(AssertionError, match="was free already"):
        allocator.free(extent)


@pytest.mark.parametrize(("number", "power"), [(1, 1), (2, 2), (3, 4), (25, 32), (32, 32), (33, 64)])
def test_next_power_of_two(number, power):
    assert next_power_of_two(number) == power
