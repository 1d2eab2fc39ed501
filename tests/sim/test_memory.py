"""The laws of the memory simulator, recounted at every event from nothing but the trace, the events and the layout."""

from collections import Counter, deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minivllm.core.block_table import cdiv
from minivllm.sim.memory import MemorySimulator, simulate_memory
from minivllm.sim.memory_report import run_memory
from minivllm.sim.policies import POLICIES, make_policy
from minivllm.sim.policies.contiguous import guess_max, guess_oracle, guess_pow2
from minivllm.sim.trace import TraceRequest, fixed_trace
from minivllm.sim.usage import Ledger

MAX_LEN = 24
BLOCK = 4
EVERY_POLICY = pytest.mark.parametrize("name", POLICIES)
SOME = settings(max_examples=25)  # for each policy


@st.composite
def traces(draw):
    """Three to nine requests that fit into MAX_LEN tokens, at once or one after the other."""
    lengths = draw(st.lists(st.tuples(st.integers(1, 12), st.integers(1, 12)), min_size=3, max_size=9))
    arrivals = draw(st.lists(st.integers(0, 30), min_size=len(lengths), max_size=len(lengths)))
    return fixed_trace(lengths, [float(time) for time in arrivals])


# 32 tokens hold one request of any policy; 69 is 64 + 4 + 1: three arenas, 17 blocks and one slot that makes none.
CAPACITIES = st.sampled_from([32, 40, 64, 69])


def play(trace, name, capacity, **options):
    policy = make_policy(name, capacity, block_size=BLOCK, max_model_len=MAX_LEN)
    simulator = MemorySimulator(trace, policy, step_time=1.0, keep_layout=lambda step, event: True, **options)
    return list(simulator.frames()), policy


class Recount:
    """Who waits, who runs, and how many tokens each has: kept from the events alone."""

    def __init__(self, trace):
        self.requests = {request.request_id: request for request in trace.requests}
        self.sampled = Counter()
        self.written = {}
        self.waiting = deque()

    def see(self, frame):
        who = frame.request_id
        if frame.event == "arrive":
            self.waiting.append(who)
        elif frame.event == "admit":
            assert self.waiting.popleft() == who, "not first come, first served"
            self.written[who] = self.requests[who].prompt_len + self.sampled[who]
            self.sampled[who] += 1
        elif frame.event == "append":
            self.written[who] += 1
            self.sampled[who] += 1
        elif frame.event == "preempt":
            assert who == list(self.written)[-1], "not the one that came last"
            del self.written[who]
            self.waiting.appendleft(who)
        elif frame.event == "finish":
            assert self.sampled[who] == self.requests[who].output_len
            assert self.written.pop(who) == self.requests[who].num_kv_tokens


def cells_of(frame, capacity):
    """Paint the layout cell by cell: nothing may be painted twice."""
    cells = [None] * capacity
    for piece in frame.layout:
        assert piece.start >= 0 and piece.start + piece.size <= capacity
        assert piece.used >= 0 and piece.reserved >= 0 and piece.internal >= 0
        kinds = ["used"] * piece.used + ["reserved"] * piece.reserved + ["internal"] * piece.internal
        for offset, kind in enumerate(kinds):
            assert cells[piece.start + offset] is None, "two requests in one slot"
            cells[piece.start + offset] = (piece.request_id, kind)
    return cells


@EVERY_POLICY
@SOME
@given(trace=traces(), capacity=CAPACITIES)
def test_every_slot_is_in_one_class_at_every_event(name, trace, capacity):
    frames, policy = play(trace, name, capacity)
    recount = Recount(trace)
    for frame in frames:
        recount.see(frame)
        usage = frame.usage
        assert min(usage) >= 0
        assert (
            usage.used + usage.internal + usage.reserved + usage.external + usage.free
            == capacity
            == usage.capacity
        )
        cells = cells_of(frame, capacity)
        kinds = Counter(kind for _, kind in filter(None, cells))
        assert (usage.used, usage.reserved, usage.internal) == (
            kinds["used"],
            kinds["reserved"],
            kinds["internal"],
        )
        per_request = Counter(who for who, kind in filter(None, cells) if kind == "used")
        assert per_request == Counter(recount.written)
        promised = Counter(who for who, kind in filter(None, cells) if kind == "reserved")
        for who, written in recount.written.items():
            assert written + promised[who] <= recount.requests[who].num_kv_tokens
        assert (frame.num_running, frame.num_waiting) == (len(recount.written), len(recount.waiting))
    assert policy.usage(None).allocated == 0 and policy.layout() == []


@EVERY_POLICY
@SOME
@given(trace=traces(), capacity=CAPACITIES)
def test_everybody_arrives_is_admitted_and_finishes(name, trace, capacity):
    frames, _ = play(trace, name, capacity)
    count = Counter((frame.event, frame.request_id) for frame in frames)
    for request in trace.requests:
        who = request.request_id
        assert count["arrive", who] == count["finish", who] == 1
        assert count["admit", who] == 1 + count["preempt", who]
        assert count["admit", who] + count["append", who] == request.output_len, "one token for each"


@EVERY_POLICY
@SOME
@given(trace=traces(), capacity=CAPACITIES)
def test_external_is_what_a_waiting_request_would_fit_into_if_it_were_one_piece(name, trace, capacity):
    frames, policy = play(trace, name, capacity)
    recount = Recount(trace)
    for frame in frames:
        recount.see(frame)
        if name == "paged":
            assert frame.usage.external == capacity % BLOCK
            continue
        free = [cell is None for cell in cells_of(frame, capacity)]
        head = recount.requests[recount.waiting[0]] if recount.waiting else None
        if head is None or wanted(name, head, recount) > sum(free):
            assert frame.usage.external == 0
        elif name.endswith("first-fit"):
            longest = max(map(len, "".join(" x"[is_free] for is_free in free).split()), default=0)
            assert frame.usage.external == (sum(free) if longest < wanted(name, head, recount) else 0)
        else:
            assert frame.usage.external in (0, sum(free))


def wanted(name, request, recount):
    """What the policy asks for in one piece, by the table of the paper's section 6.1."""
    if name == "buddy":
        return request.prompt_len + recount.sampled[request.request_id]
    power = 1
    while power < request.output_len:
        power *= 2
    guesses = {
        "max": MAX_LEN,
        "pow2": min(MAX_LEN, request.prompt_len + power),
        "oracle": request.num_kv_tokens,
    }
    return guesses[name.removesuffix("-first-fit")]


@given(trace=traces(), capacity=CAPACITIES)
def test_a_paged_request_wastes_less_than_a_block(trace, capacity):
    frames, policy = play(trace, "paged", capacity)
    for frame in frames:
        size, used, blocks = Counter(), Counter(), Counter()
        for piece in frame.layout:
            assert piece.size == BLOCK and piece.start % BLOCK == 0
            size[piece.request_id] += piece.size
            used[piece.request_id] += piece.used
            blocks[piece.request_id] += 1
        for who in size:
            assert size[who] - used[who] < BLOCK
            assert blocks[who] == cdiv(used[who], BLOCK)
    policy.check_integrity()


@pytest.mark.parametrize("name", [name for name in POLICIES if name not in ("buddy", "paged")])
@SOME
@given(trace=traces(), capacity=CAPACITIES)
def test_reservations_never_preempt_and_the_oracle_wastes_only_what_is_rounded(name, trace, capacity):
    for frame in play(trace, name, capacity)[0]:
        assert frame.event != "preempt"
        if name.startswith("oracle"):
            assert frame.usage.internal == frame.usage.rounding
        if name.endswith("first-fit"):
            assert frame.usage.rounding == 0


@given(st.integers(1, 300), st.integers(1, 300))
def test_no_guess_is_below_the_need_and_they_are_ordered(prompt, output):
    request = TraceRequest("r", 0.0, prompt, output)
    oracle, pow2, most = (guess(request, 600) for guess in (guess_oracle, guess_pow2, guess_max))
    assert request.num_kv_tokens == oracle <= pow2 <= most == 600
    assert pow2 - prompt < 2 * output


@EVERY_POLICY
@SOME
@given(trace=traces(), capacity=CAPACITIES, max_num_seqs=st.integers(1, 3))
def test_a_limit_of_seats_is_kept(name, trace, capacity, max_num_seqs):
    frames, _ = play(trace, name, capacity, max_num_seqs=max_num_seqs)
    assert max(frame.num_running for frame in frames) <= max_num_seqs
    full = [frame for frame in frames if frame.num_running == max_num_seqs and name != "paged"]
    assert all(frame.usage.external == 0 for frame in full), "who waits for a seat does not wait for memory"


@EVERY_POLICY
@SOME
@given(trace=traces(), capacity=CAPACITIES)
def test_fewer_events_are_the_same_run(name, trace, capacity):
    every, _ = play(trace, name, capacity)
    some, _ = play(trace, name, capacity, events=("step", "finish"))
    assert some == [frame for frame in every if frame.event in ("step", "finish")]


def test_time_jumps_over_what_is_idle():
    trace = fixed_trace([(1, 2), (1, 1)], arrivals=[0.0, 100.0])
    frames = list(simulate_memory(trace, make_policy("paged", 32), step_time=0.5))
    assert [frame.step for frame in frames if frame.event == "step"] == [0, 1, 200]


def test_the_events_of_two_requests_that_do_not_fit_together():
    """8 slots, blocks of 2. Both grow to 5 tokens, 3 blocks; the second is preempted, and computed again."""
    trace = fixed_trace([(3, 3), (3, 3)])
    frames = list(simulate_memory(trace, make_policy("paged", 8, block_size=2), step_time=1.0))
    assert [(frame.step, frame.event, frame.request_id, frame.usage.used) for frame in frames] == [
        (0, "arrive", "r1", 0),
        (0, "arrive", "r2", 0),
        (0, "admit", "r1", 3),
        (0, "admit", "r2", 6),
        (0, "step", None, 6),
        (1, "append", "r1", 7),
        (1, "append", "r2", 8),
        (1, "step", None, 8),
        (2, "preempt", "r2", 4),
        (2, "append", "r1", 5),
        (2, "step", None, 5),
        (2, "finish", "r1", 0),
        (3, "admit", "r2", 5),
        (3, "step", None, 5),
        (3, "finish", "r2", 0),
    ]
    result = run_memory(trace, make_policy("paged", 8, block_size=2), step_time=1.0)
    assert result.summary.num_preemptions == 1
    assert result.summary.num_recomputed_tokens == 4


def test_a_full_chunk_doubles_in_place_or_moves():
    """r1 fills its chunk of 2 beside r2's: its 2 tokens move to a chunk of 4. r2 then joins the half that it left."""
    result = run_memory(fixed_trace([(2, 2), (2, 3)]), make_policy("buddy", 16), step_time=1.0)
    assert result.summary.num_copied_tokens == 4, "r1's two and, as its chunk was the upper buddy, r2's two"
    alone = run_memory(fixed_trace([(2, 9)]), make_policy("buddy", 16), step_time=1.0)
    assert alone.summary.num_copied_tokens == 0


def test_averages_by_hand():
    """One request of 1 + 3 tokens in blocks of 4: 1, 2, 3 used slots in three steps, nobody waits."""
    summary = run_memory(fixed_trace([(1, 3)]), make_policy("paged", 8, block_size=4)).summary
    assert not summary.is_under_load
    assert summary.shares == {
        "used": 2 / 8,
        "reserved": 1 / 8,
        "internal": 1 / 8,
        "external": 0,
        "free": 4 / 8,
    }
    assert summary.waste_of_allocated == pytest.approx(6 / 12)
    assert (summary.mean_live_tokens, summary.mean_running, summary.num_steps) == (2, 1, 3)


def test_averages_count_the_time_in_which_somebody_waits():
    """Max reserves 8 of 8: the second request waits for 3 steps; only these are averaged over."""
    policy = make_policy("max", 8, max_model_len=8)
    summary = run_memory(fixed_trace([(1, 3), (5, 2)]), policy).summary
    assert summary.is_under_load and summary.num_steps == 5
    assert summary.shares["used"] == pytest.approx((1 + 2 + 3) / 3 / 8)
    assert summary.waste_of_allocated == pytest.approx(1 - (1 + 2 + 3 + 5 + 6) / 40)


def test_the_series_is_thin_and_covers_the_run():
    result = run_memory(fixed_trace([(1, 1000)]), make_policy("paged", 1024))
    steps = [frame.step for frame in result.series]
    assert 100 <= len(steps) <= 400
    assert steps[0] == 0 and steps[-1] > 990
    assert len({b - a for a, b in zip(steps, steps[1:], strict=False)}) == 1
    assert result.to_json()["series"]["used"] == [step + 1 for step in steps]


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: make_policy("best", 10), "policy must be one of max, pow2"),
        (lambda: make_policy("paged", 8, block_size=9), r"block_size must be in \[1, 8\]"),
        (lambda: make_policy("paged", 0), "capacity must be"),
        (lambda: make_policy("max", 0), "capacity must be"),
        (lambda: make_policy("max", 8, max_model_len=0), "max_model_len must be"),
    ],
)
def test_a_policy_that_cannot_be_gets_a_sentence(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()


@pytest.mark.parametrize(
    ("name", "lengths", "sentence"),
    [
        ("max", (30, 40), "more than max_model_len"),
        ("max", (1, 1), "reserves 64 tokens in one piece"),
        ("oracle", (20, 14), "reserves 64 tokens in one piece"),
        ("buddy", (20, 14), "needs a chunk of 64 tokens"),
        ("paged", (20, 30), "needs 49 tokens, and 12 blocks of 4 hold 48"),
    ],
)
def test_a_request_that_can_never_fit_is_refused_at_the_door(name, lengths, sentence):
    policy = make_policy(name, 50, block_size=4, max_model_len=64)
    with pytest.raises(ValueError, match=sentence):
        simulate_memory(fixed_trace([lengths]), policy)


@pytest.mark.parametrize(
    ("name", "lengths"), [("oracle-first-fit", (20, 30)), ("buddy", (16, 17)), ("paged", (20, 29))]
)
def test_what_just_fits_is_held(name, lengths):
    policy = make_policy(name, 50, block_size=4, max_model_len=64)
    frames = list(simulate_memory(fixed_trace([lengths]), policy))
    assert frames[-1].event == "finish"


@pytest.mark.parametrize("option", [{"step_time": 0.0}, {"step_time": float("nan")}, {"max_num_seqs": 0}])
def test_options_out_of_range_get_a_sentence(option):
    with pytest.raises(ValueError, match=f"^{next(iter(option))} must be"):
        simulate_memory(fixed_trace([(1, 1)]), make_policy("paged", 32), **option)


@pytest.mark.parametrize(
    ("method", "word"), [("admit", "although nobody holds memory"), ("append", "that is alone")]
)
def test_a_policy_that_breaks_its_promise_is_stopped(method, word, monkeypatch):
    """Otherwise the simulation would never end."""
    policy = make_policy("paged", 32)
    monkeypatch.setattr(policy, method, lambda *_: False)
    with pytest.raises(AssertionError, match=word):
        list(simulate_memory(fixed_trace([(1, 2)]), policy))


def test_a_ledger_refuses_what_cannot_be():
    ledger = Ledger()
    ledger.open("a", need=2, used=2, allocated=4)
    with pytest.raises(AssertionError, match="has no slot to write to"):
        ledger.write("a")
    with pytest.raises(AssertionError, match="holds memory already"):
        ledger.open("a", need=2, used=1, allocated=4)
    with pytest.raises(AssertionError, match="writes 3 tokens into 2 slots"):
        ledger.open("b", need=9, used=3, allocated=2)
