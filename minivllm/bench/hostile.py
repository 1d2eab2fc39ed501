"""What `bench battery` sends: for every field of every route each strange value, and inputs made to hurt.

Ideas, never a copy: each published advisory about a server of this kind is one way to spell "nobody checked this".
The fields come from the server's own /openapi.json, so that a new one is tried without a change here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

COMPLETIONS, CHAT, EMBEDDINGS = "/v1/completions", "/v1/chat/completions", "/v1/embeddings"
TOKENIZE, DETOKENIZE = "/tokenize", "/detokenize"
JSON = {"Content-Type": "application/json"}

# A small right request for each route; one field of it is replaced.
RIGHT: dict[str, dict[str, Any]] = {
    # the choice ends the answer, however many tokens are allowed
    COMPLETIONS: {"prompt": "a", "max_tokens": 2, "structured_outputs": {"choice": ["yes"]}},
    CHAT: {
        "messages": [{"role": "user", "content": "a"}],
        "max_tokens": 2,
        "structured_outputs": {"choice": ["yes"]},
    },
    EMBEDDINGS: {"input": "a"},
    TOKENIZE: {"prompt": "a"},
    DETOKENIZE: {"tokens": [5]},
}
STRANGE = (
    *("null", "true", "0", "-1", "1.5", "1000000000", "-9223372036854775809", "18446744073709551616"),
    *('""', '"3"', '"\\u0000"', "[]", "{}", "[null]", "[[]]", '[""]', "[-1]", "[1e9]", '{"a": 1}'),
    *("NaN", "Infinity", "-Infinity", "1e400", "1" + "0" * 400, "9" * 5000),
    *('"' + "x" * 5000 + '"', "[" * 200 + "]" * 200, '{"a":' * 200 + "1" + "}" * 200, '"\\ud800"'),
)


@dataclass(frozen=True)
class HostileInput:
    """One request. `is_wrong`: it must be refused; otherwise a 200 is fine, too."""

    idea: str
    path: str
    body: bytes = b""
    method: str = "POST"
    headers: Mapping[str, str] = field(default_factory=lambda: JSON)
    is_wrong: bool = True


def hostile_inputs(openapi: Mapping[str, Any]) -> Iterator[HostileInput]:
    """All of them, idea by idea."""
    yield from field_inputs(openapi)
    for path, base, idea, changes in _CHANGES:
        for change in changes:
            yield HostileInput(idea, path, json.dumps({**RIGHT[base], **_DROP_CHOICE, **change}).encode())
    for path, idea, changes in _COSTLY:
        for change in changes:
            body = json.dumps({**RIGHT[path], **_DROP_CHOICE, **change}).encode()
            yield HostileInput(idea, path, body, is_wrong=False)
    yield from body_inputs()
    yield from path_inputs()


def fields_of(openapi: Mapping[str, Any], path: str) -> list[str]:
    """The fields that a route knows."""
    schema = openapi["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    names: dict[str, None] = {}
    for part in schema.get("anyOf", [schema]):
        model = openapi["components"]["schemas"][part["$ref"].rsplit("/", 1)[1]]
        names |= dict.fromkeys(model["properties"])
    return list(names)


def field_inputs(openapi: Mapping[str, Any]) -> Iterator[HostileInput]:
    """Every field of every route with every strange value; some of them are harmless somewhere."""
    for path, right in RIGHT.items():
        others = {name: json.dumps(value) for name, value in right.items()}
        for name in fields_of(openapi, path):
            for value in STRANGE:
                members = {**others, name: value}
                text = ", ".join(f'"{key}": {member}' for key, member in members.items())
                yield HostileInput("strange values", path, f"{{{text}}}".encode(), is_wrong=False)


def deep_schema(levels: int) -> dict[str, Any]:
    """Objects in objects."""
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


def _user(content: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}]}


_DROP_CHOICE = {"structured_outputs": None, "max_tokens": 4}
_FORMS: list[dict[str, Any]] = [
    {"json": {"type": "nonsense"}},
    {"json": {"type": "string", "pattern": "["}},
    {"json": {"$ref": "http://127.0.0.1:9/schema.json"}},
    {"json": {"$ref": "file:///etc/passwd"}},
    {"json": deep_schema(100)},
    {"json": deep_schema(400)},
    {"json": ""},
    {"json": "["},
    {"json": {"enum": []}},
    {"json": {"type": "string", "pattern": "(" * 5000}},
    {"regex": "("},
    {"regex": "a{5,2}"},
    {"regex": "\0"},
    {"regex": ""},
    {"regex": "(?=a)b"},
    {"regex": "|".join(f"word{i}" for i in range(100_000))},
    {"grammar": ""},
    {"grammar": "start: nowhere"},
    {"grammar": "start: " + "(" * 5000},
    {"choice": []},
    {"choice": [""]},
    {"choice": ["x" * 200_000]},
    {"regex": "a", "choice": ["b"]},
    {"structural_tag": "<a>"},
]
_URLS = (
    *("http://127.0.0.1:9/x.png", "http://169.254.169.254/latest", "file:///etc/passwd"),
    *("http://user@127.0.0.1/x", "http:\\\\127.0.0.1\\x", "data:image/png;base64,AAAA"),
)
_EMPTY_OR_MIXED: tuple[Any, ...] = ("", [], [[]], None, ["a", ""], [[1], []], {}, 5, [True], [1.5])
_NO_INPUTS: tuple[Any, ...] = ("", [], [[]], None, ["a"] * 1025, [10**9], "a" * 1_000_000, [[3], [-1]])
# (route, whose right request is changed, idea, changes that must be refused)
_CHANGES: list[tuple[str, str, str, list[dict[str, Any]]]] = [
    (
        *(COMPLETIONS, COMPLETIONS, "prompts"),
        [
            *({"prompt": p} for p in _EMPTY_OR_MIXED),
            *({"prompt": p} for p in ([-1], [2**31], [10**30], [[3], [10**9]], [3] * 100_000)),
            *({"prompt": p} for p in (["a"] * 1025, ["a"] * 100_000, "a" * 1_000_000, ["a", 1], [["a"]])),
        ],
    ),
    (
        *(COMPLETIONS, COMPLETIONS, "more than is allowed"),
        [
            *({"n": n} for n in (10**9, 2**63, 16385, 0, -1, 1.5)),
            *({"logprobs": k} for k in (21, -2, 10**6, True)),
            *({"prompt_logprobs": k} for k in (10**6, -2)),
            {"min_tokens": 10**9},
            {"min_tokens": 10**9, "max_tokens": None},
            {"stop": ["x"] * 10_000},
            {"stop": "x" * 100_000},
            {"stop_token_ids": list(range(5000))},
            {"stop_token_ids": [10**9]},
            {"bad_words": ["x"] * 10_000},
            {"logit_bias": {str(i): 1 for i in range(3000)}},
            {"allowed_token_ids": list(range(500_000))},
            {"use_beam_search": True, "n": 16384, "temperature": 0},
            {"cache_salt": "x" * 129},
            {"request_id": "x" * 129},
        ],
    ),
    (COMPLETIONS, COMPLETIONS, "forms", [{"structured_outputs": form} for form in _FORMS]),
    (
        *(CHAT, CHAT, "forms"),
        [
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": form["json"]}}}
            for form in _FORMS
            if isinstance(form.get("json"), dict)
        ],
    ),
    (
        *(CHAT, CHAT, "media and messages"),
        [
            *(
                _user([{"type": "text", "text": "?"}, {"type": kind, kind: {"url": url}}])
                for kind in ("image_url", "audio_url", "video_url")
                for url in _URLS
            ),
            _user([{"type": "image_url", "image_url": {"url": _URLS[0]}}] * 20_000),
            *({"messages": m} for m in ([], None, "a", [5], [{"role": "user"}], [{"role": "wizard"}])),
            {"messages": [{"role": "user", "content": "a"}] * 100_000},
            _user("a" * 1_000_000),
        ],
    ),
    (
        *(CHAT, CHAT, "templates and tools"),
        [
            {"chat_template": "{% for i in range(10**9) %}x{% endfor %}"},
            {"chat_template_kwargs": {"chat_template": "{{ 'x' * 10**9 }}"}},
            {"chat_template_kwargs": {"tokenize": True}},
            {"chat_template_kwargs": {"__class__": 1}},
            {"chat_template_kwargs": {str(i): 1 for i in range(1000)}},
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "x"}}}] * 200},
            {"tools": [{"type": "function"}]},
            {"tool_choice": "required"},
            {"tool_choice": {"type": "function", "function": {"name": "__import__"}}},
        ],
    ),
    (
        *(EMBEDDINGS, EMBEDDINGS, "prompts"),
        [{"input": i} for i in _NO_INPUTS],
    ),
    (TOKENIZE, TOKENIZE, "prompts", [{"prompt": p} for p in (5, ["a"], "a" * 1_000_000)]),
    (
        *(DETOKENIZE, DETOKENIZE, "prompts"),
        [{"tokens": t} for t in ([10**9], [2**63], [-1], [0.5], "5", [[5]], [10**30], [5] * 1_100_000)],
    ),
]
# (route, idea, changes that may be served, but only at a bounded cost)
_COSTLY: list[tuple[str, str, list[dict[str, Any]]]] = [
    (
        *(COMPLETIONS, "costly forms"),
        [
            {"structured_outputs": form}
            for form in (
                {"regex": "(a+)+b"},
                {"regex": "(x{1,1000}){1,1000}"},
                {"regex": "((a{1,100}){1,100}){1,100}"},
                {"regex": "(.*)*(.*)*x"},
                {"choice": [f"word {i}" for i in range(2000)]},
                {"json": {"type": "array", "minItems": 10**9, "items": {"type": "integer"}}},
                {"json": {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(500)}}},
            )
        ],
    ),
    (COMPLETIONS, "costly forms", [{"structured_outputs": {"choice": [f"only {i}"]}} for i in range(100)]),
    (COMPLETIONS, "more than is allowed", [{"best_of": 10**7}, {"prompt": ["a"] * 300, "max_tokens": 1}]),
    (CHAT, "templates and tools", [_user("{{ ''.__class__ }}{% for i in range(10**9) %}"), _user("<" * 900)]),
    (DETOKENIZE, "prompts", [{"tokens": [5] * 100_000}]),
]


def body_inputs() -> Iterator[HostileInput]:
    """Bodies that are no object, no JSON, no text, too large, or not called JSON."""
    bodies = (
        *(b"", b"[]", b"5", b"null", b'"text"', b"{", b"nonsense", b'{"prompt": "a",}', b"\x00", b"\xff\xfe"),
        *(b'{"prompt": "\xff"}', b'{"prompt": "\\ud800"}', b"[" * 100_000, b'{"a":' * 100_000),
        *(
            b'{"prompt": "' + b"a" * (5 * 2**20) + b'"}',
            b'{"prompt": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
        ),
    )
    for path in RIGHT:
        for body in bodies:
            yield HostileInput("bodies", path, body)
        right = json.dumps(RIGHT[path]).encode()
        for kind in (
            "text/plain",
            "multipart/form-data",
            "application/x-www-form-urlencoded",
            "",
            "\xff/json",
        ):
            yield HostileInput("bodies", path, right, headers={"Content-Type": kind})


def path_inputs() -> Iterator[HostileInput]:
    """Routes and methods that do not exist."""
    paths = ("/nothing", "/v1/../etc/passwd", "/static/%2e%2e%2fapp.py", "/v1/models/%00", "/" + "x" * 50_000)
    for path in paths:
        yield HostileInput("routes", path, method="GET", headers={})
    for path in RIGHT:
        for method in ("GET", "PUT", "DELETE", "PATCH", "TRACE", "NONSENSE"):
            yield HostileInput("routes", path, method=method)
    yield HostileInput("routes", "/v1/models/" + "x" * 5000, method="GET", headers={})
