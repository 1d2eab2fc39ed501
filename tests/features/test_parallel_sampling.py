"""n > 1: as many independent requests with seeds s, s + 1, ..., on shared blocks."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minivllm.llm import LLM
from minivllm.sampling_params import RequestOutputKind, SamplingParams

prompts = st.lists(st.integers(2, 255), min_size=1, max_size=20)


def run(llm, prompt, **params):
    return llm.generate([prompt], SamplingParams(ignore_eos=True, **params), use_tqdm=False)[0]


@settings(max_examples=25)
@given(
    prompt=prompts,
    n=st.integers(2, 5),
    seed=st.integers(0, 100),
    max_tokens=st.integers(1, 9),
    data=st.data(),
)
def test_choices_equal_requests_with_their_seeds(tiny, roomy, prompt, n, seed, max_tokens, data):
    longest = len(prompt) + max_tokens
    llm = LLM(
        tiny,
        block_size=data.draw(st.sampled_from([1, 3, 4])),
        num_gpu_blocks_override=longest + 2 + data.draw(st.integers(0, 60)),
        max_model_len=longest,
        max_num_batched_tokens=data.draw(st.integers(8, 30)),
        max_num_seqs=data.draw(st.integers(1, 6)),
        enable_prefix_caching=data.draw(st.booleans()),
    )
    together = run(llm, prompt, n=n, seed=seed, max_tokens=max_tokens)
    assert [choice.index for choice in together.outputs] == list(range(n))
    for index, choice in enumerate(together.outputs):
        alone = run(roomy, prompt, seed=seed + index, max_tokens=max_tokens)
        assert choice.token_ids == alone.outputs[0].token_ids
    assert llm.llm_engine.kv_cache_manager.pool.num_free_blocks == llm.llm_engine.executor.num_blocks - 1


def test_choices_without_a_seed_differ(roomy):
    choices = run(roomy, [5, 6, 7], n=8, max_tokens=8).outputs
    assert len({tuple(choice.token_ids) for choice in choices}) == 8


def test_a_stream_carries_each_choice_by_index_and_ends_once(roomy):
    engine = roomy.llm_engine
    params = SamplingParams(n=3, seed=1, max_tokens=5, ignore_eos=True, output_kind=RequestOutputKind.DELTA)
    engine.add_request("s", [9, 8, 7], params)
    said, finished = {0: [], 1: [], 2: []}, []
    while engine.has_unfinished_requests():
        for output in engine.step():
            finished.append(output.finished)
            for choice in output.outputs:
                said[choice.index] += choice.token_ids
    final = run(roomy, [9, 8, 7], n=3, seed=1, max_tokens=5)
    assert [said[i] for i in range(3)] == [choice.token_ids for choice in final.outputs]
    assert finished.count(True) == 1 and finished[-1]


def test_aborting_the_call_ends_all_choices(roomy, no_block_is_lost):
    engine = roomy.llm_engine
    engine.add_request("gone", [3] * 10, SamplingParams(n=4, max_tokens=50, ignore_eos=True))
    engine.step()
    engine.step()
    (last,) = engine.abort_request("gone")
    assert last.finished and [c.finish_reason for c in last.outputs] == ["abort"] * 4
    assert not engine.has_unfinished_requests()
    no_block_is_lost(roomy)
    engine.add_request("gone", [3], SamplingParams(max_tokens=1))  # the name is free again
    while engine.has_unfinished_requests():
        engine.step()


def test_greedy_with_n_is_refused():
    with pytest.raises(ValueError, match="n must be 1 with greedy sampling"):
        SamplingParams(n=2, temperature=0)
