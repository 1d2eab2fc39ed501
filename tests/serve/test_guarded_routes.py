"""With --api-key every route of the app asks for the key or is open, as the table below decides: one by one.

The routes are read from the app. A new one without a line here fails the first test.
"""

import asyncio
import hmac

import httpx
import pytest

from minivllm.async_engine import AsyncLLMEngine
from minivllm.serve import auth
from minivllm.serve.app import create_app
from minivllm.serve.settings import ServerSettings

OPEN = {
    *("GET /", "GET /static/{name}"),  # the page, which asks for the key
    *("GET /health", "GET /ping", "POST /ping", "GET /version"),  # supervisors
    *("GET /load", "GET /metrics"),  # numbers, for load balancers and Prometheus
}
GUARDED = {
    *("GET /v1/models", "GET /v1/models/{name:path}"),
    *("POST /v1/completions", "POST /v1/chat/completions", "POST /v1/embeddings"),
    *("POST /tokenize", "POST /detokenize"),
    *("GET /status", "GET /xray"),  # what the engine is doing, and for how many
    *("GET /docs", "GET /openapi.json"),
}
KEYS = ("the-key", "another")


@pytest.fixture
def app(fake):
    engine = AsyncLLMEngine(fake.FakeEngine())
    yield create_app(engine, ServerSettings(served_model_names=("fake",), api_keys=KEYS))
    engine.shutdown()


def ask(app, method, path, headers=(), root_path="", raw=None):
    """The status of one request; GET /xray is asked for only until its answer begins."""

    async def send() -> int:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False, root_path=root_path)
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            return (await client.request(method, root_path + path, headers=list(headers))).status_code

    return asyncio.run(send())


def filled(path):
    return path.replace("{name:path}", "fake").replace("{name}", "chat.js")


def test_every_route_has_a_decision(app, routes_of):
    found = {f"{method} {path}" for method, path in routes_of(app)}
    assert found == OPEN | GUARDED
    assert not OPEN & GUARDED


def test_guarded_routes_ask_and_open_ones_do_not(app, routes_of):
    for method, path in routes_of(app):
        status = ask(app, method, filled(path))
        if f"{method} {path}" in GUARDED:
            assert status == 401, (method, path)
        else:
            assert status == 200, (method, path)


def test_with_the_key_every_guarded_route_answers(app, routes_of):
    for method, path in routes_of(app) - {("GET", "/xray")}:  # which would never end
        status = ask(app, method, filled(path), [("Authorization", "Bearer another")])
        assert status == (400 if method == "POST" and path != "/ping" else 200), (method, path)  # no body


@pytest.mark.parametrize(
    "path",
    [
        *("//v1/models", "/V1/models", "/static/../v1/models", "/static/..%2fv1/models", "/v1%2fmodels"),
        *("/health/../v1/models", "/%76%31/models", "/v1/models/", "/metrics/x", "/.//v1/models", "/nothing"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "TRACE"])
def test_no_spelling_gets_around_the_guard(app, method, path):
    """Either it asks for the key, or what it finds without one is nothing."""
    assert ask(app, method, path) in (401, 404, 405)


@pytest.mark.parametrize("root_path", ["/llm", "/a/b"])
def test_behind_a_prefix_the_same_routes_are_open(app, routes_of, root_path):
    """uvicorn puts --root-path in front of every path."""
    for method, path in routes_of(app) - {("GET", "/xray")}:
        status = ask(app, method, filled(path), root_path=root_path)
        assert (status == 401) == (f"{method} {path}" in GUARDED), (method, path, status)
    assert ask(app, "GET", "/v1/models", [("Authorization", "Bearer the-key")], root_path) == 200


def test_every_key_is_compared_in_full_each_time(app, monkeypatch):
    compared = []

    def noted(left, right):
        compared.append((len(left), len(right)))
        return hmac.compare_digest(left, right)

    class Hmac:
        compare_digest = staticmethod(noted)

    monkeypatch.setattr(auth, "hmac", Hmac)
    for guess in ("the-key", "another", "x", "the-ke", "y" * 1000, ""):
        compared.clear()
        ask(app, "GET", "/v1/models", [("Authorization", f"Bearer {guess}")])
        assert compared == [(32, 32)] * len(KEYS), guess  # digests: not even the length of a key shows
