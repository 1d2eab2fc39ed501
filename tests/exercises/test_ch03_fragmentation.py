"""Grader of chapter 03: waste accounting, first fit, and what a block size costs.

The oracles paint slots one by one, or play the trace through the simulator.
"""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from minivllm.course.grading import compare
from minivllm.sim.memory import simulate_memory
from minivllm.sim.memory_report import run_memory
from minivllm.sim.policies import make_policy
from minivllm.sim.trace import fixed_trace

# -- 3.1 ---------------------------------------------------------------------------------------------------------------

CLASSES = ("used", "reserved", "internal", "external", "free")


def paint(need, used, allocated):
    """One letter for each slot of a request."""
    return "".join("u" if i < used else "r" if i < need else "i" for i in range(allocated))


def expected_usage(accounts, holes, wanted, size):
    slots = "".join(paint(need, used, allocated) for need, used, allocated, _ in accounts)
    has_room = wanted <= sum(holes)
    fits_somewhere = [hole for hole in holes if hole >= size]
    letter = "e" if wanted and has_room and not fits_somewhere else "f"
    slots += letter * sum(holes)
    return [slots.count(letter) for letter in "urief"]


def check_usage(impl, accounts, holes, wanted=0, size=0):
    """accounts: (need, used, allocated, rounding) of each request."""
    history = impl.history("Account", "count_usage")
    made = ", ".join(f"Account(need={n}, used={u}, allocated={a}, rounding={r})" for n, u, a, r in accounts)
    history.run(f"accounts = [{made}]")
    expected = expected_usage(accounts, holes, wanted, size)

    def picture():
        rows = [
            f"request {i}: {paint(n, u, a)}  (need {n}, allocated {a})"
            for i, (n, u, a, _) in enumerate(accounts)
        ]
        return "\n".join([*rows, f"holes: {holes}, wanted in one piece: {size} for {wanted}"])

    for index, (need, used, allocated, _) in enumerate(accounts):
        row = paint(need, used, allocated)
        history.check(f"accounts[{index}].reserved == {row.count('r')}", "reserved", picture)
        history.check(f"accounts[{index}].internal == {row.count('i')}", "internal", picture)
    history.run(f"usage = count_usage(accounts, {holes}, wanted={wanted}, size={size})")

    def table():
        yours = [getattr(history.value("usage"), name) for name in CLASSES]
        return picture() + "\n\n" + compare({"class": CLASSES, "expected": expected, "yours": yours})

    for name, law, count in zip(
        CLASSES, ("used", "reserved", "internal", "external", "sum"), expected, strict=True
    ):
        history.check(f"usage.{name} == {count}", law, table)
    history.check(f"usage.capacity == {sum(a for _, _, a, _ in accounts) + sum(holes)}", "sum", table)
    history.check(f"usage.rounding == {sum(r for *_, r in accounts)}", "rounding", table)
    return table


@pytest.mark.exercise("3.1", "smoke")
def test_one_request(impl):
    check_usage(impl, [(9, 5, 16, 0)], [])


@pytest.mark.exercise("3.1", "examples")
@pytest.mark.parametrize(
    ("accounts", "holes", "wanted", "size"),
    [
        ([(800, 800, 2048, 0), (1400, 1400, 2048, 0), (600, 600, 2048, 0)], [], 2048, 2048),
        ([(85, 85, 96, 0)], [64], 0, 0),  # 6 blocks of 16
        ([(40, 5, 8, 0), (8, 5, 8, 0)], [4, 4], 0, 0),  # the first will need more than it holds
        ([(8, 6, 8, 0)], [8, 8], 12, 12),  # enough, but in pieces
        ([(8, 6, 8, 0)], [8, 8], 8, 8),  # it fits exactly
        ([(8, 6, 8, 0)], [8, 8], 16, 16),  # just enough, but in pieces
        ([(8, 6, 8, 0)], [8, 8], 17, 17),  # too little: full, not fragmented
        ([(5, 5, 8, 3)], [4, 8], 7, 8),
        ([(5, 5, 8, 3)], [6, 6], 6, 8),  # a buddy allocator rounds 6 up to 8
    ],
)
def test_worked_usages(impl, accounts, holes, wanted, size):
    table = check_usage(impl, accounts, holes, wanted, size)
    if sum(allocated for _, _, allocated, _ in accounts) < 200:
        print(table(), "\n")


def account():
    """(need, used, allocated, rounding), with used <= both."""
    pairs = st.tuples(st.integers(1, 12), st.integers(1, 16), st.integers(0, 12), st.integers(0, 3))
    return pairs.map(lambda p: (p[0], min(p[0], p[1], p[2]), p[1], p[3]))


@pytest.mark.exercise("3.1", "properties")
@settings(max_examples=150)
@given(
    st.lists(account(), max_size=4),
    st.lists(st.integers(1, 8), max_size=4),
    st.integers(-2, 2),
    st.sampled_from(["sum", "max", "nobody"]),
    st.integers(0, 3),
)
def test_every_slot_is_in_one_class(impl, accounts, holes, near, edge, more):
    """The head of the queue wants about as much as all holes together, or as the largest: there it goes wrong."""
    wanted = (
        0 if edge == "nobody" else max(1, (sum(holes) if edge == "sum" else max(holes, default=0)) + near)
    )
    check_usage(impl, accounts, holes, wanted, wanted + more if wanted else 0)


@pytest.mark.exercise("3.1", "properties")
@settings(max_examples=25)
@given(
    st.lists(st.tuples(st.integers(1, 8), st.integers(1, 8)), min_size=2, max_size=6),
    st.sampled_from(["oracle-first-fit", "buddy", "paged"]),
)
def test_it_adds_up_at_every_event_of_a_run(impl, lengths, name):
    trace, capacity = fixed_trace(lengths), 32
    need = {request.request_id: request.num_kv_tokens for request in trace.requests}
    policy = make_policy(name, capacity, block_size=4, max_model_len=16)
    for frame in simulate_memory(trace, policy, keep_layout=lambda step, event: True):
        held, holes, end = {}, [], 0
        for piece in frame.layout:
            used, allocated = held.get(piece.request_id, (0, 0))
            held[piece.request_id] = (used + piece.used, allocated + piece.size)
            holes.append(piece.start - end)
            end = piece.start + piece.size
        holes = [size for size in [*holes, capacity - end] if size]
        check_usage(impl, [(need[who], used, allocated, 0) for who, (used, allocated) in held.items()], holes)


@pytest.mark.exercise("3.1", "properties")
@settings(max_examples=40)
@given(st.integers(1, 20), st.integers(1, 60), st.integers(0, 60))
def test_a_paged_request_wastes_less_than_a_block(impl, block_size, used, later):
    history = impl.history("Account", "count_usage")
    allocated = -(-used // block_size) * block_size
    history.run(f"paged = Account(need={used + later}, used={used}, allocated={allocated})")
    history.check(
        f"0 <= paged.reserved + paged.internal < {block_size}", "paged", paint(used + later, used, allocated)
    )


# -- 3.2 ---------------------------------------------------------------------------------------------------------------

EXTENT = "from minivllm.sim.allocators import Extent"
FREE = "."


class Row:
    """The memory as a row of letters: who holds each slot."""

    def __init__(self, capacity):
        self.slots = [FREE] * capacity

    def allocate(self, size, letter):
        """The start of the lowest run of free slots that is long enough; None if there is none."""
        for start in range(len(self.slots) - size + 1):
            if all(slot == FREE for slot in self.slots[start : start + size]):
                self.slots[start : start + size] = letter * size
                return start
        return None

    def free(self, letter):
        self.slots = [FREE if slot == letter else slot for slot in self.slots]

    def holes(self):
        """(start, size) of every longest run of free slots."""
        row, found, start = "".join(self.slots) + "|", [], None
        for index, slot in enumerate(row):
            if slot == FREE and start is None:
                start = index
            elif slot != FREE and start is not None:
                found.append((start, index - start))
                start = None
        return found


class Memory:
    """The learner's allocator and the row, told the same."""

    def __init__(self, impl, capacity):
        self.history = impl.history("FirstFitAllocator", imports=[EXTENT])
        self.history.run(f"memory = FirstFitAllocator({capacity})")
        self.row = Row(capacity)
        self.live = {}
        self.names = iter("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")

    def picture(self):
        """Each hole with its number, 1, 2, ...; two that touch have different ones."""
        rows = {"slot": [i % 10 for i in range(len(self.row.slots))], "held by": self.row.slots}
        yours = self.history.value("memory").holes()
        rows |= {"holes": self.numbered(self.row.holes()), "your holes": self.numbered(yours)}
        return compare(rows, expected="holes", yours="your holes")

    def numbered(self, holes):
        slots = ["-"] * len(self.row.slots)
        for number, (start, size) in enumerate(holes, start=1):
            slots[start : start + size] = [number] * size
        return slots[: len(self.row.slots)]

    def allocate(self, size):
        name = next(self.names)
        before = self.row.holes()
        start = self.row.allocate(size, name)
        self.history.run(f"{name} = memory.allocate({size})")
        if start is None:
            self.history.check(f"{name} is None", "refusal", self.picture)
            self.history.check(
                f"[tuple(hole) for hole in memory.holes()] == {before}", "refusal", self.picture
            )
            return
        self.history.check(f"{name} is not None", "lowest", self.picture)
        self.live[name] = (start, size)
        self.history.check(f"tuple({name}) == {(start, size)}", "lowest", self.picture)
        self.check()

    def free(self, name):
        self.history.run(f"memory.free({name})")
        self.row.free(name)
        del self.live[name]
        self.check()

    def refuses_to_free(self, start, size):
        self.history.refuses(f"memory.free(Extent({start}, {size}))", "misuse", self.picture)

    def check(self):
        expected = self.row.holes()
        total = sum(size for _, size in expected)
        self.history.check(
            f"sum(hole.size for hole in memory.holes()) == {total}", "conservation", self.picture
        )
        self.history.check(f"[tuple(hole) for hole in memory.holes()] == {expected}", "whole", self.picture)


@pytest.mark.exercise("3.2", "smoke")
def test_one_extent_out_and_back(impl):
    memory = Memory(impl, 8)
    memory.allocate(3)
    memory.free("a")


@pytest.mark.exercise("3.2", "examples")
@pytest.mark.parametrize(
    "freed",
    ["b", "bd", "abc", "acb", "cba", "dcbae", "badce"],
    ids=lambda letters: f"free-{letters}",
)
def test_holes_join_on_either_side(impl, freed):
    memory = Memory(impl, 18)
    for size in (4, 4, 2, 4, 2):
        memory.allocate(size)
    for letter in freed:
        memory.free(letter)
    print(f"{freed} were freed, in this order\n{memory.picture()}\n")


@pytest.mark.exercise("3.2", "examples")
def test_the_first_hole_not_the_best(impl):
    memory = Memory(impl, 16)
    for size in (2, 6, 2, 3, 3):
        memory.allocate(size)
    memory.free("b")  # a hole of 6
    memory.free("d")  # a hole of 3
    memory.allocate(3)
    memory.allocate(3)
    memory.allocate(3)  # it fits exactly
    print(memory.picture())


@pytest.mark.exercise("3.2", "examples")
def test_enough_but_in_pieces(impl):
    memory = Memory(impl, 24)
    for _ in range(3):
        memory.allocate(8)
    memory.free("a")
    memory.free("c")
    memory.allocate(12)  # 16 slots are free, in two holes of 8
    print(memory.picture())


@pytest.mark.exercise("3.2", "examples")
def test_freeing_twice_is_refused(impl):
    memory = Memory(impl, 12)
    for _ in range(3):
        memory.allocate(3)
    memory.free("b")
    memory.refuses_to_free(3, 3)
    memory.refuses_to_free(4, 1)  # inside a hole
    memory.refuses_to_free(2, 3)  # into a hole from the left
    memory.refuses_to_free(5, 3)  # out of a hole to the right
    memory.refuses_to_free(10, 2)


def memory_machine(impl):
    """Requests come and go."""

    class Machine(RuleBasedStateMachine):
        def __init__(self):
            super().__init__()
            self.memory = Memory(impl, 16)

        @rule(size=st.integers(1, 6))
        def allocate(self, size):
            self.memory.allocate(size)

        @precondition(lambda self: self.memory.live)
        @rule(data=st.data())
        def free(self, data):
            self.memory.free(data.draw(st.sampled_from(sorted(self.memory.live))))

        @precondition(lambda self: self.memory.row.holes())
        @rule(data=st.data())
        def free_twice(self, data):
            start, size = data.draw(st.sampled_from(self.memory.row.holes()))
            self.memory.refuses_to_free(start, data.draw(st.integers(1, size)))

    return Machine


@pytest.mark.exercise("3.2", "properties")
def test_any_history_of_comings_and_goings(impl):
    run_state_machine_as_test(
        memory_machine(impl), settings=settings(max_examples=40, stateful_step_count=20)
    )


# -- 3.3 ---------------------------------------------------------------------------------------------------------------

SIMULATOR = [
    "from minivllm.sim.memory import simulate_memory",
    "from minivllm.sim.policies import make_policy",
    "from minivllm.sim.trace import fixed_trace",
]
TWO = "two = fixed_trace([(5, 4), (9, 2)])  # A and B"
HOLES = "holes = fixed_trace([(7, 2), (4, 5), (7, 2), (10, 3)])  # A, B, C and D"
FRAME = """def frame(trace, policy, step=0):
    frames = simulate_memory(trace, policy, keep_layout=lambda step, event: True)
    return next(f for f in frames if f.event == "step" and f.step == step)
"""
QUESTIONS = [  # (the prediction, the simulator's truth, the law)
    (
        "reserved_by_max",
        "frame(two, make_policy('max-first-fit', 48, max_model_len=16)).usage.reserved",
        "reserved",
    ),
    (
        "internal_by_max",
        "frame(two, make_policy('max-first-fit', 48, max_model_len=16)).usage.internal",
        "internal",
    ),
    (
        "internal_by_pow2",
        "frame(two, make_policy('pow2-first-fit', 48, max_model_len=16)).usage.internal",
        "pow2",
    ),
    ("blocks_by_paged", "len(frame(two, make_policy('paged', 48, block_size=4)).layout)", "blocks"),
    ("empty_by_paged", "frame(two, make_policy('paged', 48, block_size=4)).usage.allocated - 5 - 9", "empty"),
    ("most_empty_by_paged", "max(-length % 16 for length in range(1, 100))", "bound"),
    (
        "external_slots",
        "frame(holes, make_policy('oracle-first-fit', 24), step=2).usage.external",
        "external",
    ),
    (
        "blocks_for_d",
        "sum(p.request_id == 'r4' for p in frame(holes, make_policy('paged', 24, block_size=4), step=2).layout)",
        "demand",
    ),
]


@pytest.mark.exercise("3.3", "smoke")
def test_every_prediction_is_a_whole_number(impl):
    for name in impl.exercise.names:
        assert isinstance(getattr(impl, name)(), int), f"{name}() should return a whole number"


@pytest.mark.exercise("3.3", "examples")
@pytest.mark.parametrize(("name", "truth", "law"), QUESTIONS, ids=[question[0] for question in QUESTIONS])
def test_the_simulator_agrees(impl, name, truth, law):
    history = impl.history(name, imports=SIMULATOR)
    for line in (TWO, HOLES, FRAME):
        history.run(line)
    history.check(f"{name}() == {truth}", law)
    print(f"{name}: {history.value(truth)}")


# -- 3.4 ---------------------------------------------------------------------------------------------------------------

LENGTHS = st.lists(st.tuples(st.integers(1, 30), st.integers(1, 12)), min_size=1, max_size=5)


def simulated_share(requests, block_size):
    """The truth: the trace is played in a memory that is large enough for all."""
    capacity = block_size * sum(-(-(prompt + output) // block_size) for prompt, output in requests)
    return run_memory(
        fixed_trace(requests), make_policy("paged", capacity, block_size=block_size)
    ).summary.waste_of_allocated


def check_share(history, requests, block_size):
    share = simulated_share(requests, block_size)
    history.check(f"round(waste_share({requests}, {block_size}), 9) == {round(share, 9)}", "share")


@pytest.mark.exercise("3.4", "smoke")
def test_the_example_of_the_task(impl):
    history = impl.history(*impl.exercise.names)
    history.check("[empty_slots(n, 4) for n in (5, 6, 7)] == [3, 2, 1]", "multiple")
    history.check("waste_share([(5, 3)], 4) == 0.25", "share")
    history.check("choose_block_size([(5, 3)], [1, 4], 0.3) == 4", "choice")


@pytest.mark.exercise("3.4", "examples")
def test_whole_blocks_are_not_empty(impl):
    history = impl.history("empty_slots")
    for block_size in (1, 2, 16):
        for num_tokens in (1, block_size, block_size + 1, 5 * block_size):
            law = "bound" if num_tokens % block_size == 0 else "multiple"
            expected = (block_size - num_tokens % block_size) % block_size
            history.check(f"empty_slots({num_tokens}, {block_size}) == {expected}", law)
    print("85 tokens in blocks of 16: 6 blocks, 11 empty slots")


@pytest.mark.exercise("3.4", "examples")
@pytest.mark.parametrize(
    ("requests", "block_size"),
    [([(5, 3)], 4), ([(16, 1)], 16), ([(1, 1), (100, 1)], 16), ([(3, 9), (30, 2)], 8)],
)
def test_worked_shares(impl, requests, block_size):
    check_share(impl.history("waste_share"), requests, block_size)
    print(f"{requests} in blocks of {block_size}: {simulated_share(requests, block_size):.4f} are empty")


@pytest.mark.exercise("3.4", "examples")
def test_worked_choices(impl):
    history = impl.history("choose_block_size")
    history.check("choose_block_size([(12, 1)], [4, 8, 12, 16], 0.2) == 12", "choice")  # 8 wastes a quarter
    history.check("choose_block_size([(12, 1)], [16, 4, 8], 0.25) == 16", "choice")  # exactly a quarter
    history.check("choose_block_size([(12, 1)], [8, 16], 0.1) is None", "choice")
    history.check("choose_block_size([(1, 1)], [2], 0.5) == 2", "choice")
    print("requests of 12 tokens: 8 wastes 25 %, 12 nothing, 16 wastes 25 %")


@pytest.mark.exercise("3.4", "properties")
@settings(max_examples=60)
@given(st.integers(1, 200), st.integers(1, 40))
def test_empty_slots_fill_up_the_last_block(impl, num_tokens, block_size):
    history = impl.history("empty_slots")
    history.check(f"0 <= empty_slots({num_tokens}, {block_size}) < {block_size}", "bound")
    history.check(f"({num_tokens} + empty_slots({num_tokens}, {block_size})) % {block_size} == 0", "multiple")


@pytest.mark.exercise("3.4", "properties")
@settings(max_examples=60)
@given(LENGTHS, st.sampled_from([1, 2, 3, 4, 8, 16]))
def test_the_share_is_the_simulators(impl, requests, block_size):
    check_share(impl.history("waste_share"), requests, block_size)


@pytest.mark.exercise("3.4", "properties")
@settings(max_examples=60)
@given(
    LENGTHS, st.sets(st.integers(1, 24), min_size=1, max_size=6), st.sampled_from([0.0, 0.05, 0.1, 0.25, 0.5])
)
def test_the_choice_is_the_largest_that_is_good_enough(impl, requests, block_sizes, max_share):
    fitting = [size for size in block_sizes if simulated_share(requests, size) <= max_share]
    expected = max(fitting) if fitting else None
    history = impl.history("choose_block_size")
    history.check(
        f"choose_block_size({requests}, {sorted(block_sizes)}, {max_share}) == {expected}", "choice"
    )
