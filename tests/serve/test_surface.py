"""The fields of vLLM that go beyond OpenAI's, over the real engine: forms, beams, scores, token ids, embeddings."""

import base64
import json
import struct

import pytest

PROMPT = "Once upon a time"


@pytest.fixture(autouse=True)
def nothing_left_behind(real):
    yield
    real.wait_until_idle()
    stats = real.async_engine.stats
    assert stats.num_free_blocks == stats.num_gpu_blocks - 1
    assert real.get("/health").status_code == 200


def complete(real, **fields):
    response = real.post(
        "/v1/completions", json={"prompt": PROMPT, "temperature": 0, "max_tokens": 6, **fields}
    )
    assert response.status_code == 200, response.text
    return response.json()


def chat(real, **fields):
    messages = [{"role": "user", "content": "What is paging?"}]
    body = {"messages": messages, "temperature": 0, "max_tokens": 60, **fields}
    response = real.post("/v1/chat/completions", json=body)
    assert response.status_code == 200, response.text
    return response.json()


COLOUR = {
    "type": "object",
    "properties": {
        "colour": {"enum": ["red", "green"]},
        "n": {"type": "integer", "minimum": 1, "maximum": 9},
    },
    "required": ["colour", "n"],
    "additionalProperties": False,
}
FORMS = [
    {
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "c", "schema": COLOUR, "strict": True},
        }
    },
    {"structured_outputs": {"json": COLOUR}},
    {"structured_outputs": {"json": json.dumps(COLOUR)}},
    {"guided_json": COLOUR},
]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("stream", [False, True])
def test_answer_follows_a_schema(real, form, stream):
    if not stream:
        texts = [
            chat(real, **form)["choices"][0]["message"]["content"],
            complete(real, max_tokens=60, **form),
        ]
        texts[1] = texts[1]["choices"][0]["text"]
    else:
        chunks = real.client().completions.create(
            model="tutor", prompt=PROMPT, temperature=0, max_tokens=60, stream=True, extra_body=form
        )
        texts = ["".join(chunk.choices[0].text for chunk in chunks)]
    for text in texts:
        answer = json.loads(text)
        assert (
            set(answer) == {"colour", "n"} and answer["colour"] in ("red", "green") and 1 <= answer["n"] <= 9
        )


def test_answer_follows_a_choice_a_regex_a_grammar_and_any_object(real):
    def text(**form):
        return complete(real, max_tokens=60, structured_outputs=form)["choices"][0]["text"]

    assert text(choice=["paging", "swapping"]) in ("paging", "swapping")
    assert text(regex="[a-f]{3}-[0-9]{2}").count("-") == 1
    spelled = text(grammar='start: "x" "y" ("z" | "w")')
    assert spelled in ("xyz", "xyw")
    assert complete(real, response_format={"type": "text"}) is not None


def test_beams_equal_those_of_the_offline_engine(real):
    beams = complete(real, use_beam_search=True, n=3, ignore_eos=True)
    texts = [choice["text"] for choice in beams["choices"]]
    assert [choice["index"] for choice in beams["choices"]] == [0, 1, 2] and len(set(texts)) == 3
    greedy = complete(real, ignore_eos=True, logprobs=0)["choices"][0]
    assert beams["usage"]["completion_tokens"] == 18

    def score(text):
        ids = real.post("/tokenize", json={"prompt": text}).json()["tokens"]
        scored = complete(real, prompt=ids, echo=True, max_tokens=0, logprobs=0)["choices"][0]["logprobs"]
        return sum(scored["token_logprobs"][1:])

    scores = [score(PROMPT + text) for text in texts]
    assert scores == sorted(scores, reverse=True) and scores[0] >= score(PROMPT + greedy["text"]) - 1e-3
    whole = chat(real, use_beam_search=True, n=2, max_tokens=5)
    assert len(whole["choices"]) == 2 and whole["usage"]["completion_tokens"] <= 10


def test_prompt_alone_is_scored_with_echo_and_no_tokens(real):
    scored = complete(real, echo=True, max_tokens=0, logprobs=1)
    (choice,) = scored["choices"]
    assert choice["text"] == PROMPT and scored["usage"]["completion_tokens"] == 0
    assert choice["finish_reason"] == "length" and choice["logprobs"]["token_logprobs"][0] is None
    longer = complete(real, echo=True, max_tokens=3, logprobs=1, ignore_eos=True)["choices"][0]["logprobs"]
    num_prompt = len(choice["logprobs"]["tokens"])
    assert (
        longer["tokens"][:num_prompt] == choice["logprobs"]["tokens"]
        and len(longer["tokens"]) == num_prompt + 3
    )
    assert choice["logprobs"]["token_logprobs"][1:] == pytest.approx(
        longer["token_logprobs"][1:num_prompt], abs=1e-3
    )
    streamed = real.client().completions.create(
        model="tutor",
        prompt=PROMPT,
        max_tokens=0,
        echo=True,
        stream=True,
        stream_options={"include_usage": True},
    )
    *chunks, last = list(streamed)
    assert "".join(chunk.choices[0].text for chunk in chunks) == PROMPT and last.usage.completion_tokens == 0


def test_prompt_logprobs_in_vllms_form(real):
    (choice,) = complete(real, prompt_logprobs=2)["choices"]
    tokens = real.post("/tokenize", json={"prompt": PROMPT}).json()["tokens"]
    first, *rest = choice["prompt_logprobs"]
    assert first is None and len(rest) == len(tokens) - 1
    for token_id, entry in zip(tokens[1:], rest, strict=True):
        chosen = entry[str(token_id)]
        assert set(chosen) == {"logprob", "rank", "decoded_token"} and chosen["logprob"] <= 0
        assert 2 <= len(entry) <= 3 and sorted(one["rank"] for one in entry.values())[:2] == [1, 2]
    assert chat(real, prompt_logprobs=0)["prompt_logprobs"][0] is None
    assert complete(real)["choices"][0]["prompt_logprobs"] is None


@pytest.mark.parametrize("stream", [False, True])
def test_token_ids_are_returned(real, stream):
    prompt_ids = real.post("/tokenize", json={"prompt": PROMPT}).json()["tokens"]
    if stream:
        body = {"prompt": PROMPT, "temperature": 0, "max_tokens": 6, "return_token_ids": True, "stream": True}
        lines = [line for line in real.post("/v1/completions", json=body).text.split("\n\n") if "{" in line]
        choices = [json.loads(line.removeprefix("data: "))["choices"][0] for line in lines]
        assert choices[0]["prompt_token_ids"] == prompt_ids
        assert all("prompt_token_ids" not in choice for choice in choices[1:])
        token_ids = [token_id for choice in choices for token_id in choice["token_ids"]]
    else:
        (choice,) = complete(real, return_token_ids=True)["choices"]
        assert choice["prompt_token_ids"] == prompt_ids
        token_ids = choice["token_ids"]
    text = complete(real)["choices"][0]["text"]
    assert real.post("/detokenize", json={"tokens": token_ids}).json()["prompt"] == text
    answer = chat(real, return_token_ids=True, max_tokens=4)
    assert len(answer["choices"][0]["token_ids"]) == 4 == answer["usage"]["completion_tokens"]
    assert len(answer["prompt_token_ids"]) == answer["usage"]["prompt_tokens"]


def test_tokens_as_token_ids(real):
    columns = complete(real, logprobs=1, return_tokens_as_token_ids=True, return_token_ids=True)["choices"][0]
    assert columns["logprobs"]["tokens"] == [f"token_id:{i}" for i in columns["token_ids"]]
    row = chat(real, logprobs=True, top_logprobs=1, return_tokens_as_token_ids=True)["choices"][0]["logprobs"]
    assert row["content"][0]["token"].startswith("token_id:")


def test_request_id_is_the_clients(real):
    assert complete(real, request_id="mine-17")["id"] == "cmpl-mine-17"
    assert chat(real, request_id="mine-17", max_tokens=1)["id"] == "chatcmpl-mine-17"


def test_embeddings(real):
    client = real.client()
    texts = [PROMPT, "What is paging?", PROMPT]
    answer = client.embeddings.create(model="tutor", input=texts)  # the client asks for base64 by itself
    vectors = [one.embedding for one in answer.data]
    assert [one.index for one in answer.data] == [0, 1, 2] and len(vectors[0]) == 256
    assert sum(x * x for x in vectors[1]) == pytest.approx(1, abs=1e-5)
    assert vectors[0] == pytest.approx(vectors[2], abs=1e-5)
    assert sum(a * b for a, b in zip(vectors[0], vectors[1], strict=True)) < 0.999
    plain = real.post("/v1/embeddings", json={"input": texts[1]}).json()
    assert plain["object"] == "list" and plain["data"][0]["embedding"] == pytest.approx(vectors[1], abs=1e-5)
    assert plain["usage"]["completion_tokens"] == 0 and plain["id"].startswith("embd-")
    coded = real.post("/v1/embeddings", json={"input": texts[1], "encoding_format": "base64"}).json()
    unpacked = struct.unpack("<256f", base64.b64decode(coded["data"][0]["embedding"]))
    assert list(unpacked) == pytest.approx(vectors[1], abs=1e-5)
    short = real.post("/v1/embeddings", json={"input": texts[1], "dimensions": 8}).json()["data"][0][
        "embedding"
    ]
    scale = sum(x * x for x in vectors[1][:8]) ** 0.5
    assert short == pytest.approx([x / scale for x in vectors[1][:8]], abs=1e-5)
    refused = real.post("/v1/embeddings", json={"input": "a", "dimensions": 257})
    assert refused.status_code == 400 and refused.json()["error"]["param"] == "dimensions"


def test_long_and_many_texts_are_embedded_among_other_work(real):
    """Chunked prefill and waiting change nothing: each vector equals the one of the text alone."""
    texts = [f"Text number {i}. " * (1 + i * 7) for i in range(20)]
    together = real.post("/v1/embeddings", json={"input": texts}).json()["data"]
    for i in (0, 7, 19):
        alone = real.post("/v1/embeddings", json={"input": texts[i]}).json()["data"][0]["embedding"]
        assert together[i]["embedding"] == pytest.approx(alone, abs=1e-4)
