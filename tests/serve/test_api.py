"""The API as the real openai client sees it, over loopback, against an engine whose answers are known."""

import openai
import pytest

QUESTION = [{"role": "user", "content": "How are you?"}]


@pytest.fixture
def client(server):
    return server.client()


def test_models(client, server):
    assert [model.id for model in client.models.list()] == ["fake", "alias"]
    card = client.models.retrieve("alias")
    assert (card.object, card.owned_by, card.max_model_len) == ("model", "minivllm", 512)
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")


def test_completion_text_usage_and_reason(client, fake):
    answer = client.completions.create(model="fake", prompt="abc", max_tokens=200)
    expected = fake.answer_to("abc")
    assert answer.object == "text_completion" and answer.id.startswith("cmpl-") and answer.model == "fake"
    assert [choice.text for choice in answer.choices] == [expected]
    assert answer.choices[0].finish_reason == "stop"
    usage = answer.usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (
        3,
        len(expected) + 1,
        len(expected) + 4,
    )


def test_completion_writes_16_tokens_when_not_told(client, fake):
    answer = client.completions.create(model="fake", prompt="abc")
    assert answer.usage.completion_tokens == 16 and answer.choices[0].finish_reason == "length"
    assert answer.choices[0].text == fake.answer_to("abc")[:16]


@pytest.mark.parametrize(
    ("prompt", "texts"),
    [
        ("one", ["one"]),
        (["one", "two", "three"], ["one", "two", "three"]),
        ([111, 110, 101], ["one"]),
        ([[111, 110, 101], [116, 119, 111]], ["one", "two"]),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_every_form_of_prompt(client, fake, prompt, texts, stream):
    answer = client.completions.create(model="fake", prompt=prompt, max_tokens=200, stream=stream)
    said = {}
    for choice in [c for chunk in answer for c in chunk.choices] if stream else answer.choices:
        said[choice.index] = said.get(choice.index, "") + choice.text
    assert said == {index: fake.answer_to(text) for index, text in enumerate(texts)}


@pytest.mark.parametrize("stream", [False, True])
def test_echo_puts_the_prompt_first(client, fake, stream):
    for prompt in ("one", [111, 110, 101]):
        answer = client.completions.create(
            model="fake", prompt=prompt, echo=True, max_tokens=200, stream=stream
        )
        choices = [c for chunk in answer for c in chunk.choices] if stream else answer.choices
        assert "".join(choice.text for choice in choices) == "one" + fake.answer_to("one")


def test_chat_text_usage_and_reason(client, fake):
    answer = client.chat.completions.create(model="fake", messages=QUESTION)
    expected = fake.answer_to("How are you?")
    assert answer.object == "chat.completion" and answer.id.startswith("chatcmpl-")
    (choice,) = answer.choices
    assert (choice.message.role, choice.message.content, choice.finish_reason) == (
        "assistant",
        expected,
        "stop",
    )
    rendered = "[user] How are you? [assistant] "
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (len(rendered), len(expected) + 1)


def test_chat_may_fill_the_context(client, fake):
    answer = client.chat.completions.create(model="fake", messages=QUESTION, extra_body={"ignore_eos": True})
    assert answer.usage.total_tokens == fake.MAX_MODEL_LEN and answer.choices[0].finish_reason == "length"


def test_max_completion_tokens_is_the_newer_name(client):
    answer = client.chat.completions.create(
        model="fake", messages=QUESTION, max_completion_tokens=5, max_tokens=9
    )
    assert answer.usage.completion_tokens == 5


def test_text_parts_and_several_turns(client, fake):
    parts = [{"type": "text", "text": "first"}, {"type": "text", "text": "second"}]
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": "old"},
        {"role": "assistant", "content": "answer"},
        {"role": "user", "content": parts},
    ]
    answer = client.chat.completions.create(model="fake", messages=messages)
    assert answer.choices[0].message.content == fake.answer_to("first\nsecond")
    assert answer.usage.prompt_tokens == len(
        "[system] Be brief. [user] old [assistant] answer [user] first\nsecond [assistant] "
    )


def test_chat_stream_equals_the_whole_answer_and_ends_as_it_should(client):
    whole = client.chat.completions.create(model="fake", messages=QUESTION)
    options = {"include_usage": True}
    chunks = list(
        client.chat.completions.create(model="fake", messages=QUESTION, stream=True, stream_options=options)
    )
    first, *middle, last, usage = chunks
    assert (first.choices[0].delta.role, first.choices[0].delta.content) == ("assistant", "")
    texts = [chunk.choices[0].delta.content or "" for chunk in chunks[:-1]]
    assert "".join(texts) == whole.choices[0].message.content
    assert [chunk.choices[0].finish_reason for chunk in [first, *middle]] == [None] * (len(middle) + 1)
    assert last.choices[0].finish_reason == "stop"
    assert usage.choices == [] and usage.usage == whole.usage
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"} and len(
        {c.id for c in chunks}
    ) == 1


def test_completion_stream_usage(client):
    def ask(**options):
        chunks = client.completions.create(
            model="fake", prompt=["one", "two"], max_tokens=5, stream=True, stream_options=options
        )
        return [chunk.usage for chunk in chunks]

    *without, last = ask(include_usage=True)
    assert set(without) == {None} and (last.prompt_tokens, last.completion_tokens) == (6, 10)
    every = ask(include_usage=True, continuous_usage_stats=True)
    assert None not in every and every[0].completion_tokens == 1 and every[-1].completion_tokens == 10
    assert set(ask(include_usage=False, continuous_usage_stats=True)) == {None}


def test_raw_stream_is_framed_as_server_sent_events(server):
    body = {"prompt": "abc", "stream": True, "max_tokens": 3}
    with server.http.stream("POST", f"{server.url}/v1/completions", json=body) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        text = response.read().decode()
    events = text.split("\n\n")
    assert events[-1] == "" and events[-2] == "data: [DONE]"
    assert all(event.startswith("data: {") for event in events[:-2]) and len(events) == 5


def test_model_may_be_left_out_or_called_by_an_alias(server, client):
    assert server.post("/v1/completions", json={"prompt": "a"}).json()["model"] == "fake"
    assert client.completions.create(model="alias", prompt="a").model == "fake"


def test_defaults_come_from_the_model_and_the_request_wins(server, client):
    client.completions.create(model="fake", prompt="a")
    seen = server.engine.seen[-1]
    assert (seen.temperature, seen.top_k, seen.top_p) == (0.5, 7, 1.0)
    client.completions.create(model="fake", prompt="a", temperature=1.5, extra_body={"top_k": 0})
    seen = server.engine.seen[-1]
    assert (seen.temperature, seen.top_k) == (1.5, 0)


def test_every_sampling_field_reaches_the_engine(server):
    given = {
        "temperature": 0.25,
        "top_p": 0.5,
        "top_k": 3,
        "min_p": 0.125,
        "seed": 2**62,
        "presence_penalty": 0.5,
        "frequency_penalty": -0.5,
        "repetition_penalty": 1.5,
        "min_tokens": 2,
        "max_tokens": 4,
        "ignore_eos": True,
        "stop_token_ids": [7],
        "include_stop_str_in_output": True,
        "skip_special_tokens": False,
        "allowed_token_ids": [1, 2],
    }
    lists = {"stop": "END", "bad_words": ["bad"], "logit_bias": {"5": -200}}
    response = server.post("/v1/completions", json={"prompt": "a", **given, **lists})
    assert response.status_code == 200, response.text
    seen = server.engine.seen[-1]
    for name, value in given.items():
        got = getattr(seen, name)
        assert (list(got) if isinstance(value, list) else got) == value, name
    assert (list(seen.stop), list(seen.bad_words), dict(seen.logit_bias)) == (["END"], ["bad"], {5: -100.0})


def test_truncation_of_the_prompt(server, fake):
    def ask(**options):
        body = {"prompt": "abcdef" * 200, "max_tokens": 200, **options}
        return server.post("/v1/completions", json=body)

    assert ask().status_code == 400
    assert fake.answer_to("ef") in ask(truncate_prompt_tokens=2).json()["choices"][0]["text"]
    assert (
        fake.answer_to("ab")
        in ask(truncate_prompt_tokens=2, truncation_side="right").json()["choices"][0]["text"]
    )
    assert ask(truncate_prompt_tokens=-1).json()["usage"]["prompt_tokens"] == fake.MAX_MODEL_LEN - 200


def test_tokenize_and_detokenize(server):
    answer = server.post("/tokenize", json={"prompt": "héλ", "return_token_strs": True}).json()
    assert answer == {
        "count": 3,
        "max_model_len": 512,
        "tokens": [104, 233, 955],
        "token_strs": ["h", "é", "λ"],
    }
    assert server.post("/detokenize", json={"tokens": answer["tokens"]}).json() == {"prompt": "héλ"}
    chat = server.post("/tokenize", json={"messages": QUESTION}).json()
    assert chat["count"] == len("[user] How are you? [assistant] ")
    for path, body in (
        ("/detokenize", {"tokens": [2**31]}),
        ("/detokenize", {"tokens": [-1]}),
        ("/tokenize", {"prompt": 3}),
        ("/tokenize", {"prompt": "a" * 1_000_000}),
        ("/tokenize", {}),
    ):
        assert server.post(path, json=body).status_code == 400, body


def test_small_routes(server):
    health = server.get("/health")
    assert health.status_code == 200 and health.json()["status"] == "ok" and health.json()["version"]
    assert server.get("/ping").status_code == server.post("/ping").status_code == 200
    assert server.get("/version").json() == {"version": health.json()["version"]}
    status = server.get("/status").json()
    assert status["model"] == "fake" and status["is_alive"] and status["default_temperature"] == 0.5
    assert "/v1/chat/completions" in server.get("/openapi.json").json()["paths"]


def test_cached_tokens_are_told_when_asked_for(fake, serve):
    details = serve(fake.FakeEngine(), enable_prompt_tokens_details=True)
    answer = details.client().completions.create(model="fake", prompt="abc")
    assert answer.usage.prompt_tokens_details.cached_tokens == 0
