"""/openapi.json tells the truth: what it allows is not refused for its form, what comes back is what it says."""

import json

import pytest
from hypothesis import HealthCheck, given, settings

schemathesis = pytest.importorskip("schemathesis", reason="needs schemathesis, which is in the test extra")
openapi_checks = pytest.importorskip("schemathesis.specs.openapi.checks")
JSON = "application/json"
# Rules between fields (top_logprobs needs logprobs) are beyond a schema, so a body that fits it may still be refused;
# the framework names the methods of one route only in Allow.
BEYOND_A_SCHEMA = (
    openapi_checks.positive_data_acceptance,
    openapi_checks.allow_header_conformance,
)


OPERATIONS = (
    *(
        ("GET", f"/{name}")
        for name in ("v1/models", "health", "ping", "version", "load", "metrics", "status")
    ),
    *(("POST", f"/v1/{name}") for name in ("completions", "chat/completions", "embeddings")),
    *(("POST", "/tokenize"), ("POST", "/detokenize"), ("POST", "/ping"), ("GET", "/v1/models/{name}")),
)


@pytest.fixture(scope="session")
def api(server):
    return schemathesis.openapi.from_url(f"{server.url}/openapi.json")


def test_the_list_of_operations_is_complete(api):
    described = {(one.ok().method.upper(), one.ok().path) for one in api.get_all_operations()}
    assert described == set(OPERATIONS)


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
@pytest.mark.parametrize("mode", ["positive", "negative"])
def test_every_operation_answers_as_described(api, method, path, mode):
    if mode == "negative" and (method == "GET" or path == "/ping"):
        return  # nothing is sent that could be wrong
    operation = api[path][method]
    cases = operation.as_strategy(generation_mode=schemathesis.GenerationMode(mode))

    @settings(max_examples=10, suppress_health_check=list(HealthCheck))
    @given(cases)
    def check(case):
        case.call_and_validate(excluded_checks=BEYOND_A_SCHEMA, timeout=60)

    check()


@pytest.fixture
def openapi(server):
    return server.get("/openapi.json").json()


def test_errors_are_described_as_they_are(openapi, server):
    """Not as the framework's own 422, which no route answers with."""
    text = json.dumps(openapi)
    assert "422" not in text and "HTTPValidationError" not in text
    for path, operations in openapi["paths"].items():
        for operation in operations.values():
            described = operation["responses"]["4XX"]["content"][JSON]["schema"]["$ref"]
            assert described.endswith("/ErrorResponse"), path
    model = openapi["components"]["schemas"]["ErrorInfo"]
    answer = server.post("/v1/completions", json={"prompt": ""}).json()["error"]
    assert set(model["properties"]) == set(answer)


def test_answers_are_described_by_what_they_hold(openapi):
    def contents(path, method, status="200"):
        return set(openapi["paths"][path][method]["responses"][status]["content"])

    for path in ("/v1/completions", "/v1/chat/completions"):
        assert contents(path, "post") == {JSON, "text/event-stream"}
    assert contents("/metrics", "get") == {"text/plain"}
    assert contents("/health", "get", "503") == {JSON}


@pytest.mark.parametrize(
    ("path", "field", "value"),
    [
        ("/v1/completions", "prompt", "a text"),
        ("/v1/completions", "prompt", ["two", "texts"]),
        ("/v1/completions", "prompt", [5, 6]),
        ("/v1/completions", "prompt", [[5], [6]]),
        ("/v1/completions", "stop", "."),
        ("/v1/completions", "stop", [".", "!"]),
        ("/v1/completions", "logit_bias", {"5": 1.5}),
        ("/v1/chat/completions", "messages", [{"role": "user", "content": "a"}]),
        (
            "/v1/chat/completions",
            "messages",
            [{"role": "user", "content": [{"type": "text", "text": "a"}]}],
        ),
        ("/v1/chat/completions", "chat_template_kwargs", {"enable_thinking": False}),
    ],
)
def test_every_form_that_is_accepted_is_described(openapi, server, path, field, value):
    jsonschema = pytest.importorskip("jsonschema")
    body = {"max_tokens": 2, "prompt": "a", "input": "a", "messages": [{"role": "user", "content": "a"}]}
    body = {**body, field: value}
    assert server.post(path, json=body).status_code == 200
    place = openapi["paths"][path]["post"]["requestBody"]["content"][JSON]["schema"]
    jsonschema.Draft202012Validator({**openapi, **place}).validate(body)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"prompt": ""}),
        ("/v1/completions", {"prompt": [[]]}),
        ("/v1/completions", {"prompt": "a", "stop": ["a"] * 5}),
        ("/v1/completions", {"prompt": "a", "cache_salt": "a/b"}),
        ("/v1/completions", {"prompt": "a", "request_id": "a b"}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}),
    ],
)
def test_forms_that_are_refused_are_not_described(openapi, server, path, body):
    jsonschema = pytest.importorskip("jsonschema")
    assert server.post(path, json=body).status_code == 400
    place = openapi["paths"][path]["post"]["requestBody"]["content"][JSON]["schema"]
    assert not jsonschema.Draft202012Validator({**openapi, **place}).is_valid(body)
