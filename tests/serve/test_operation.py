"""Running the server: load, logs, request ids, metrics of HTTP, slow clients, other origins, and the end."""

import json
import logging
import socket
import threading
import time
from functools import partial

import pytest
import uvicorn

from minivllm.serve.connections import TimedH11Protocol
from minivllm.serve.logs import REQUEST_ID, HideQuietPaths, JsonFormatter, TextFormatter, log_config

LONG = {"prompt": "a", "max_tokens": 400, "ignore_eos": True}


def samples(server, prefix):
    lines = server.get("/metrics").text.splitlines()
    return {
        name: float(value)
        for name, value in (line.rsplit(" ", 1) for line in lines if line.startswith(prefix))
    }


def test_load_counts_requests_that_are_being_answered(fake, serve):
    server = serve(fake.FakeEngine(step_seconds=0.01), enable_server_load_tracking=True)
    assert server.get("/load").json() == {"server_load": 0}
    with server.http.stream(
        "POST", server.url + "/v1/completions", json={**LONG, "stream": True}
    ) as response:
        lines = response.iter_lines()
        next(lines)
        assert server.get("/load").json() == {"server_load": 1}
    deadline = time.monotonic() + 3
    while server.get("/load").json() != {"server_load": 0}:
        assert time.monotonic() < deadline


def test_http_metrics_count_requests_by_route_and_outcome(fake, serve):
    server = serve(fake.FakeEngine())
    for prompt in ("a", "b", ""):
        server.post("/v1/completions", json={"prompt": prompt})
    server.get("/no/such/route/1")
    server.get("/no/such/route/2")
    server.get("/v1/models/fake")
    server.get("/health")
    total = samples(server, "http_requests_total")
    assert total == {
        'http_requests_total{handler="/v1/completions",method="POST",status="2xx"}': 2,
        'http_requests_total{handler="/v1/completions",method="POST",status="4xx"}': 1,
        'http_requests_total{handler="none",method="GET",status="4xx"}': 2,
        'http_requests_total{handler="/v1/models/{name:path}",method="GET",status="2xx"}': 1,
    }
    assert samples(server, "http_request_duration_highr_seconds_count") == {
        "http_request_duration_highr_seconds_count": 6
    }
    (out,) = samples(server, 'http_response_size_bytes_sum{handler="/v1/completions"}').values()
    assert out > 500


def test_steps_are_counted_with_their_tokens(fake, serve):
    server = serve(fake.FakeEngine())
    for _ in range(3):
        server.post("/v1/completions", json={"prompt": "abcde", "max_tokens": 4})
    values = samples(server, "vllm:iteration_tokens_total")
    by_name = {name.split("{")[0]: value for name, value in values.items() if "_bucket" not in name}
    # each request: one step of 5 prompt tokens, then 3 of one token; the last token is never computed
    assert (
        by_name["vllm:iteration_tokens_total_count"] == 12
        and by_name["vllm:iteration_tokens_total_sum"] == 24
    )


def test_request_ids_come_back_and_stand_in_the_log(fake, serve, caplog):
    server = serve(fake.FakeEngine(), enable_request_id_headers=True, enable_log_requests=True)
    logging.getLogger("minivllm").propagate = True
    with caplog.at_level(logging.INFO, logger="minivllm.serve.tracking"):
        response = server.post("/v1/completions", json={"prompt": "a"}, headers={"X-Request-Id": "mine-1"})
        made_up = [
            server.get("/version", headers=h).headers["x-request-id"] for h in ({}, {"X-Request-Id": "a b"})
        ]
    assert response.headers["x-request-id"] == "mine-1"
    assert len(set(made_up)) == 2 and all(len(one) == 32 for one in made_up)
    fields = caplog.records[0].fields
    assert (fields["method"], fields["handler"], fields["status"]) == ("POST", "/v1/completions", 200)
    assert fields["milliseconds"] >= 0 and fields["bytes_out"] == len(response.content)
    assert server.get("/version").headers.get("x-request-id")


def record_of(message, *arguments, **extra):
    record = logging.LogRecord("minivllm.x", logging.INFO, "", 0, message, arguments, None)
    for name, value in extra.items():
        setattr(record, name, value)
    return record


def test_log_lines_carry_the_request_id():
    token = REQUEST_ID.set("abc")
    try:
        content = json.loads(JsonFormatter().format(record_of("got %d\nlines", 2, fields={"status": 200})))
        assert TextFormatter("%(message)s").format(record_of("hello")) == "hello [abc]"
    finally:
        REQUEST_ID.reset(token)
    assert (
        content["message"] == "got 2\nlines" and content["request_id"] == "abc" and content["status"] == 200
    )
    assert content["level"] == "info" and content["time"].endswith("Z")
    assert "request_id" not in json.loads(JsonFormatter().format(record_of("x")))
    for as_json in (False, True):
        logging.config.dictConfig({**log_config("debug", as_json), "disable_existing_loggers": False})


def test_pages_own_requests_stay_out_of_the_access_log():
    for path, is_shown in (("/status", False), ("/xray?since=1", False), ("/v1/models", True)):
        record = record_of('%s - "%s %s HTTP/%s" %d', "1.2.3.4:5", "GET", path, "1.1", 200)
        assert HideQuietPaths().filter(record) is is_shown


def test_too_many_headers_are_refused(fake, serve):
    server = serve(fake.FakeEngine(), max_header_count=20)
    response = server.get("/version", headers={f"x-{i}": "1" for i in range(30)})
    assert response.status_code == 431 and response.json()["error"]["code"] == 431
    assert server.get("/version").status_code == 200


def test_body_that_does_not_arrive_is_given_up(fake, serve):
    server = serve(fake.FakeEngine(), body_timeout=0.3)
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=5) as sock:
        head = "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        head += "Content-Length: 50\r\n\r\n"
        sock.sendall(head.encode() + b'{"prompt"')
        answer = b"".join(iter(lambda: sock.recv(10_000), b""))
    assert answer.startswith(b"HTTP/1.1 408") and b"RequestTimeoutError" in answer


@pytest.mark.parametrize("sent", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: x\r\nX: "])
def test_connection_that_sends_no_request_is_closed(sent):
    async def app(scope, receive, send):
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
            await send({"type": "http.response.body"})

    protocol = partial(TimedH11Protocol, header_timeout=0.3)
    server = uvicorn.Server(uvicorn.Config(app, port=0, http=protocol, lifespan="off", log_level="critical"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.005)
        with socket.create_connection(server.servers[0].sockets[0].getsockname(), timeout=5) as sock:
            sock.sendall(
                b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
            )  # a good request first: the clock starts again after it
            assert sock.recv(1000).startswith(b"HTTP/1.1 200")
            time.sleep(0.1)
            sock.sendall(sent)
            assert sock.recv(1000) == b""
    finally:
        server.should_exit = True
        thread.join(5)


def test_silence_is_filled_with_comments(fake, serve):
    server = serve(fake.FakeEngine(step_seconds=0.2), sse_keep_alive_interval=0.05)
    text = server.post("/v1/completions", json={"prompt": "a", "max_tokens": 3, "stream": True}).text
    assert text.count(": still here\n\n") >= 3 and text.endswith("data: [DONE]\n\n")
    assert text.count("data: {") == 3


def test_usage_can_be_forced_on_every_stream(fake, serve):
    server = serve(fake.FakeEngine(), enable_force_include_usage=True)
    chunks = list(server.client().completions.create(model="fake", prompt="abc", stream=True))
    assert chunks[-1].usage.prompt_tokens == 3 and chunks[-1].choices == []


def test_other_origins_are_let_in_only_by_name(fake, serve):
    server = serve(fake.FakeEngine(), allowed_origins=("https://example.org",), api_keys=("k",))
    ask = {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type",
    }
    for origin, is_allowed in (("https://example.org", True), ("https://evil.example", False)):
        response = server.http.options(server.url + "/v1/completions", headers={"Origin": origin, **ask})
        assert (response.headers.get("access-control-allow-origin") == origin) is is_allowed
    closed = serve(fake.FakeEngine())
    response = closed.http.options(
        closed.url + "/v1/completions", headers={"Origin": "https://example.org", **ask}
    )
    assert "access-control-allow-origin" not in response.headers


def test_response_role_and_docs(fake, serve):
    server = serve(fake.FakeEngine(), response_role="teacher", enable_docs=False)
    answer = server.client().chat.completions.create(
        model="fake", messages=[{"role": "user", "content": "a"}]
    )
    assert answer.choices[0].message.role == "teacher"
    assert server.get("/docs").status_code == server.get("/openapi.json").status_code == 404
