"""What a careless or hostile client sends. Each gets a 4xx with a sentence, in time, and the next request works."""

import json
import math
import socket
import time

import openai
import pytest

pytestmark = pytest.mark.usefixtures("healthy")

SECONDS = 2.0  # no refusal may take longer
NUMBERS = ["NaN", "Infinity", "-Infinity", "1e400", '"0.7"', "true", "[]", "{}"]
NUMBER_FIELDS = [
    *("temperature", "top_p", "min_p"),
    *("presence_penalty", "frequency_penalty", "repetition_penalty"),
]


def refused(server, path, body, status=400, **options):
    """Send `body` (JSON-able, or raw text); return the error after checking its shape and how long it took."""
    content = body if isinstance(body, (str, bytes)) else json.dumps(body)
    headers = {"Content-Type": "application/json", **options.pop("headers", {})}
    started = time.monotonic()
    response = server.post(path, content=content, headers=headers, **options)
    assert response.status_code == status, response.text[:300]
    assert time.monotonic() - started < SECONDS
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and error["code"] == status
    assert 10 < len(error["message"]) <= 1000
    return error


def completion(**fields):
    return {"prompt": "a", **fields}


def chat(**fields):
    return {"messages": [{"role": "user", "content": "a"}], **fields}


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("field", NUMBER_FIELDS)
def test_numbers_that_are_none(server, field, number):
    error = refused(server, "/v1/completions", f'{{"prompt": "a", "{field}": {number}}}')
    assert error["param"] == field and field in error["message"]


@pytest.mark.parametrize("value", ["10000000000", str(2**63), "0", "-1", "1.5", '"3"', "true", "2"])
def test_n(server, value):
    for body in (completion(), chat()):
        path = "/v1/completions" if "prompt" in body else "/v1/chat/completions"
        assert (
            refused(server, path, json.dumps({**body, "n": 0}).replace('"n": 0', f'"n": {value}'))["param"]
            == "n"
        )


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": -0.1}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": 1.1}, "top_p"),
        ({"top_k": -2}, "top_k"),
        ({"top_k": 1.5}, "top_k"),
        ({"min_p": -1}, "min_p"),
        ({"presence_penalty": 3}, "presence_penalty"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"seed": 2**63}, "seed"),
        ({"seed": "1"}, "seed"),
        ({"seed": 10**1000}, "seed"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": -5}, "max_tokens"),
        ({"max_tokens": "5"}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"min_tokens": 10**9}, "min_tokens"),
        ({"min_tokens": 10**9, "max_tokens": None}, "min_tokens"),
        ({"stop": ["a"] * 5}, "stop"),
        ({"stop": ""}, "stop"),
        ({"stop": ["x" * 2000]}, "stop"),
        ({"bad_words": ["x" * 2000]}, "bad_words"),
        ({"stop": [1]}, "stop"),
        ({"stop_token_ids": [-1]}, "stop_token_ids"),
        ({"stop_token_ids": list(range(2000))}, "stop_token_ids"),
        ({"bad_words": ["a"] * 129}, "bad_words"),
        ({"bad_words": [""]}, "bad_words"),
        ({"allowed_token_ids": []}, "allowed_token_ids"),
        ({"logit_bias": {"a": 1}}, "logit_bias"),
        ({"logit_bias": {"-1": 1}}, "logit_bias"),
        ({"logit_bias": {"1": "2"}}, "logit_bias"),
        ({"logit_bias": {str(i): 1 for i in range(1025)}}, "logit_bias"),
        ({"logit_bias": [1]}, "logit_bias"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": 5}, "stream_options"),
        ({"truncate_prompt_tokens": 0}, "truncate_prompt_tokens"),
        ({"truncate_prompt_tokens": -2}, "truncate_prompt_tokens"),
        ({"truncation_side": "middle"}, "truncation_side"),
        ({"priority": 2**40}, "priority"),
        ({"cache_salt": ""}, "cache_salt"),
        ({"cache_salt": "x" * 129}, "cache_salt"),
        ({"cache_salt": "a@b"}, "cache_salt"),
        ({"cache_salt": "a/b"}, "cache_salt"),
        ({"cache_salt": "a\0b"}, "cache_salt"),
        ({"cache_salt": 123}, "cache_salt"),
        ({"cache_salt": ["a"]}, "cache_salt"),
        ({"model": 5}, "model"),
    ],
)
def test_values_out_of_range(server, fields, param):
    for path, body in (("/v1/completions", completion(**fields)), ("/v1/chat/completions", chat(**fields))):
        if "min_tokens" in fields and "messages" in body:
            body["max_tokens"] = 16
        error = refused(server, path, body)
        assert error["param"] == param and param in error["message"], error


def test_more_allowed_tokens_than_there_are_are_counted_before_they_are_looked_at(real):
    error = refused(
        real, "/v1/completions", {"prompt": "a", "model": "tutor", "allowed_token_ids": [5] * 300_000}
    )
    assert error["message"] == "allowed_token_ids holds 300000 ids; the vocabulary has 3072"


@pytest.mark.parametrize("logprobs", ["21", "-2", "1000000", "true", '"5"'])
def test_logprobs_of_a_completion(server, logprobs):
    assert (
        refused(server, "/v1/completions", f'{{"prompt": "a", "logprobs": {logprobs}}}')["param"]
        == "logprobs"
    )
    refused(server, "/v1/completions", f'{{"prompt": "a", "stream": true, "logprobs": {logprobs}}}')


def test_logprobs_of_a_chat(server):
    assert refused(server, "/v1/chat/completions", chat(top_logprobs=3))["param"] == "top_logprobs"
    assert refused(server, "/v1/chat/completions", chat(logprobs=3))["param"] == "logprobs"


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        [],
        [[]],
        None,
        ["a", ""],
        [[1], []],
        {},
        5,
        True,
        [1.5],
        [True],
        ["a", 1],
        [[1], "a"],
        [-1],
        [[1, "2"]],
    ],
)
def test_prompts_that_are_none(server, prompt):
    assert refused(server, "/v1/completions", {"prompt": prompt})["param"] == "prompt"


def test_prompt_that_is_missing(server):
    assert refused(server, "/v1/completions", {})["param"] == "prompt"


def test_errors_of_tokenize_name_the_field(server):
    assert refused(server, "/tokenize", {"prompt": 5})["param"] == "prompt"
    assert refused(server, "/detokenize", {"tokens": "5"})["param"] == "tokens"


def test_number_of_prompts(server):
    assert "1025" in refused(server, "/v1/completions", {"prompt": ["a"] * 1025})["message"]
    assert "100000" in refused(server, "/v1/completions", {"prompt": ["a"] * 100_000})["message"]
    assert len(server.post("/v1/completions", json={"prompt": ["a"] * 1024}).json()["choices"]) == 1024


@pytest.mark.parametrize(
    "messages",
    [
        [],
        None,
        "hello",
        [5],
        [{"role": "user"}],
        [{"content": "a"}],
        [{"role": "user", "content": None}],
        [{"role": "user", "content": 5}],
        [{"role": "user", "content": []}],
        [{"role": "user", "content": [{"type": "text"}]}],
        [{"role": "user", "content": [{"type": "text", "text": 5}]}],
        [{"role": "user", "content": [{"text": "a"}]}],
        [
            {
                "role": "user",
                "content": [{"type": "image_url", "image_url": {"url": "http://127.0.0.1:9/x.png"}}],
            }
        ],
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]}],
        [{"role": "user", "content": [{"type": ["text"], "text": "a"}]}],
        [{"role": "wizard", "content": "a"}],
        [{"role": "tool", "content": "a"}],
        [{"role": "assistant", "content": "a", "tool_calls": [{"id": "1"}]}],
        [{"role": "user", "content": "a"}] * 5000,
    ],
)
def test_messages_that_are_none(server, messages):
    assert refused(server, "/v1/chat/completions", {"messages": messages})["param"] == "messages"


@pytest.mark.parametrize(
    "field",
    [
        {"chat_template": "{% for i in range(10**9) %}x{% endfor %}"},
        {"mm_processor_kwargs": {"a": 1}},
        {"documents": [{"text": "a"}]},
        {"functions": [{"name": "f"}]},
        {"prompt_embeds": "AAAA"},
        {"suffix": "end"},
    ],
)
def test_fields_that_are_not_served(server, field):
    (name,) = field
    for path, body in (("/v1/completions", completion(**field)), ("/v1/chat/completions", chat(**field))):
        error = refused(server, path, body)
        assert error["param"] == name and f"{name} is not served" in error["message"]


def test_fields_that_ask_for_nothing_are_fine(server):
    harmless = {
        "tools": [],
        "tool_choice": "none",
        "response_format": {"type": "text"},
        "suffix": None,
        "chat_template_kwargs": {"enable_thinking": False},
        "reasoning_effort": "low",
        "use_beam_search": False,
        "best_of": 10**7,
        "user": "me",
        "no_such_field": {"a": [1]},
    }
    assert server.post("/v1/completions", json=completion(**harmless)).status_code == 200
    assert server.post("/v1/chat/completions", json=chat(**harmless)).status_code == 200


SCHEMA = {"type": "object"}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": {"type": "yaml"}}, "response_format"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "a"}}}, "response_format"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": "a"}}}, "response_format"),
        ({"response_format": "json_object"}, "response_format"),
        ({"response_format": []}, "response_format"),
        ({"structured_outputs": {}}, "structured_outputs"),
        ({"structured_outputs": {"choice": []}}, "structured_outputs"),
        ({"structured_outputs": {"choice": [""]}}, "structured_outputs"),
        ({"structured_outputs": {"choice": "a"}}, "structured_outputs"),
        ({"structured_outputs": {"regex": 5}}, "structured_outputs"),
        ({"structured_outputs": {"json": [1]}}, "structured_outputs"),
        ({"structured_outputs": {"json_object": False}}, "structured_outputs"),
        ({"structured_outputs": {"structural_tag": "<a>"}}, "structured_outputs"),
        ({"structured_outputs": {"regex": "a", "choice": ["b"]}}, "structured_outputs"),
        ({"guided_regex": "a", "guided_choice": ["b"]}, "structured_outputs"),
        ({"guided_json": SCHEMA, "response_format": {"type": "json_object"}}, "response_format"),
        ({"structured_outputs": {"regex": "a"}, "min_tokens": 1}, "min_tokens"),
        ({"request_id": ""}, "request_id"),
        ({"request_id": "a b"}, "request_id"),
        ({"request_id": "a\nb"}, "request_id"),
        ({"request_id": "x" * 129}, "request_id"),
        ({"request_id": 5}, "request_id"),
        ({"return_token_ids": "yes"}, "return_token_ids"),
        ({"prompt_logprobs": "1"}, "prompt_logprobs"),
        ({"prompt_logprobs": -2}, "prompt_logprobs"),
        ({"prompt_logprobs": 1, "stream": True}, "prompt_logprobs"),
        ({"use_beam_search": 1}, "use_beam_search"),
        ({"use_beam_search": True, "stream": True}, "stream"),
        ({"use_beam_search": True, "temperature": 0.5}, "temperature"),
        ({"use_beam_search": True, "stop": "a"}, "stop"),
        ({"use_beam_search": True, "structured_outputs": {"regex": "a"}}, "structured_outputs"),
        ({"use_beam_search": True, "length_penalty": 1e9}, "length_penalty"),
        ({"length_penalty": "1"}, "length_penalty"),
    ],
)
def test_forms_and_beams_that_make_no_sense(server, fields, param):
    for path, body in (("/v1/completions", completion(**fields)), ("/v1/chat/completions", chat(**fields))):
        error = refused(server, path, body)
        assert error["param"] == param, error


FUNCTION = {"type": "function", "function": {"name": "f", "parameters": SCHEMA}}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [FUNCTION]}, "tools"),
        ({"tools": [FUNCTION], "tool_choice": "required"}, "tools"),
        ({"tools": [FUNCTION, FUNCTION]}, "tools"),
        ({"tools": [FUNCTION] * 129}, "tools"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"tools": [{"type": "function", "function": {"name": "no spaces"}}]}, "tools"),
        ({"tools": [{"type": "function", "function": {"name": "f", "parameters": "["}}]}, "tools"),
        ({"tools": [{"type": ["a"]}]}, "tools"),
        ({"tools": "f"}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": "maybe"}, "tool_choice"),
        (
            {"tool_choice": {"type": "function", "function": {"name": "g"}}, "tools": [FUNCTION]},
            "tool_choice",
        ),
        ({"tool_choice": 5, "tools": [FUNCTION]}, "tool_choice"),
        ({"chat_template_kwargs": {"chat_template": "{{ 'x' * 10**9 }}"}}, "chat_template_kwargs"),
        ({"chat_template_kwargs": {"tokenize": True}}, "chat_template_kwargs"),
        ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs"),
        ({"chat_template_kwargs": {"__class__": 1}}, "chat_template_kwargs"),
        ({"chat_template_kwargs": {"a": ["b"] * 10}}, "chat_template_kwargs"),
        ({"chat_template_kwargs": {"a": "b" * 10_000}}, "chat_template_kwargs"),
        ({"chat_template_kwargs": {str(i): 1 for i in range(100)}}, "chat_template_kwargs"),
        ({"chat_template_kwargs": 5}, "chat_template_kwargs"),
        ({"reasoning_effort": 5}, "reasoning_effort"),
        ({"continue_final_message": True}, "continue_final_message"),
    ],
)
def test_tools_and_templates_that_make_no_sense(server, fields, param):
    assert refused(server, "/v1/chat/completions", chat(**fields))["param"] == param


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "input"),
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": [[]]}, "input"),
        ({"input": ["a", ""]}, "input"),
        ({"input": ["a"] * 1025}, "input"),
        ({"input": {"a": 1}}, "input"),
        ({"input": "a" * 600}, "input"),
        ({"input": "a", "encoding_format": "hex"}, "encoding_format"),
        ({"input": "a", "dimensions": 0}, "dimensions"),
        ({"input": "a", "dimensions": 1.5}, "dimensions"),
        ({"input": "a", "dimensions": 2**63}, "dimensions"),
        ({"input": "a", "truncate_prompt_tokens": 0}, "truncate_prompt_tokens"),
    ],
)
def test_embeddings_that_make_no_sense(server, body, param):
    assert refused(server, "/v1/embeddings", body)["param"] == param


@pytest.mark.parametrize(
    "body", ["[]", "5", "null", '"text"', "", "{", "nonsense", '{"prompt": "a",}', "[" * 100_000]
)
def test_bodies_that_are_no_object(server, body):
    for path in ("/v1/completions", "/v1/chat/completions", "/v1/embeddings", "/tokenize", "/detokenize"):
        refused(server, path, body)


@pytest.mark.parametrize(
    "body",
    [
        b'{"prompt": "\xff"}',
        b'{"prompt": "\\ud800"}',
        b'{"prompt": "a", "seed": ' + b"9" * 5000 + b"}",
        b'{"prompt": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
    ],
)
def test_json_made_to_hurt(server, body):
    refused(server, "/v1/completions", body)


def test_characters_spelled_as_surrogate_pairs_are_fine(server, fake):
    for spelling in (b"\\ud83d\\ude42", "🙂".encode()):
        body = b'{"prompt": "' + spelling + b'", "max_tokens": 99}'
        response = server.post("/v1/completions", content=body, headers={"Content-Type": "application/json"})
        assert response.json()["choices"][0]["text"] == fake.answer_to("🙂")


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "", "multipart/form-data"]
)
def test_content_type_must_be_json(server, kind):
    refused(server, "/v1/completions", completion(), headers={"Content-Type": kind})


def test_body_that_is_too_large(server):
    big = json.dumps(completion(prompt="a" * (5 * 2**20)))
    refused(server, "/v1/completions", big, status=413)

    def pieces():
        for _ in range(80):
            yield b" " * 2**16

    refused(server, "/v1/completions", b"", status=400)
    response = server.post("/v1/completions", content=pieces(), headers={"Content-Type": "application/json"})
    assert response.status_code == 413


def test_content_length_that_lies(server):
    host, port = server.url.removeprefix("http://").split(":")
    for length in ("999999999999999999999999", "-5", "abc"):
        with socket.create_connection((host, int(port)), timeout=5) as sock:
            request = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n{{}}"
            sock.sendall(request.encode())
            assert sock.recv(100).startswith((b"HTTP/1.1 413", b"HTTP/1.1 400"))


def test_prompt_longer_than_the_context(server, fake):
    limit = fake.MAX_MODEL_LEN
    error = refused(server, "/v1/completions", {"prompt": "a" * limit})
    assert str(limit) in error["message"] and error["param"] == "prompt"
    assert refused(server, "/v1/completions", {"prompt": [97] * limit, "stream": True})["param"] == "prompt"
    assert (
        refused(server, "/v1/chat/completions", chat(messages=[{"role": "user", "content": "a" * limit}]))[
            "param"
        ]
        == "messages"
    )
    error = refused(server, "/v1/completions", {"prompt": "a" * 4_000_000})  # refused before it is tokenized
    assert "characters" in error["message"]
    assert (
        server.post("/v1/completions", json={"prompt": "a" * (limit - 1)}).json()["usage"][
            "completion_tokens"
        ]
        == 1
    )


def test_unknown_model(server):
    for path, body in (
        ("/v1/completions", completion()),
        ("/v1/chat/completions", chat()),
        ("/tokenize", completion()),
    ):
        error = refused(server, path, {**body, "model": "gpt-9"}, status=404)
        assert error["param"] == "model" and error["type"] == "NotFoundError" and "gpt-9" in error["message"]
    assert (
        len(refused(server, "/v1/completions", completion(model="x" * 100_000), status=404)["message"]) < 1000
    )


def test_openai_client_raises_its_own_errors(server):
    client = server.client()
    with pytest.raises(openai.BadRequestError, match="temperature"):
        client.completions.create(model="fake", prompt="a", temperature=3)
    with pytest.raises(openai.NotFoundError):
        client.completions.create(model="gpt-9", prompt="a")
    with pytest.raises(openai.BadRequestError, match="n must be 1"):
        client.chat.completions.create(**chat(), model="fake", n=2, stream=True)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", "/v1/nothing/here", 404),
        ("GET", "/static/nothing", 404),
        ("GET", "/static/../app.py", 404),
        ("GET", "/static/%2e%2e%2fapp.py", 404),
        ("GET", "/v1/completions", 405),
        ("DELETE", "/v1/models", 405),
    ],
)
def test_routes_that_are_none(server, method, path, status):
    error = server.http.request(method, server.url + path).json()["error"]
    assert error["code"] == status and error["message"]


def test_numbers_that_json_does_not_have_become_the_least():
    from minivllm.outputs import Logprob
    from minivllm.serve.logprobs import prompt_logprobs

    entries = [None, {i: Logprob(value, 1, "a") for i, value in enumerate((-1.5, -math.inf, math.nan))}]
    (nothing, told) = prompt_logprobs(entries)
    assert nothing is None and [one["logprob"] for one in told.values()] == [-1.5, -9999.0, -9999.0]


def test_messages_tell_nothing_about_this_machine(server, fake):
    from minivllm.serve.errors import scrub

    assert scrub("open /home/me/model.bin failed at 0x7f3a99b01200") == "open (path) failed at (address)"
    assert scrub("C:\\Users\\me\\x.py broke") == "(path) broke"
    assert scrub("and/or 3/4 http://host/a/b") == "and/or 3/4 http://host/a/b"
    assert len(scrub("x" * 10_000)) == 1000
