"""One property for all sampling parameters: a request says in a crowd what it says alone, whoever comes or goes."""

from hypothesis import given, settings
from hypothesis import strategies as st

from minivllm.llm import LLM
from minivllm.sampling_params import SamplingParams

ids = st.integers(2, 255)
parameters = st.fixed_dictionaries(
    {"max_tokens": st.integers(1, 12), "seed": st.integers(0, 9)},
    optional={
        "temperature": st.sampled_from([0.0, 0.5, 1.3]),
        "top_k": st.integers(1, 20),
        "top_p": st.sampled_from([0.3, 0.9]),
        "min_p": st.sampled_from([0.05, 0.5]),
        "repetition_penalty": st.sampled_from([0.7, 1.5]),
        "frequency_penalty": st.sampled_from([-1.0, 1.5]),
        "presence_penalty": st.sampled_from([-2.0, 2.0]),
        "logit_bias": st.dictionaries(ids, st.sampled_from([-100.0, 5.0]), max_size=3),
        "allowed_token_ids": st.lists(ids, min_size=2, max_size=20, unique=True),
        "stop_token_ids": st.lists(ids, max_size=60),
        "min_tokens": st.just(1),
        "logprobs": st.integers(0, 2),
    },
)


@settings(max_examples=40)
@given(
    load=st.lists(st.tuples(st.lists(ids, min_size=1, max_size=12), parameters), min_size=2, max_size=6),
    spare=st.integers(0, 8),
    gaps=st.lists(st.integers(0, 3), min_size=6, max_size=6),
    mode=st.sampled_from(["recompute", "swap"]),
)
def test_alone_and_in_a_crowd_are_the_same(tiny, roomy, load, spare, gaps, mode):
    longest = max(len(prompt) + p["max_tokens"] for prompt, p in load)
    crowd = LLM(
        tiny,
        block_size=2,
        num_gpu_blocks_override=2 + longest // 2 + spare,
        max_model_len=longest,
        max_num_seqs=4,
        max_num_batched_tokens=16,
        preemption_mode=mode,
        swap_space=0.001 if mode == "swap" else 0.0,
    ).llm_engine
    params = [SamplingParams(**p) for _, p in load]
    outputs, pending = {}, list(enumerate(load))
    wait = 0
    while pending or crowd.has_unfinished_requests():
        if pending and wait == 0:
            number, (prompt, _) = pending.pop(0)
            crowd.add_request(str(number), prompt, params[number])
            wait = gaps[number]
        else:
            wait -= wait > 0
        for output in crowd.step():
            if output.finished:
                outputs[int(output.request_id)] = output.outputs[0]
        crowd.kv_cache_manager.check_integrity()
    for number, (prompt, _) in enumerate(load):
        (alone,) = roomy.generate([prompt], params[number], use_tqdm=False)
        assert outputs[number].token_ids == alone.outputs[0].token_ids
        assert outputs[number].finish_reason == alone.outputs[0].finish_reason
        assert outputs[number].stop_reason == alone.outputs[0].stop_reason
