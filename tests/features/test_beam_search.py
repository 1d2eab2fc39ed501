"""Beam search: exhaustive when it is wide enough, and the same on a pool that forces preemption."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minivllm.llm import LLM
from minivllm.sampling_params import BeamSearchParams, SamplingParams

EOS = 1


@pytest.fixture(scope="module")
def six(six_tokens):
    return LLM(six_tokens, block_size=2, num_gpu_blocks_override=400, max_model_len=32)


def exhaustive(oracle, folder, prompt, length, ignore_eos, length_penalty):
    """Every continuation that ends by itself or at `length`, the best first, as (score, tokens)."""
    found = []
    for size in range(1, length + 1):
        for tokens in itertools.product(range(6), repeat=size):
            ends = tokens[-1] == EOS and not ignore_eos
            if (EOS in tokens[:-1] and not ignore_eos) or (size < length and not ends):
                continue
            logprobs = oracle(folder, prompt + list(tokens))
            total = sum(logprobs[len(prompt) - 1 + i, t].item() for i, t in enumerate(tokens))
            found.append((total / max(1, len(prompt) + size - ends) ** length_penalty, tokens))
    return sorted(found, reverse=True)


@pytest.mark.parametrize(
    "ignore_eos, length_penalty", [(False, 1.0), (True, 1.0), (False, 0.0), (False, 2.0)]
)
def test_a_beam_as_wide_as_the_tree_finds_the_best_continuations(
    six_tokens, oracle, ignore_eos, length_penalty
):
    llm = LLM(six_tokens, block_size=2, num_gpu_blocks_override=400, max_model_len=32)
    prompt = [2, 3, 4, 5, 2]
    params = BeamSearchParams(36, max_tokens=3, ignore_eos=ignore_eos, length_penalty=length_penalty)
    (output,) = llm.beam_search([prompt], params)
    best = exhaustive(oracle, six_tokens, prompt, 3, ignore_eos, length_penalty)[:36]
    assert len(output.outputs) == 36
    for choice, (score, tokens) in zip(output.outputs, best, strict=True):
        size = len(prompt) + len(tokens) - (tokens[-1] == EOS and not ignore_eos)
        assert abs(choice.cumulative_logprob / size**length_penalty - score) < 1e-4
        is_eos = choice.token_ids[-1] == EOS and not ignore_eos
        assert choice.finish_reason == ("stop" if is_eos else "length")
    assert {tuple(c.token_ids) for c in output.outputs[:10]} == {tokens for _, tokens in best[:10]}
    assert llm.llm_engine.stats().kv_cache_usage == 0


@settings(max_examples=20)
@given(
    prompts=st.lists(st.lists(st.integers(2, 255), min_size=1, max_size=9), min_size=1, max_size=3),
    width=st.integers(1, 4),
    max_tokens=st.integers(1, 7),
    others=st.integers(0, 3),
    spare=st.integers(0, 12),
)
def test_a_short_pool_and_other_requests_change_nothing(
    tiny, roomy, prompts, width, max_tokens, others, spare
):
    params = BeamSearchParams(width, max_tokens=max_tokens)
    expected = roomy.beam_search(prompts, params)
    block_size = 2
    longest = max(map(len, prompts)) + max_tokens
    llm = LLM(
        tiny,
        block_size=block_size,
        num_gpu_blocks_override=1 + max(width, 1) * -(-longest // block_size) + spare,
        max_model_len=longest,
        max_num_seqs=width + 2,
        max_num_batched_tokens=32,
    )
    engine = llm.llm_engine
    for i in range(others):
        engine.add_request(
            f"other {i}", [i + 2], SamplingParams(max_tokens=longest - 1, ignore_eos=True, seed=i)
        )
    for i, prompt in enumerate(prompts):
        engine.add_request(f"beam {i}", prompt, params)
    results = {}
    for _ in range(3000):
        if not engine.has_unfinished_requests():
            break
        for output in engine.step():
            results[output.request_id] = output
        engine.kv_cache_manager.check_integrity()
    assert not engine.has_unfinished_requests(), "no progress"
    for i, alone in enumerate(expected):
        assert [c.token_ids for c in results[f"beam {i}"].outputs] == [c.token_ids for c in alone.outputs]
    assert engine.kv_cache_manager.pool.usage == 0


def plain_search(oracle, folder, prompt, width, length, penalty):
    """vLLM's rule on lists: of each beam the 2 W best tokens; those that end it are set aside, the W best go on."""
    beams, done = [((), 0.0)], []

    def score(item):
        tokens, total = item
        return total / (len(prompt) + len(tokens) - (tokens[-1] == EOS)) ** penalty

    for _ in range(length):
        longer = []
        for tokens, total in beams:
            row = oracle(folder, prompt + list(tokens))[-1].tolist()
            for token in sorted(range(6), key=lambda t, row=row: -row[t])[: 2 * width]:
                (done if token == EOS else longer).append(((*tokens, token), total + row[token]))
        beams = sorted(longer, key=score, reverse=True)[:width]
    return [list(tokens) for tokens, _ in sorted(done + beams, key=score, reverse=True)[:width]]


@settings(max_examples=30)
@given(
    prompt=st.lists(st.sampled_from([0, 2, 3, 4, 5]), min_size=1, max_size=5),
    width=st.integers(1, 3),
    length=st.integers(1, 6),
    penalty=st.sampled_from([0.0, 1.0, 4.0]),
)
def test_a_narrow_beam_follows_the_published_rule(six_tokens, six, oracle, prompt, width, length, penalty):
    params = BeamSearchParams(width, max_tokens=length, length_penalty=penalty)
    (output,) = six.beam_search([prompt], params)
    expected = plain_search(oracle, six_tokens, prompt, width, length, penalty)
    assert [c.token_ids for c in output.outputs] == expected


@pytest.mark.parametrize("width, num_candidates", [(1, 2), (2, 4), (3, 6), (5, 6)])
def test_a_search_asks_for_twice_as_many_tokens_as_it_has_beams(six, width, num_candidates):
    """One of a beam's tokens may end it; the W that go on must be found all the same."""
    engine = six.llm_engine
    engine.add_request("b", [2, 3], BeamSearchParams(width, max_tokens=2))
    (root,) = engine.scheduler.waiting
    engine.abort_request("b")
    assert root.sampling_params.logprobs == num_candidates
    assert not engine.has_unfinished_requests()


def test_a_search_ends_with_the_context(six):
    prompt = [2, 3, 4, 5, 2, 3] * 5
    for params in (BeamSearchParams(2, max_tokens=10**9), BeamSearchParams(2, max_tokens=2)):
        (output,) = six.beam_search([prompt], params)
        assert max(len(c.token_ids) for c in output.outputs) == 2  # of 32, the prompt has 30


def test_searches_that_hold_the_seats_which_others_wait_for_all_finish(tiny, roomy):
    """Each has a beam that waits for its siblings, which wait for a seat: somebody has to give way."""
    prompts = [[2, 3], [4, 5, 6], [7]]
    params = BeamSearchParams(3, max_tokens=5)
    llm = LLM(tiny, block_size=2, num_gpu_blocks_override=100, max_model_len=16, max_num_seqs=3)
    engine = llm.llm_engine
    for i, prompt in enumerate(prompts):
        engine.add_request(str(i), prompt, params)
    results = {}
    for _ in range(200):
        for output in engine.step():
            results[output.request_id] = [choice.token_ids for choice in output.outputs]
    assert not engine.has_unfinished_requests(), "no progress"
    alone = roomy.beam_search(prompts, params)
    assert results == {str(i): [c.token_ids for c in output.outputs] for i, output in enumerate(alone)}
    assert engine.kv_cache_manager.pool.usage == 0


def test_beams_share_the_prompt_and_copy_at_most_one_block_each_step(roomy):
    engine = roomy.llm_engine
    engine.add_request("b", list(range(2, 42)), BeamSearchParams(4, max_tokens=12, ignore_eos=True))
    peak = unshared = 0
    while engine.has_unfinished_requests():
        engine.step()
        tables = engine.kv_cache_manager.tables()
        held = {block.block_id for table in tables.values() for block in table}
        if len(held) > peak:
            peak, unshared = len(held), sum(map(len, tables.values()))
    assert peak <= 10 + 4 * 4 < unshared  # the ten full blocks of the prompt are there once


def test_what_can_not_be_held_is_refused_at_the_door(tiny):
    llm = LLM(tiny, block_size=4, num_gpu_blocks_override=9, max_model_len=32, max_num_seqs=4)
    with pytest.raises(
        ValueError, match="3 beams of 15 tokens may take 48 tokens of the KV cache, which holds 32"
    ):
        llm.beam_search([[2] * 5], BeamSearchParams(3, max_tokens=10))
    with pytest.raises(ValueError, match=r"beam_width \(5\) must be at most max_num_seqs \(4\)"):
        llm.beam_search([[2]], BeamSearchParams(5, max_tokens=1))
    assert not llm.llm_engine.has_unfinished_requests()


def test_an_abort_ends_all_beams(roomy, no_block_is_lost):
    engine = roomy.llm_engine
    engine.add_request("b", [2, 3, 4], BeamSearchParams(4, max_tokens=30, ignore_eos=True))
    for _ in range(5):
        engine.step()
    engine.abort_request("b")
    assert not engine.has_unfinished_requests()
    no_block_is_lost(roomy)
