"""The capstone's trace: streams of many users in the engine behind asyncio, some of whom leave."""

from dataclasses import replace

import pytest

from minivllm import LLM, SamplingParams
from minivllm.core.step_checks import BrokenLawError
from minivllm.course.traces import TRACES
from minivllm.parts import REFERENCE
from minivllm.serve.served_trace import serve_trace
from minivllm.serve.trace import run_trace

TRACE = TRACES[14]


@pytest.fixture(scope="module")
def served():
    """(tokens of those who stayed, figures) with the reference."""
    return serve_trace(TRACE, REFERENCE)


def test_everybody_says_under_load_what_they_say_alone(served):
    """The oracle asks one request after the other, in an engine with room for all and without a prefix cache."""
    llm = LLM("tutor", block_size=16, enable_prefix_caching=False)
    requests = [request for requests in TRACE.rounds for request in requests]
    alone = []
    for number, (prompt, fields) in enumerate(requests):
        if number not in TRACE.leaves_after:
            asked = prompt if isinstance(prompt, str) else {"prompt_token_ids": prompt}
            (output,) = llm.generate(asked, SamplingParams(**fields), use_tqdm=False)
            alone += [choice.token_ids for choice in output.outputs]
    assert served[0] == alone


def test_the_trace_is_worth_its_name(served):
    stats = served[1]
    assert stats.num_preemptions > 0 and stats.prefix_cache_hits > 0
    assert stats.finished["abort"] > 0  # the engine may be done before it hears that a client has left
    assert stats.num_running_reqs == stats.num_waiting_reqs == 0


def test_another_correct_allocator_serves_the_same_tokens(other, served):
    tokens, _ = serve_trace(TRACE, other(block_pool="StackPool"))
    assert tokens == served[0]


def test_a_broken_law_comes_out_of_the_engines_thread(other):
    with pytest.raises(BrokenLawError, match="the allocator counts"):
        run_trace(TRACE, other(block_pool="LeakingPool"))


def test_other_tokens_have_another_hash(other, served):
    shorter = replace(TRACE, rounds=TRACE.rounds[:1], leaves_after={})
    right, wrong = (
        run_trace(shorter, REFERENCE),
        run_trace(shorter, other(slot_mapping="slot_without_offset")),
    )
    assert right.output_hash != wrong.output_hash and right.num_tokens == 12
