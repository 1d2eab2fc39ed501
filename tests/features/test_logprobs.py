"""Log-probabilities are the model's own: equal to transformers', whatever was cached, cut or preempted."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minivllm.llm import LLM
from minivllm.sampling_params import SamplingParams


def close(a, b):
    return abs(a - b) < 1e-3


def check(output, logprobs_of, k, prompt_k):
    ids = output.prompt_token_ids + output.outputs[0].token_ids
    expected = logprobs_of(ids)
    start = len(output.prompt_token_ids)
    total = 0.0
    for position, (token, entry) in enumerate(
        zip(output.outputs[0].token_ids, output.outputs[0].logprobs, strict=True), start=start
    ):
        row = expected[position - 1]
        assert close(entry[token].logprob, row[token].item())
        assert entry[token].rank == (row > row[token]).sum().item() + 1
        assert k <= len(entry) <= k + 1
        ranked = sorted((e for e in entry.values()), key=lambda e: e.rank)[:k]
        assert (
            all(close(e.logprob, v) for e, v in zip(ranked, row.topk(k).values.tolist(), strict=True))
            or k == 0
        )
        total += row[token].item()
    assert close(output.outputs[0].cumulative_logprob, total)
    if prompt_k is None:
        assert output.prompt_logprobs is None
        return
    assert output.prompt_logprobs[0] is None and len(output.prompt_logprobs) == start
    for position in range(1, start):
        entry, row = output.prompt_logprobs[position], expected[position - 1]
        assert close(entry[ids[position]].logprob, row[ids[position]].item())
        assert prompt_k <= len(entry) <= prompt_k + 1


@settings(max_examples=15)
@given(
    prompts=st.lists(st.lists(st.integers(2, 255), min_size=1, max_size=30), min_size=1, max_size=4),
    k=st.integers(0, 5),
    prompt_k=st.none() | st.integers(0, 4),
    spare=st.integers(0, 10),
)
def test_equal_to_transformers_also_after_hits_chunks_and_preemption(
    tiny, oracle, prompts, k, prompt_k, spare
):
    longest = max(map(len, prompts)) + 6
    llm = LLM(
        tiny,
        block_size=4,
        num_gpu_blocks_override=2 + longest // 4 + spare,
        max_model_len=longest,
        max_num_batched_tokens=16,
        max_num_seqs=4,
    )
    params = SamplingParams(
        temperature=0, max_tokens=6, ignore_eos=True, logprobs=k, prompt_logprobs=prompt_k
    )
    for _ in range(2):  # the second time the prompts are in the prefix cache
        for output in llm.generate(prompts, params, use_tqdm=False):
            check(output, lambda ids: oracle(tiny, ids), k, prompt_k)


def test_they_are_taken_before_temperature_and_penalties(roomy, tiny, oracle):
    params = SamplingParams(
        temperature=0.3,
        seed=3,
        top_k=2,
        frequency_penalty=2,
        logit_bias={7: 50},
        max_tokens=5,
        ignore_eos=True,
        logprobs=2,
    )
    (output,) = roomy.generate([[5, 6, 7]], params, use_tqdm=False)
    check(output, lambda ids: oracle(tiny, ids), 2, None)


def test_of_a_batch_those_who_ask_get_their_own(roomy, tiny, oracle):
    prompts, asked = [[5, 6, 7], [9, 9], [11, 12], [13]], [None, 2, None, 0]
    params = [SamplingParams(max_tokens=4, seed=i, ignore_eos=True, logprobs=k) for i, k in enumerate(asked)]
    for output, k in zip(roomy.generate(prompts, params, use_tqdm=False), asked, strict=True):
        if k is None:
            assert output.outputs[0].logprobs is None and output.outputs[0].cumulative_logprob is None
        else:
            check(output, lambda ids: oracle(tiny, ids), k, None)


def test_minus_one_asks_for_the_whole_vocabulary(tiny):
    llm = LLM(tiny, num_gpu_blocks_override=20, max_logprobs=-1, max_model_len=64)
    (output,) = llm.generate([[5]], SamplingParams(temperature=0, max_tokens=1, logprobs=-1), use_tqdm=False)
    assert len(output.outputs[0].logprobs[0]) == 256


@pytest.mark.parametrize("name", ["logprobs", "prompt_logprobs"])
def test_more_than_max_logprobs_is_refused(roomy, name):
    with pytest.raises(ValueError, match=rf"{name} \(21\) must be at most max_logprobs \(20\)"):
        roomy.generate([[5]], SamplingParams(**{name: 21}), use_tqdm=False)
