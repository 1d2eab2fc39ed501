"""The model without an engine says what the engine says, with any attention that is right."""

from minivllm import LLM, SamplingParams
from minivllm.attention.naive import dense_causal_attention
from minivllm.course.extra.ch01_attention import grouped_attention
from minivllm.course.extra.plain_model import PlainModel

PROMPT = [763, 389, 285, 1368, 1369, 33]


def decode(model, num_tokens):
    ids = list(PROMPT)
    for _ in range(num_tokens):
        ids.append(int(model.logits(ids)[-1].argmax()))
    return ids[len(PROMPT) :]


def test_greedy_tokens_are_the_engine_s():
    llm = LLM("tutor", dtype="float32", num_gpu_blocks_override=32, max_model_len=64)
    params = SamplingParams(temperature=0, max_tokens=10, ignore_eos=True)
    (output,) = llm.generate({"prompt_token_ids": PROMPT}, params, use_tqdm=False)
    assert decode(PlainModel(grouped_attention), 10) == list(output.outputs[0].token_ids)


def test_the_oracle_fits_in_as_well():
    def oracle(query, key, value, scale):
        return dense_causal_attention(query, key, value, scale=scale)

    model = PlainModel(oracle)
    says = decode(model, 3)
    model.attention = grouped_attention  # may be exchanged at any time
    assert decode(model, 3) == says


def test_attention_is_really_the_one_that_is_given():
    seen = []

    def noting(query, key, value, scale):
        seen.append((tuple(query.shape), tuple(key.shape), scale))
        return grouped_attention(query, key, value, scale)

    PlainModel(noting).logits(PROMPT)
    assert seen == [((6, 8, 32), (6, 4, 32), 32**-0.5)] * 6
