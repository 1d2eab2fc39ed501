"""LLM.embed: against the same model run by transformers, and whatever else is in the batch."""

import pytest

from minivllm import LLM, PoolingParams, SamplingParams, zoo

TEXTS = ["What is paging?", "块表", "A much longer text about a fox. " * 12]


@pytest.fixture(scope="module")
def llm():
    return LLM("tutor", max_num_batched_tokens=32, max_num_seqs=8, num_gpu_blocks_override=60)


@pytest.fixture(scope="module")
def expected(llm):
    """The last hidden state after the final norm, by transformers, scaled to length 1."""
    import torch
    from transformers import AutoModel

    model = AutoModel.from_pretrained(zoo.path("tutor"), dtype=torch.float32)
    vectors = []
    for text in TEXTS:
        ids = torch.tensor([llm.get_tokenizer().encode(text)])
        with torch.inference_mode():
            hidden = model(input_ids=ids).last_hidden_state[0, -1]
        vectors.append((hidden / hidden.norm()).tolist())
    return vectors


def test_embedding_equals_transformers(llm, expected):
    outputs = llm.embed(TEXTS, use_tqdm=False)
    for output, vector, text in zip(outputs, expected, TEXTS, strict=True):
        assert output.outputs.embedding == pytest.approx(vector, abs=2e-4)
        assert output.prompt_token_ids == llm.get_tokenizer().encode(text) and output.finished
    (alone,) = llm.encode(TEXTS[0], use_tqdm=False)  # found in the prefix cache, but for its last token
    assert alone.outputs.data == pytest.approx(expected[0], abs=2e-4)
    assert llm.llm_engine.stats().num_free_blocks == 59


def test_fewer_dimensions(llm, expected):
    (output,) = llm.embed(TEXTS[0], pooling_params=PoolingParams(dimensions=3), use_tqdm=False)
    scale = sum(x * x for x in expected[0][:3]) ** 0.5
    assert output.outputs.embedding == pytest.approx([x / scale for x in expected[0][:3]], abs=2e-3)
    for wrong in (0, -1, 1.5, True, "3"):
        with pytest.raises(ValueError, match="dimensions must be"):
            PoolingParams(dimensions=wrong)
    with pytest.raises(ValueError, match="at most 256"):
        llm.embed("a", pooling_params=PoolingParams(dimensions=257))


def test_embedding_beside_sampling_and_aborts(llm, expected):
    """One engine does both at once; an aborted text leaves nothing behind."""
    engine = llm.llm_engine
    engine.add_request(
        "talk", "Once upon a time", SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)
    )
    engine.add_request("embed", TEXTS[2], PoolingParams())
    engine.add_request("gone", "x" + TEXTS[2], PoolingParams())
    with pytest.raises(ValueError, match="in use"):
        engine.add_request("gone", "again", PoolingParams())
    before = engine.stats()
    outputs = {output.request_id: output for output in engine.step()}
    engine.abort_request("gone")
    while engine.has_unfinished_requests():
        outputs |= {output.request_id: output for output in engine.step()}
    after = engine.stats()
    assert set(outputs) == {"talk", "embed"}
    assert outputs["embed"].outputs.embedding == pytest.approx(expected[2], abs=2e-4)
    assert (
        after.num_generation_tokens - before.num_generation_tokens == 12
    )  # no token is counted for an embedding
    assert after.num_free_blocks == 59
