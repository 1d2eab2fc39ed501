"""Clients that leave, engines that die, keys that are missing, and numbers that must add up."""

import concurrent.futures
import json
import re
import socket
import threading
import time

import httpx
import openai
import pytest

ENDLESS = {"ignore_eos": True}
LONG = {"prompt": "a", "max_tokens": 400, "ignore_eos": True}


def metrics_of(server) -> dict[str, float]:
    """Every sample by its name and labels, without those that all have."""
    samples = {}
    for line in server.get("/metrics").text.splitlines():
        if not line.startswith("#"):
            name, value = line.rsplit(" ", 1)
            name = re.sub(r'engine="0",?|model_name="fake",?', "", name).replace(",}", "}").replace("{}", "")
            samples[name] = float(value)
    return samples


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_client_that_leaves_a_stream_frees_its_blocks(slow_server, path):
    body = {**LONG, "stream": True, "messages": [{"role": "user", "content": "a"}]}
    with slow_server.http.stream("POST", slow_server.url + path, json=body) as response:
        for _ in zip(range(5), response.iter_lines(), strict=False):
            pass
        assert slow_server.async_engine.stats.num_running_reqs == 1
    slow_server.wait_until_idle(2)
    assert len(slow_server.engine.aborted) == 1


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_client_that_leaves_before_its_answer_frees_its_blocks(slow_server, path):
    body = {**LONG, "messages": [{"role": "user", "content": "a"}]}
    with pytest.raises(httpx.ReadTimeout):
        slow_server.http.post(slow_server.url + path, json=body, timeout=0.3)
    slow_server.wait_until_idle(2)
    assert len(slow_server.engine.aborted) == 1


def test_client_that_leaves_at_once_frees_its_blocks(slow_server):
    host, port = slow_server.url.removeprefix("http://").split(":")
    for stream in (True, False) * 10:
        body = json.dumps({**LONG, "prompt": ["a", "b"], "stream": stream})
        head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
        with socket.create_connection((host, int(port))) as sock:
            sock.sendall(f"{head}Content-Type: application/json\r\n\r\n{body}".encode())
            time.sleep(0.002)
    time.sleep(0.1)
    slow_server.wait_until_idle(3)


def test_many_impatient_clients_then_a_normal_one(slow_server):
    slow_server.engine.step_seconds = 0.002

    def impatient(i):
        with pytest.raises(httpx.ReadTimeout):
            slow_server.http.post(
                slow_server.url + "/v1/completions", json={**LONG, "prompt": f"client {i}"}, timeout=0.3
            )

    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        list(pool.map(impatient, range(60)))
    slow_server.wait_until_idle()
    started = time.monotonic()
    assert slow_server.client().completions.create(model="fake", prompt="b").usage.completion_tokens == 16
    assert time.monotonic() - started < 5


def test_one_refused_prompt_of_many_leaves_none_running(slow_server):
    body = {**LONG, "prompt": [[97], [97] * 10, [97] * 600]}
    assert slow_server.post("/v1/completions", json=body).status_code == 400
    slow_server.wait_until_idle(1)


def test_clients_share_the_engine_and_get_their_own_answers(slow_server, fake):
    slow_server.engine.step_seconds = 0.002
    client = slow_server.client()

    def ask(i):
        messages = [{"role": "user", "content": f"number {i}"}]
        chunks = client.chat.completions.create(model="fake", messages=messages, stream=True)
        return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        assert list(pool.map(ask, range(32))) == [fake.answer_to(f"number {i}") for i in range(32)]


def test_dead_engine_is_told_to_everyone(fake, serve):
    server = serve(fake.FakeEngine(step_seconds=0.01))
    results = {}

    def wait_for_answer():
        results["whole"] = server.post("/v1/completions", json=LONG)

    def wait_for_stream():
        with server.http.stream(
            "POST", server.url + "/v1/completions", json={**LONG, "stream": True}
        ) as response:
            results["stream"] = response.read().decode()

    threads = [threading.Thread(target=wait) for wait in (wait_for_answer, wait_for_stream)]
    for thread in threads:
        thread.start()
    server.wait_until_busy(2)
    last_words = server.post("/v1/completions", json={"prompt": fake.DEADLY})
    for thread in threads:
        thread.join(5)
    for response in (results["whole"], last_words, server.post("/v1/completions", json={"prompt": "a"})):
        assert response.status_code == 503
        assert response.json()["error"]["type"] == "ServiceUnavailableError"
        assert "secret" not in response.text and "boom" not in response.text
    *_, error, done = results["stream"].strip().split("\n\n")
    assert json.loads(error.removeprefix("data: "))["error"]["code"] == 503 and done == "data: [DONE]"
    health = server.get("/health")
    assert health.status_code == 503 and health.json()["status"] == "dead"
    assert server.get("/ping").status_code == 503 and server.get("/status").json()["is_alive"] is False
    assert server.get("/metrics").status_code == server.get("/v1/models").status_code == 200
    with pytest.raises(openai.InternalServerError):
        server.client().completions.create(model="fake", prompt="a")


def test_bug_in_the_server_is_a_500_without_details(fake, serve):
    server = serve(fake.FakeEngine())
    server.engine.add_request = None  # calling it is a TypeError in the engine's thread
    response = server.post("/v1/completions", json={"prompt": "a"})
    assert response.status_code == 500 and response.json()["error"]["type"] == "InternalServerError"
    assert "NoneType" not in response.text and server.get("/health").status_code == 200


def test_api_key(fake, serve):
    server = serve(fake.FakeEngine(), api_keys=("first-key", "zweiter-schlüssel"))
    for path in ("/health", "/ping", "/version", "/load", "/metrics", "/", "/static/chat.js"):
        assert server.get(path).status_code == 200, path
    closed = [
        "/v1/models",
        "/v1/completions",
        "/tokenize",
        "/status",
        "/docs",
        "/openapi.json",
        "/nothing",
        "/static",
    ]
    wrong = [
        "",
        "Bearer",
        "Bearer first",
        "Bearer first-key2",
        "Basic first-key",
        "first-key",
        b"Bearer \xff",
    ]
    for path in closed:
        for value in wrong:
            response = server.get(path, headers={"Authorization": value})
            assert response.status_code == 401 and response.json()["error"]["code"] == 401, (path, value)
            assert response.headers["www-authenticate"] == "Bearer"
    assert server.post("/tokenize", json={"prompt": "a"}).status_code == 401
    for value in ("Bearer first-key", "bearer first-key", "BEARER zweiter-schlüssel".encode()):
        assert server.get("/v1/models", headers={"Authorization": value}).status_code == 200
    assert server.get("/v1/models", headers=[("Authorization", "Bearer first-key")] * 2).status_code == 401
    with pytest.raises(openai.AuthenticationError):
        server.client().models.list()


def test_metrics_add_up(fake, serve):
    server = serve(fake.FakeEngine(step_seconds=0.001))
    client = server.client()
    for i in range(10):
        answer = client.completions.create(model="fake", prompt="abcde", max_tokens=10, stream=i % 2 == 0)
        if i % 2 == 0:
            assert len(list(answer)) == 10
    metrics = metrics_of(server)
    assert metrics["vllm:time_to_first_token_seconds_count"] == 10
    assert metrics["vllm:inter_token_latency_seconds_count"] == 90
    assert metrics["vllm:e2e_request_latency_seconds_count"] == 10
    assert metrics["vllm:request_time_per_output_token_seconds_count"] == 10
    assert metrics["vllm:prompt_tokens_total"] == metrics["vllm:request_prompt_tokens_sum"] == 50
    assert metrics["vllm:generation_tokens_total"] == metrics["vllm:request_generation_tokens_sum"] == 100
    assert metrics['vllm:request_success_total{finished_reason="length"}'] == 10
    assert metrics['vllm:request_success_total{finished_reason="stop"}'] == 0
    assert metrics['vllm:request_params_max_tokens_bucket{le="10.0"}'] == 10
    for name in ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc"):
        assert metrics[f"vllm:{name}"] == 0
    itl, e2e = (
        metrics[f"vllm:{name}_sum"] for name in ("inter_token_latency_seconds", "e2e_request_latency_seconds")
    )
    assert 0.09 < itl < e2e  # 90 steps of at least a millisecond; each request also has a first token
    assert any(name.startswith("vllm:cache_config_info") and 'block_size="16"' in name for name in metrics)
    assert "process_resident_memory_bytes" in metrics


def test_gauges_follow_the_load(slow_server):
    with slow_server.http.stream(
        "POST", slow_server.url + "/v1/completions", json={**LONG, "stream": True}
    ) as response:
        lines = response.iter_lines()
        next(lines)
        metrics = metrics_of(slow_server)
        assert metrics["vllm:num_requests_running"] == 1 and 0 < metrics["vllm:kv_cache_usage_perc"] < 0.2
        assert slow_server.get("/status").json()["num_requests_running"] == 1
    slow_server.wait_until_idle(2)
    metrics = metrics_of(slow_server)
    assert metrics["vllm:num_requests_running"] == metrics["vllm:kv_cache_usage_perc"] == 0
