"""Bodies that are no JSON, almost JSON, and JSON made to hurt, on every POST route that the app has.

Whatever comes, the answer is no 5xx, an error has OpenAI's shape, and the next ordinary request is answered right.
"""

import json
import time

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from minivllm.async_engine import AsyncLLMEngine
from minivllm.serve.app import create_app
from minivllm.serve.settings import ServerSettings

SECONDS = 10.0  # on a busy machine; alone it takes milliseconds
MESSAGES = [{"role": "system", "content": "s"}, {"role": "user", "content": "hi"}]
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
SAMPLING = {
    "model": "fake",
    "max_tokens": 3,
    "n": 1,
    "temperature": 0.5,
    "top_p": 0.9,
    "top_k": 5,
    "seed": 7,
    "stop": ["a", "b"],
    "stop_token_ids": [3],
    "bad_words": ["x"],
    "logit_bias": {"5": 1.5},
    "response_format": {"type": "text"},
    "stream": False,
    "priority": 1,
    "cache_salt": "x",
    "request_id": None,
    "user": "me",
}
BODIES = {  # an ordinary request for each route
    "/v1/completions": {**SAMPLING, "prompt": ["a", "b"], "echo": True},
    "/v1/chat/completions": {**SAMPLING, "messages": MESSAGES, "tools": [TOOL], "tool_choice": "none"},
    "/v1/embeddings": {"model": "fake", "input": ["a", "b"], "encoding_format": "base64", "dimensions": 4},
    "/tokenize": {"model": "fake", "prompt": "a", "add_special_tokens": True, "return_token_strs": True},
    "/detokenize": {"model": "fake", "tokens": [65, 66]},
    "/ping": {},
}
PATHS = st.sampled_from(sorted(BODIES))
explore = settings(
    max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)

# Values as they may stand in a body's text: few of them are JSON, or fit into what a program counts with.
HURTFUL = [
    *(
        "NaN",
        "-Infinity",
        "1e999",
        "-0",
        "1e-400",
        "9" * 400,
        "9" * 5000,
        "-" + "9" * 5000,
        "0x10",
        "01",
        "1.",
    ),
    *(
        '"\\ud800"',
        '"\\udfff\\ud800"',
        '"\\u0000"',
        '"\\ud83d\\ude42"',
        '"' + "é" * 300 + '"',
        "'a'",
        '"\n"',
        '"\\x"',
    ),
    *(
        "[" * 3000 + "]" * 3000,
        '{"a":' * 3000 + "1" + "}" * 3000,
        "[" * 100_000,
        "[[]]",
        "[null]",
        "[{}]",
        "{}",
    ),
    *("null", "true", '""', "[]", "undefined", "\ufeff1", "1,", "/* */ 1", '"__proto__"', "-1", "2147483648"),
    *(
        '["a"' + ',"a"' * 3000 + "]",
        '{"__class__": {"__init__": 1}}',
        '{"$ref": "#"}',
        "-9223372036854775809",
    ),
]
TYPES = [
    *("application/json", "application/json; charset=utf-8", "application/vnd.a+json", "APPLICATION/JSON"),
    *(
        "application/json; charset=utf-16",
        "application/json;charset=nonsense",
        'application/json; charset="',
        "a+json",
    ),
    *(
        "text/plain",
        "application/octet-stream",
        "multipart/form-data",
        "application/x-www-form-urlencoded",
        "",
    ),
    *("application/json, text/html", "json", "application/", "/", ";", "application/json" + ";a=b" * 500),
]
ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "latin-1", "cp037", "utf-7"]


def test_every_post_route_is_here(fake, routes_of):
    engine = AsyncLLMEngine(fake.FakeEngine())
    app = create_app(engine, ServerSettings(served_model_names=("fake",)))
    engine.shutdown()
    assert {path for method, path in routes_of(app) if method != "GET"} == set(BODIES)


@pytest.mark.parametrize("path", sorted(BODIES))
def test_the_ordinary_requests_are_ordinary(server, path):
    """Else the mutations of them would all be refused for the same reason."""
    response = server.post(path, json=BODIES[path])
    if path == "/v1/embeddings":  # the fake engine has no embeddings, and says so
        assert response.status_code == 400 and "PoolingParams" in response.text
    else:
        assert response.status_code == 200, response.text


def answered(server, path, body, headers=None):
    """Send it, and look at the answer and at the next one."""
    started = time.monotonic()
    headers = {"Content-Type": "application/json"} if headers is None else headers
    response = server.post(path, content=body, headers=headers)
    assert time.monotonic() - started < SECONDS
    assert response.status_code < 500, (path, body[:200], response.text[:300])
    if response.status_code >= 400:
        error = response.json()["error"]
        assert set(error) == {"message", "type", "param", "code"} and error["code"] == response.status_code
        assert isinstance(error["message"], str) and 10 < len(error["message"]) <= 1000
        assert error["param"] is None or isinstance(error["param"], str)
    again = server.post("/v1/completions", json={"prompt": "still there?", "max_tokens": 20})
    assert again.json()["choices"][0]["text"] == "You said «still ther"
    return response


@st.composite
def bent(draw):
    """A route and its ordinary body with bytes taken out, put in, doubled and turned."""
    path = draw(PATHS)
    body = bytearray(json.dumps(BODIES[path]).encode())
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(body)))
        end = min(len(body), at + draw(st.integers(0, 12)))
        piece = draw(
            st.binary(max_size=8)
            | st.sampled_from([b'"', b"[", b"{", b"}", b",", b"\\", b"\xed\xa0\x80", b"0"])
        )
        body[at:end] = draw(st.sampled_from([b"", piece, bytes(body[at:end]) * 2]))
    return path, bytes(body)


@st.composite
def with_hurtful_values(draw):
    """A route and its body as text, some values replaced by hurtful ones, some names said twice or misspelt."""
    path = draw(PATHS)
    fields = [(json.dumps(name), json.dumps(value)) for name, value in BODIES[path].items()]
    fields = fields or [('"a"', "1")]
    for _ in range(draw(st.integers(1, 3))):
        index = draw(st.integers(0, len(fields) - 1))
        value = draw(st.sampled_from(HURTFUL))
        if draw(st.booleans()):
            fields[index] = (fields[index][0], value)
        else:  # the same name once more; JSON does not say which of the two counts
            fields.insert(draw(st.integers(0, len(fields))), (fields[index][0], value))
    body = "{" + ", ".join(f"{name}: {value}" for name, value in fields) + "}"
    return path, body.encode("utf-8", "surrogatepass")


@explore
@given(PATHS, st.binary(max_size=300))
@example("/v1/completions", b'{"prompt": "\xed\xa0\x80"}')  # half a character, spelled as bytes
@example("/tokenize", b'{"prompt": "\xed\xa0\x80"}')
@example("/v1/completions", '{"prompt": "a\ud800"}'.encode("utf-16-le", "surrogatepass"))
@example("/v1/completions", b"\xef\xbb\xbf" * 2 + b"{}")
def test_any_bytes(server, path, body):
    answered(server, path, body)


@explore
@given(bent())
def test_bodies_with_bent_bytes(server, hostile):
    answered(server, *hostile)


@explore
@given(with_hurtful_values())
def test_bodies_with_hurtful_values(server, hostile):
    answered(server, *hostile)


@explore
@given(
    PATHS, st.lists(st.sampled_from([*"{}[],:", '"a"', '"prompt"', '"messages"', *HURTFUL[:12]]), max_size=30)
)
def test_words_of_json_in_any_order(server, path, words):
    answered(server, path, " ".join(words).encode())


@explore
@given(PATHS, st.sampled_from(TYPES), st.sampled_from(ENCODINGS), st.booleans())
def test_content_types_and_encodings(server, path, kind, encoding, is_compressed):
    body = json.dumps(BODIES[path], ensure_ascii=False).encode(encoding)
    headers = {"Content-Type": kind} | ({"Content-Encoding": "gzip"} if is_compressed else {})
    response = answered(server, path, body, headers)
    says_json = kind.split(";")[0].lower() in ("application/json", "application/vnd.a+json")
    if path != "/ping" and not says_json:
        assert response.status_code == 400 and "Content-Type" in response.text


@explore
@given(bent() | with_hurtful_values())
def test_the_real_engine_stands_them_too(real, hostile):
    path, body = hostile
    body = body.replace(b'"fake"', b'"tutor"').replace(b'"max_tokens": 3', b'"max_tokens": 1')
    response = real.post(path, content=body, headers={"Content-Type": "application/json"}, timeout=60)
    assert response.status_code < 500, (path, body[:200], response.text[:300])
    assert response.status_code == 200 or set(response.json()["error"]) == {
        "message",
        "type",
        "param",
        "code",
    }
    assert real.get("/health").status_code == 200
