"""A real uvicorn on a free loopback port, in a thread, in front of a fake engine."""

import importlib.util
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import httpx
import openai
import pytest
import uvicorn
from starlette.routing import Route

from minivllm.async_engine import AsyncLLMEngine
from minivllm.serve.app import create_app
from minivllm.serve.settings import ServerSettings


@pytest.fixture(scope="session")
def fake() -> ModuleType:
    """The module fake_engine.py (tests are no package, so it cannot be imported by name)."""
    spec = importlib.util.spec_from_file_location("fake_engine", Path(__file__).parent / "fake_engine.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def routes_of() -> Callable[..., set[tuple[str, str]]]:
    """What an app answers: (method, path) of every route, also of those in routers; HEAD comes with GET."""

    def routes_of(app) -> set[tuple[str, str]]:
        found = set()
        for route in app.routes:
            if router := getattr(route, "original_router", None):  # as FastAPI holds an included one
                found |= routes_of(router)
            else:
                assert isinstance(route, Route), f"{route} speaks something else than HTTP"
                found |= {(method, route.path) for method in route.methods - {"HEAD"}}
        return found

    return routes_of


@dataclass
class Served:
    """A running server and what is behind it."""

    url: str
    engine: object  # the LLMEngine, or the fake
    async_engine: AsyncLLMEngine

    http: httpx.Client = field(default_factory=lambda: httpx.Client(timeout=20, verify=False))

    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, http_client=self.http)

    def post(self, path: str, **options) -> httpx.Response:
        return self.http.post(self.url + path, **options)

    def get(self, path: str, **options) -> httpx.Response:
        return self.http.get(self.url + path, **options)

    def wait_until_idle(self, seconds: float = 5.0) -> None:
        """Every block is free again."""
        stats = self.async_engine.stats
        deadline = time.monotonic() + seconds
        while stats.num_running_reqs or stats.num_waiting_reqs or stats.kv_cache_usage:
            assert time.monotonic() < deadline, f"blocks or requests were left behind: {stats}"
            time.sleep(0.01)
            stats = self.async_engine.stats

    def wait_until_busy(self, num_requests: int = 1, seconds: float = 5.0) -> None:
        deadline = time.monotonic() + seconds
        while self.async_engine.stats.num_running_reqs < num_requests:
            assert time.monotonic() < deadline, "the requests did not start"
            time.sleep(0.005)


@pytest.fixture(scope="session")
def serve() -> Callable[..., Served]:
    """Start a server over an engine; all are stopped at the end of the session."""
    running: list[tuple[uvicorn.Server, threading.Thread, AsyncLLMEngine]] = []

    def start(engine, **settings) -> Served:
        settings.setdefault("served_model_names", ("fake", "alias"))
        settings.setdefault("enable_xray", hasattr(engine, "kv_cache_manager"))  # a fake has nothing to see
        async_engine = AsyncLLMEngine(engine)
        app = create_app(async_engine, ServerSettings(**settings))
        config = uvicorn.Config(app, port=0, log_level="warning", timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.005)
        running.append((server, thread, async_engine))
        port = server.servers[0].sockets[0].getsockname()[1]
        return Served(f"http://127.0.0.1:{port}", engine, async_engine)

    yield start
    for server, _, async_engine in running:
        async_engine.shutdown()
        server.should_exit = True
    for _, thread, _ in running:
        thread.join(5)
        assert not thread.is_alive()


@pytest.fixture(scope="session")
def server(fake, serve) -> Served:
    """One server over a fast fake engine, shared by all tests that only ask it."""
    return serve(fake.FakeEngine())


@pytest.fixture
def slow_server(fake, serve) -> Served:
    """A server of its own whose engine takes 10 ms for a token."""
    return serve(fake.FakeEngine(step_seconds=0.01))


@pytest.fixture
def healthy(server):
    """After the test the shared server is as good as new: idle, healthy, and it answers."""
    yield
    server.wait_until_idle()
    assert server.get("/health").status_code == 200
    answer = server.client().completions.create(model="fake", prompt="still there?", max_tokens=100)
    assert "still there?" in answer.choices[0].text


# ---- the real engine ----

NUM_BLOCKS = 150  # small, so that many requests at once have to wait or be preempted
REAL_NAMES = ("tutor", "meta-llama/Llama-2-7b-chat-hf", "Qwen/Qwen2-7B-Instruct")


@pytest.fixture(scope="session")
def questions() -> list[str]:
    return ["What is PagedAttention?", "What is copy-on-write?", "什么是 KV cache？"]


@pytest.fixture(scope="session")
def engine():
    """One engine for all: first asked directly, then handed to the server."""
    from minivllm.config import EngineConfig
    from minivllm.engine import LLMEngine

    return LLMEngine(EngineConfig(model="tutor", num_gpu_blocks_override=NUM_BLOCKS))


@pytest.fixture(scope="session")
def offline(engine, questions) -> dict[str, tuple[str, int]]:
    """Question -> (greedy answer, its number of tokens), each alone, without the server."""
    from minivllm.sampling_params import SamplingParams

    answers = {}
    for question in questions:
        messages = [{"role": "user", "content": question}]
        text = engine.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        ids = engine.tokenizer.encode(text, add_special_tokens=False)
        engine.add_request(question, ids, SamplingParams(temperature=0, max_tokens=40))
        while engine.has_unfinished_requests():
            for output in engine.step():
                answers[question] = (output.outputs[0].text, len(output.outputs[0].token_ids))
    return answers


@pytest.fixture
def slow_steps(monkeypatch):
    """Call it with an engine: each of its steps now takes long enough to be seen on a page."""

    def slow_down(engine, seconds=0.03):
        step = engine.step

        def slowed():
            time.sleep(seconds)
            return step()

        monkeypatch.setattr(engine, "step", slowed)

    return slow_down


@pytest.fixture(scope="session")
def real(engine, offline, serve):
    return serve(engine, served_model_names=REAL_NAMES)
