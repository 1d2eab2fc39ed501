"""The scheduler against a worker that is a dictionary: no model, random loads, every promise checked at every step.

The worker knows only what a SchedulerOutput tells it. It keeps its own tables from the differences, and a toy
memory in which every slot holds the whole prefix that a real layer would have seen; so a wrong table, a lost update,
a block reused too early or a token counted twice shows at once. Tokens are made up from the context, hence the same
in every schedule.
"""

import dataclasses
from collections import Counter, deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minivllm.core.kv_cache_manager import KVCacheManager
from minivllm.core.scheduler import QueueFullError, Scheduler, SchedulerConfig
from minivllm.request import Request, RequestStatus
from minivllm.sampling_params import SamplingParams

STOP = 3  # a made-up token that ends some requests


def next_token(context, choice=0):
    return (sum(context) * 31 + len(context) * 7 + choice * 3) % 5


def alone(job, choice=0):
    """What a request says, by a loop that knows no blocks, no budget and no neighbours."""
    tokens = []
    while len(tokens) < job.max_tokens:
        tokens.append(next_token((*job.prompt, *tokens), choice))
        if job.stops and tokens[-1] == STOP:
            break
    return tokens


@dataclasses.dataclass(frozen=True)
class Job:
    prompt: tuple[int, ...]
    max_tokens: int
    n: int = 1
    arrival: int = 0
    stops: bool = False
    priority: int = 0
    abort_at: int | None = None
    abort_in_flight: bool = False


class Row:
    """What the worker knows of one running request."""

    def __init__(self, request, token_ids, block_ids, num_computed):
        self.tokens, self.blocks, self.num_computed = list(token_ids), list(block_ids), num_computed
        self.choice = request.index


class Harness:
    def __init__(self, config, num_blocks=100, block_size=4, caching=True, num_swap_blocks=0, max_drafts=0):
        self.config, self.B, self.max_drafts = config, block_size, max_drafts
        self.manager = KVCacheManager(num_blocks, block_size, caching, num_swap_blocks=num_swap_blocks)
        self.scheduler = Scheduler(config, self.manager)
        self.rows, self.memory, self.swap_memory, self.requests = {}, {}, {}, {}
        self.told_finished = Counter()
        self.reported = {}  # name -> all tokens that updates have told of
        self.first_admissions = []
        self.num_steps = 0
        self.in_flight = deque()
        self.seen = Counter()

    def add(self, name, job):
        """Queue a job; its choices are called name, name.1, name.2, ..."""
        requests = []
        for choice in range(job.n):
            request = Request(
                f"{name}.{choice}" if choice else name,
                list(job.prompt),
                SamplingParams(max_tokens=job.max_tokens),
                stop_token_ids=frozenset([STOP] if job.stops else []),
                max_tokens=min(job.max_tokens, self.config.max_model_len - len(job.prompt)),
                index=choice,
                priority=job.priority,
                fork_from=requests[0] if requests else None,
            )
            requests.append(request)
        self.scheduler.add_requests(requests)
        self.requests |= {request.request_id: request for request in requests}
        return requests[0]

    def abort(self, names):
        self.scheduler.finish_requests(names, RequestStatus.FINISHED_ABORTED)
        self.manager.check_integrity()

    def schedule(self):
        out = self.scheduler.schedule()
        self.num_steps += 1
        self.check_limits(out)
        self.tell_worker(out)
        self.check_queues()
        self.manager.check_integrity()
        self.in_flight.append((out, self.execute(out)))
        return out

    def finish_step(self):
        out, sampled = self.in_flight.popleft()
        updates = self.scheduler.update_from_output(out, sampled)
        for update in updates:
            self.reported.setdefault(update.request.request_id, []).extend(update.new_token_ids)
        self.manager.check_integrity()
        for name, request in self.requests.items():
            if self.max_drafts and name in sampled and not request.status.is_finished:
                request.spec_token_ids = self.drafts(request)
        return updates

    def step(self):
        """One whole step; returns {name: tokens scheduled}."""
        out = self.schedule()
        self.finish_step()
        return dict(out.num_scheduled_tokens)

    def drafts(self, request):
        """Right for a while, then wrong; never beyond the request's room."""
        room = min(self.max_drafts, request.max_tokens - request.num_output_tokens - 1)
        context, drafts = list(request.all_token_ids), []
        for index in range(room):
            right = next_token(context, request.index)
            drafts.append(right if (len(context) + index) % 3 else (right + 1) % 5)
            context.append(drafts[-1])
        return drafts

    def check_limits(self, out):
        scheduled = out.num_scheduled_tokens
        assert sum(scheduled.values()) == out.total_num_scheduled_tokens <= self.config.max_num_batched_tokens
        assert len(self.scheduler.running) <= self.config.max_num_seqs
        assert all(n >= 1 for n in scheduled.values())
        assert set(scheduled) <= {r.request_id for r in self.scheduler.running}
        assert set(out.block_updates) <= set(scheduled)
        if self.config.policy == "fcfs":
            assert not (out.preempted_request_ids and out.new_requests), "a newcomer got what a victim lost"
        if not self.config.enable_chunked_prefill:
            for new in out.new_requests:
                name = new.request.request_id
                assert out.num_computed_tokens[name] + scheduled[name] == len(new.token_ids)

    def check_queues(self):
        for queue in (self.scheduler.waiting, self.scheduler.running):
            assert queue == sorted(queue, key=self.scheduler.policy)
        assert all(r.status is RequestStatus.RUNNING for r in self.scheduler.running)
        for request in self.scheduler.waiting:
            assert request.status in (RequestStatus.WAITING, RequestStatus.PREEMPTED)
            assert request.request_id not in self.manager.tables()
            assert request.num_computed_tokens == 0 or request.request_id in self.manager.swap_space

    def tell_worker(self, out):
        for name in out.finished_request_ids:
            self.told_finished[name] += 1
            self.rows.pop(name, None)
        for name in out.preempted_request_ids:
            del self.rows[name]
        for new in out.new_requests:
            name = new.request.request_id
            assert name not in self.rows
            self.rows[name] = Row(new.request, new.token_ids, new.block_ids, out.num_computed_tokens[name])
            if new.request.num_preemptions == 0:
                self.first_admissions.append(name)
        for name, updates in out.block_updates.items():
            blocks = self.rows[name].blocks
            for index, block_id in updates:
                blocks[index : index + 1] = [block_id]  # replaces, or appends at the end
        for name in out.num_scheduled_tokens:
            assert self.rows[name].blocks == self.manager.block_ids(name)

    def move(self, pairs, source, target):
        for (_, to), content in [(p, [source.get((p[0], i)) for i in range(self.B)]) for p in pairs]:
            for offset in range(self.B):
                target[to, offset] = content[offset]

    def execute(self, out):
        """Move blocks, write all tokens of the step, then read every context back through the tables."""
        self.move(out.block_operations.swap_out, self.memory, self.swap_memory)
        self.move(out.block_operations.swap_in, self.swap_memory, self.memory)
        self.move(out.block_operations.copy, self.memory, self.memory)
        self.seen["copied"] += bool(out.block_operations.copy)
        self.seen["swapped"] += bool(out.block_operations.swap_in)
        written = set()
        for name, count in out.num_scheduled_tokens.items():
            row = self.rows[name]
            start = out.num_computed_tokens[name]
            assert start == row.num_computed, "the tokens in the cache were miscounted"
            tokens = row.tokens + list(out.spec_token_ids.get(name, ()))
            assert start + count <= len(tokens), "a token was scheduled that nobody knows"
            for position in range(start, start + count):
                slot = row.blocks[position // self.B], position % self.B
                assert slot not in written, "two tokens of one step in one slot"
                assert self.manager.pool.blocks[slot[0]].ref_cnt == 1, "a shared block is written"
                written.add(slot)
                self.memory[slot] = tuple(tokens[: position + 1])
        return {name: tokens for name in out.num_scheduled_tokens if (tokens := self.read_back(name, out))}

    def read_back(self, name, out):
        row, drafts = self.rows[name], list(out.spec_token_ids.get(name, ()))
        tokens = row.tokens + drafts
        row.num_computed = out.num_computed_tokens[name] + out.num_scheduled_tokens[name]
        for position in range(row.num_computed):
            slot = row.blocks[position // self.B], position % self.B
            assert self.memory.get(slot) == tuple(tokens[: position + 1]), "the cache holds another prefix"
        return self.verify(row, drafts) if row.num_computed == len(tokens) else []

    def verify(self, row, drafts):
        """Greedy speculation: the drafts that were right, and one token more."""
        accepted = []
        for draft in [*drafts, None]:
            accepted.append(next_token(row.tokens, row.choice))
            row.tokens.append(accepted[-1])
            if accepted[-1] != draft:
                break
        row.num_computed -= len(drafts) + 1 - len(accepted)
        if len(accepted) <= len(drafts):
            del row.blocks[-(-row.num_computed // self.B) :]  # what only rejected drafts were written to
        return accepted

    def check_all_is_given_back(self):
        while self.in_flight:
            self.finish_step()
        if self.scheduler.has_work():  # the last step tells who finished
            self.schedule()
            self.finish_step()
        assert not self.scheduler.has_work()
        assert self.rows == {} and self.scheduler.requests == {}
        assert (
            self.manager.tables() == {}
            and self.manager.pool.num_free_blocks == self.manager.pool.num_blocks - 1
        )
        swap_pool = self.manager.swap_space.pool
        assert swap_pool.num_free_blocks == swap_pool.num_blocks - 1
        assert not any(map(len, (self.manager._hashes, self.manager._num_cached_blocks)))
        assert self.told_finished == Counter(dict.fromkeys(self.requests, 1))


@st.composite
def loads(draw):
    """A machine and what arrives at it: often too small to hold two requests at a time."""
    B = draw(st.integers(1, 5))
    stem = draw(st.lists(st.integers(0, 4), max_size=12))
    jobs = []
    for _ in range(draw(st.integers(1, 6))):
        prompt = [
            *stem[: draw(st.integers(0, len(stem)))],
            *draw(st.lists(st.integers(0, 4), max_size=8)),
        ] or [1]
        jobs.append(
            Job(
                tuple(prompt),
                draw(st.integers(1, 12)),
                n=draw(st.sampled_from([1, 1, 1, 2, 3])),
                arrival=draw(st.integers(0, 12)),
                stops=draw(st.booleans()),
                priority=draw(st.integers(0, 2)),
                abort_at=draw(st.none() | st.none() | st.integers(0, 25)),
                abort_in_flight=draw(st.booleans()),
            )
        )
    longest = max(len(job.prompt) + job.max_tokens for job in jobs)
    max_num_seqs = draw(st.integers(1, 5))
    chunked = draw(st.booleans())
    num_swap_blocks = draw(st.sampled_from([0, 0, 5, 20]))
    config = SchedulerConfig(
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=draw(st.integers(max_num_seqs, max_num_seqs + 20))
        + (0 if chunked else longest),
        max_model_len=longest,
        enable_chunked_prefill=chunked,
        long_prefill_token_threshold=draw(st.sampled_from([0, 0, 1, 2, 5])),
        policy=draw(st.sampled_from(["fcfs", "fcfs", "priority", "shortest-first"])),
        enable_static_batching=draw(st.sampled_from([False, False, False, True])),
        preemption_mode="swap" if num_swap_blocks else "recompute",
    )
    num_blocks = 1 + -(-longest // B) + draw(st.integers(0, 6))
    machine = {"num_blocks": num_blocks, "block_size": B, "num_swap_blocks": num_swap_blocks}
    machine["caching"] = draw(st.booleans())
    depth = draw(st.integers(1, 2))
    machine["max_drafts"] = draw(st.sampled_from([0, 1, 3])) if depth == 1 else 0
    return config, machine, jobs, depth


def play(harness, jobs, depth=1):
    """Let the jobs arrive, abort those that are to be aborted, and run until nothing is left."""
    choices = {i: [f"r{i}", *(f"r{i}.{k}" for k in range(1, job.n))] for i, job in enumerate(jobs)}
    # Whoever comes first in the policy's order gets a token in every step and is nobody's victim.
    bound = 30 + 4 * depth * sum(job.n * (len(job.prompt) + job.max_tokens + 2) for job in jobs)
    last_arrival = max(job.arrival for job in jobs)
    now = 0
    while now <= last_arrival or harness.scheduler.has_unfinished_requests() or harness.in_flight:
        for i, job in enumerate(jobs):
            if job.arrival == now:
                harness.add(f"r{i}", job)
        for i, job in enumerate(jobs):
            if job.abort_at == now and not job.abort_in_flight:
                harness.abort(choices[i])
        if harness.scheduler.has_work():
            harness.schedule()
        for i, job in enumerate(jobs):
            if job.abort_at == now and job.abort_in_flight:
                harness.abort(choices[i])
        if len(harness.in_flight) == depth or (harness.in_flight and not harness.scheduler.has_work()):
            harness.finish_step()
        now += 1
        assert now <= bound, "no progress"
    return {name: (jobs[i], k) for i, names in choices.items() for k, name in enumerate(names)}


def check_answers(harness, answers):
    for name, (job, choice) in answers.items():
        request, expected = harness.requests[name], alone(job, choice)
        assert harness.reported.get(name, []) == request.output_token_ids
        if request.status is RequestStatus.FINISHED_ABORTED:
            assert (
                job.abort_at is not None and request.output_token_ids == expected[: request.num_output_tokens]
            )
            continue
        assert request.output_token_ids == expected
        stopped = job.stops and expected[-1] == STOP
        assert request.status is (
            RequestStatus.FINISHED_STOPPED if stopped else RequestStatus.FINISHED_LENGTH_CAPPED
        )


def check_nobody_was_overtaken(harness, answers):
    """First come, first served, unless somebody waits for blocks that another is just computing for both."""
    names = [name for name in answers if name in harness.first_admissions]
    came = sorted(
        names, key=lambda name: (answers[name][0].arrival, int(name[1:].split(".")[0]), answers[name][1])
    )
    assert harness.first_admissions == came


SEEN = Counter()


@settings(max_examples=350)
@given(loads())
def test_under_any_load_everything_finishes_says_the_same_and_gives_all_back(load):
    config, machine, jobs, depth = load
    harness = Harness(config, **machine)
    answers = play(harness, jobs, depth)
    check_answers(harness, answers)
    if config.policy == "fcfs" and not machine["caching"] and all(job.n == 1 for job in jobs):
        check_nobody_was_overtaken(harness, answers)
    harness.check_all_is_given_back()
    SEEN.update(name for name, count in harness.seen.items() if count)
    SEEN["preempted"] += harness.scheduler.num_preemptions > 0
    SEEN["resumed"] += any(r.num_preemptions and r.output_token_ids for r in harness.requests.values())
    SEEN["hit"] += harness.manager.stats.hits > 0
    SEEN["aborted"] += any(r.status is RequestStatus.FINISHED_ABORTED for r in harness.requests.values())


def test_the_random_loads_reach_the_corners():
    """The test above is worth what its loads are worth: all of this must happen in them."""
    if not SEEN:
        pytest.skip("looks at what the test above has seen, which did not run")
    assert (
        min(SEEN[name] for name in ("preempted", "resumed", "hit", "aborted", "copied", "swapped")) >= 10
    ), SEEN


# -- worked examples


def test_three_prompts_of_800_tokens_share_a_budget_of_1024_fairly():
    config = SchedulerConfig(
        max_num_batched_tokens=1024, long_prefill_token_threshold=400, max_model_len=2048
    )
    harness = Harness(config, num_blocks=1000, block_size=16, caching=False)
    for name in "abc":
        harness.add(name, Job((1,) * 800, 5))
    assert harness.step() == {"a": 400, "b": 400, "c": 224}
    assert harness.step() == {"a": 400, "b": 400, "c": 224}
    assert harness.step() == {"a": 1, "b": 1, "c": 352}
    assert harness.step() == {"a": 1, "b": 1, "c": 1}


def test_a_request_alone_is_not_held_to_the_threshold():
    config = SchedulerConfig(
        max_num_batched_tokens=1024, long_prefill_token_threshold=400, max_model_len=2048
    )
    harness = Harness(config, num_blocks=1000, block_size=16)
    harness.add("a", Job((1,) * 800, 5))
    assert harness.step() == {"a": 800}


def test_without_a_threshold_the_first_prompt_takes_all_and_decoding_goes_on_beside_the_next():
    harness = Harness(
        SchedulerConfig(max_num_batched_tokens=100, max_model_len=200), block_size=16, caching=False
    )
    for name in "abc":
        harness.add(name, Job((1,) * 70, 5))
    assert harness.step() == {"a": 70, "b": 30}
    assert harness.step() == {"a": 1, "b": 40, "c": 59}
    assert harness.step() == {"a": 1, "b": 1, "c": 11}


def test_without_chunked_prefill_a_prompt_waits_until_it_fits_whole_and_nobody_overtakes():
    config = SchedulerConfig(max_num_batched_tokens=100, max_model_len=100, enable_chunked_prefill=False)
    harness = Harness(config, block_size=16, caching=False)
    for name, length in (("a", 70), ("b", 60), ("c", 20)):
        harness.add(name, Job((1,) * length, 3))
    assert harness.step() == {"a": 70}
    assert harness.step() == {"a": 1, "b": 60, "c": 20}


def test_without_chunked_prefill_a_threshold_does_not_block_the_queue():
    config = SchedulerConfig(
        max_num_batched_tokens=100,
        max_model_len=100,
        enable_chunked_prefill=False,
        long_prefill_token_threshold=10,
    )
    harness = Harness(config, block_size=16, caching=False)
    for name in "ab":
        harness.add(name, Job((1,) * 40, 3))
    assert harness.step() == {"a": 40, "b": 40}


def test_a_step_leaves_requests_for_the_steps_that_run_beside_it():
    """With two pipeline stages the first step takes half of those who are there, so that the second has work too."""
    config = SchedulerConfig(max_num_batched_tokens=64, max_model_len=64, num_micro_batches=2)
    harness = Harness(config, caching=False)
    for name in "abcde":
        harness.add(name, Job((1, 2), 3))
    assert [set(harness.schedule().num_scheduled_tokens) for _ in range(2)] == [set("abc"), set("de")]
    harness.finish_step()
    assert set(harness.schedule().num_scheduled_tokens) == set("abc")


def test_no_more_requests_run_than_max_num_seqs():
    harness = Harness(SchedulerConfig(max_num_seqs=2, max_num_batched_tokens=64, max_model_len=64))
    for name in "abc":
        harness.add(name, Job((1, 2), 2))
    assert set(harness.step()) == {"a", "b"}
    assert set(harness.step()) == {"a", "b"}
    assert set(harness.step()) == {"c"}


def test_the_last_comer_is_preempted_and_resumes_before_a_newcomer():
    # 4 usable blocks of 2: two requests of 3 tokens take all; at 5 tokens the first needs a third block.
    harness = Harness(SchedulerConfig(max_num_batched_tokens=64, max_model_len=8), 5, 2, caching=False)
    for name in "abc":
        harness.add(name, Job((1, 2, 4), 5))
    assert harness.step() == {"a": 3, "b": 3}
    assert harness.step() == {"a": 1, "b": 1}
    out = harness.schedule()
    assert list(out.preempted_request_ids) == ["b"] and dict(out.num_scheduled_tokens) == {"a": 1}
    victim = harness.requests["b"]
    assert victim.status is RequestStatus.PREEMPTED and victim.num_computed_tokens == 0
    assert victim.output_token_ids == alone(Job((1, 2, 4), 5))[:2]  # its tokens stay
    assert [r.request_id for r in harness.scheduler.waiting] == ["b", "c"]
    harness.finish_step()
    while "b" not in (scheduled := harness.step()):
        assert set(scheduled) == {"a"}
    assert scheduled["b"] == 5 and "c" not in scheduled  # its prompt and its two tokens at once
    assert harness.scheduler.num_preemptions == victim.num_preemptions == 1


def test_the_prefix_cache_gives_a_victim_its_blocks_back():
    harness = Harness(SchedulerConfig(max_num_batched_tokens=64, max_model_len=16), 5, 4, caching=True)
    harness.add("a", Job((1, 2, 3, 4, 0, 1, 2), 6))
    harness.add("b", Job((4, 4, 4, 4, 0, 1, 2), 6))
    for _ in range(2):
        harness.step()
    out = harness.schedule()
    assert list(out.preempted_request_ids) == ["b"]
    harness.finish_step()
    while harness.scheduler.waiting:
        out = harness.schedule()
        harness.finish_step()
    assert out.num_computed_tokens["b"] == 4  # b's first block was never needed by anybody else
    assert harness.requests["b"].num_cached_tokens == 0  # what it found when it came


# -- the door, and ends from outside -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "prompt, max_tokens, fits", [(8, 5, True), (8, 6, False), (12, 1, True), (13, 1, False)]
)
def test_what_could_never_be_held_is_refused_at_the_door(prompt, max_tokens, fits):
    """The last token's keys are never needed: prompt + max_tokens - 1 tokens lie in the cache."""
    harness = Harness(SchedulerConfig(max_model_len=64), num_blocks=4, block_size=4)
    if fits:
        play(harness, [Job((1,) * prompt, max_tokens)])
        assert harness.requests["r0"].num_output_tokens == max_tokens
        return
    with pytest.raises(
        ValueError, match="may grow to 13 tokens in the KV cache, which holds 12 in all: shorten"
    ):
        harness.add("a", Job((1,) * prompt, max_tokens))
    assert not harness.scheduler.has_work() and harness.scheduler.requests == {}


def test_ending_unknown_ended_or_repeated_ids_is_harmless():
    harness = Harness(SchedulerConfig(max_num_batched_tokens=64, max_model_len=64))
    harness.add("a", Job((1, 2), 5))
    harness.add("b", Job((1, 2), 5))
    harness.step()
    ended = harness.scheduler.finish_requests(["a", "nobody", "a"], RequestStatus.FINISHED_ABORTED)
    assert [r.request_id for r in ended] == ["a"]
    assert harness.scheduler.finish_requests(["a"], RequestStatus.FINISHED_STOPPED) == []
    assert harness.requests["a"].status is RequestStatus.FINISHED_ABORTED
    play(harness, [Job((1,), 1)])
    harness.check_all_is_given_back()


def test_the_blocks_of_a_request_that_ends_in_flight_are_kept_until_its_step_returns():
    harness = Harness(SchedulerConfig(max_num_batched_tokens=64, max_model_len=64), num_blocks=4)
    request = harness.add("a", Job((1, 2, 3, 4, 0), 5))
    harness.schedule()
    harness.abort("a")
    assert harness.manager.pool.num_free_blocks == 1 and not harness.scheduler.has_work()
    assert harness.finish_step() == []  # nothing is reported for it
    assert harness.manager.pool.num_free_blocks == 3 and request.output_token_ids == []
    harness.check_all_is_given_back()


def test_an_id_may_be_used_again_at_once():
    harness = Harness(SchedulerConfig(max_num_batched_tokens=64, max_model_len=64))
    harness.add("a", Job((1, 2), 5))
    harness.step()
    harness.abort("a")
    harness.add("a", Job((4, 4, 4), 2))
    out = harness.schedule()
    assert list(out.finished_request_ids) == ["a"] and [n.token_ids for n in out.new_requests] == [[4, 4, 4]]


def test_an_idle_scheduler_has_nothing_to_do():
    harness = Harness(SchedulerConfig())
    assert not harness.scheduler.has_work() and harness.step() == {}


def test_only_new_tokens_are_reported():
    harness = Harness(SchedulerConfig(max_num_batched_tokens=2, max_num_seqs=2, max_model_len=64))
    harness.add("a", Job((1, 2, 4), 5))
    harness.schedule()
    assert harness.finish_step() == []  # the prompt is not done
    harness.schedule()
    (update,) = harness.finish_step()
    assert update.request.request_id == "a" and list(update.new_token_ids) == [next_token((1, 2, 4))]


def test_a_prompt_of_one_token_has_nothing_that_a_sibling_could_share():
    """Its sibling may stand in the tables without having computed anything: in the step that resumes it."""
    harness = Harness(SchedulerConfig(max_num_batched_tokens=64, max_model_len=64))
    harness.add("a", Job((1,), 3, n=2))
    harness.schedule()
    assert harness.manager.find_start(harness.requests["a.1"]).how == "prefix"


def test_a_stop_token_counts_only_beyond_min_tokens_and_before_the_length():
    """The sampler cannot draw one before; where it had no other choice the request goes on to its length."""
    params = SamplingParams(min_tokens=2, max_tokens=3, stop_token_ids=[STOP])
    for said, ends_at, status, reason in [
        ([STOP, STOP, STOP], 3, RequestStatus.FINISHED_STOPPED, STOP),
        ([1, 1, 1], 3, RequestStatus.FINISHED_LENGTH_CAPPED, None),
        ([1, 1, 7], 3, RequestStatus.FINISHED_STOPPED, None),  # 7 is the model's own end of sequence
    ]:
        request = Request("a", [1], params, stop_token_ids=frozenset([STOP, 7]), max_tokens=3)
        for number, token in enumerate(said, start=1):
            request.append_output_token(token)
            assert request.check_stop(max_model_len=100) == (number == ends_at)
        assert (request.status, request.stop_reason) == (status, reason)


def test_a_full_queue_refuses_all_choices_of_a_call_or_none():
    harness = Harness(SchedulerConfig(max_num_queued_reqs=3))
    harness.add("a", Job((1, 2), 5, n=2))
    with pytest.raises(QueueFullError, match="2 requests are waiting, and max_num_queued_reqs is 3"):
        harness.add("b", Job((1, 2), 5, n=2))
    assert set(harness.scheduler.requests) == {"a", "a.1"}
    harness.add("c", Job((1, 2), 5))


# -- what may be cached ---------------------------------------------------------------------------------------


def num_cached_blocks(harness):
    return sum(block.block_hash is not None for block in harness.manager.pool.blocks)


def test_accepted_drafts_behind_a_stop_token_are_not_cached():
    """They were computed, but never said: no request will ever begin with them."""
    harness = Harness(SchedulerConfig(max_num_batched_tokens=64, max_model_len=64), block_size=2)
    request = harness.add("a", Job((1, 2, 4), 9, stops=True))
    harness.scheduler.update_from_output(harness.scheduler.schedule(), {"a": [0]})
    harness.scheduler.update_draft_token_ids({"a": [STOP, 0, 0]})
    out = harness.scheduler.schedule()
    assert out.num_scheduled_tokens["a"] == 4
    harness.scheduler.update_from_output(out, {"a": [STOP, 0, 0, 1]})
    assert request.output_token_ids == [0, STOP]
    assert num_cached_blocks(harness) == 2  # of five known tokens


def test_a_block_can_be_found_once_the_step_that_computes_it_has_returned_and_not_before():
    config = SchedulerConfig(max_num_batched_tokens=4, max_num_seqs=2, max_model_len=64)
    harness = Harness(config, block_size=4)
    harness.add("a", Job((1, 2, 4, 0, 1, 1, 2, 2, 0), 2))
    twin = Request("twin", [1, 2, 4, 0, 1, 1, 2, 2, 0], SamplingParams())
    harness.schedule()
    harness.schedule()  # both blocks are under way now
    for num_found in (0, 1, 2):
        assert len(harness.manager.get_computed_blocks(twin)) == num_found
        if harness.in_flight:
            harness.finish_step()


# -- who may draft --------------------------------------------------------------------------------------------


def test_drafts_share_the_free_blocks_and_whoever_waits_gets_none():
    config = SchedulerConfig(max_num_seqs=2, max_num_batched_tokens=64, max_model_len=64)
    harness = Harness(config, num_blocks=4, block_size=2, caching=False)
    for name in "abc":
        harness.add(name, Job((1,), 6))
    assert harness.step() == {"a": 1, "b": 1}
    harness.scheduler.update_draft_token_ids({name: [0, 0, 0] for name in ("a", "b", "c", "nobody")})
    drafts = {name: request.spec_token_ids for name, request in harness.requests.items()}
    assert drafts == {
        "a": [0, 0],
        "b": [],
        "c": [],
    }  # two known tokens each in a block, and one block is free
