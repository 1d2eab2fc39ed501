"""Who waits for whom, and for how long: the bounds that the scheduler's docstring states, step by step."""

from hypothesis import given, settings
from hypothesis import strategies as st

from minivllm.core.block_table import cdiv

jobs = st.tuples(
    st.lists(st.integers(0, 1), min_size=1, max_size=9),  # prompt
    st.integers(1, 6),  # max_tokens
    st.integers(0, 2),  # priority
    st.integers(0, 10),  # the step before which it arrives
)


def steps_to_finish(toy, load):
    """Play `load`; returns {index of the job: number of the step that finished it}, counted from 1."""
    finished, arrived = {}, set()
    while len(finished) < len(load):
        for i, (prompt, max_tokens, priority, arrival) in enumerate(load):
            if i not in arrived and arrival <= len(toy.history):
                toy.add(str(i), prompt, max_tokens, priority=priority)
                arrived.add(i)
        toy.step()
        assert len(toy.history) < 2000, "no progress"
        for i in arrived - finished.keys():
            if toy.requests[str(i)].status.is_finished:
                finished[i] = len(toy.history)
    return finished


@settings(max_examples=200)
@given(
    data=st.data(), load=st.lists(jobs, min_size=2, max_size=7), policy=st.sampled_from(["fcfs", "priority"])
)
def test_once_nobody_is_ahead_a_request_needs_no_more_steps_than_alone(toy_class, data, load, policy):
    block_size = data.draw(st.integers(1, 3))
    longest = max(len(prompt) + max_tokens for prompt, max_tokens, *_ in load)
    max_num_seqs = data.draw(st.integers(1, 4))
    budget = max_num_seqs + data.draw(st.integers(0, 6))
    threshold = data.draw(st.sampled_from([0, 0, 2]))
    swap = data.draw(st.sampled_from([0, 0, 8]))
    toy = toy_class(
        1 + cdiv(longest, block_size) + data.draw(st.integers(0, 5)),
        block_size,
        caching=False,
        num_swap_blocks=swap,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=budget,
        long_prefill_token_threshold=threshold,
        policy=policy,
        preemption_mode="swap" if swap else "recompute",
    )
    load = sorted(load, key=lambda job: job[3])  # so that the index is the order of arrival
    finished = steps_to_finish(toy, load)
    for i, (prompt, max_tokens, priority, arrival) in enumerate(load):
        rank = (priority, i) if policy == "priority" else (0, i)
        ahead = [
            j
            for j, (_, _, other, its_arrival) in enumerate(load)
            if its_arrival < finished[i] and ((other, j) if policy == "priority" else (0, j)) < rank
        ]
        nobody_ahead = max([arrival, *(min(finished[j], finished[i]) for j in ahead)])
        alone = cdiv(len(prompt), min(budget, threshold or budget)) + max_tokens - 1
        assert finished[i] <= nobody_ahead + alone


def test_a_stream_of_urgent_requests_starves_the_others_only_while_it_lasts(toy):
    t = toy(policy="priority", max_num_seqs=1)
    t.add("patient", [1, 2], max_tokens=2, priority=1)
    for i in range(20):
        t.add(str(i), [3], max_tokens=1, priority=0)
        t.step()
    assert t.requests["patient"].num_output_tokens == 0
    t.step()
    t.step()
    assert t.requests["patient"].status.is_finished


def test_shortest_first_lets_the_longest_wait_for_all_that_is_shorter_and_for_nothing_else(toy):
    t = toy(policy="shortest-first", max_num_seqs=1)
    t.add("now", [1], max_tokens=3)
    t.step()
    t.add("long", [1, 2, 3, 4], max_tokens=2)
    for i in range(9):
        t.add(str(i), [3], max_tokens=1)
    for _ in range(2 + 9):
        t.step()
    assert t.requests["now"].status.is_finished, "a running request is not stopped for a shorter one"
    assert t.requests["long"].num_output_tokens == 0 and len(t.scheduler.waiting) == 1
    t.step()
    assert t.requests["long"].num_output_tokens == 1
