"""The files in serve/deploy against what they are for: a real Prometheus scrapes, a real nginx streams."""

import configparser
import json
import re
import shlex
import shutil
import socket
import subprocess
import time
from importlib.resources import files

import httpx
import pytest
import yaml

from minivllm.serve.arguments import make_parser, read_arguments, read_listen_arguments

DEPLOY = files("minivllm.serve").joinpath("deploy")


def text_of(name: str) -> str:
    return DEPLOY.joinpath(name).read_text()


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def until(condition, seconds=20.0):
    deadline = time.monotonic() + seconds
    while True:
        try:
            if condition():
                return
        except httpx.HTTPError:
            pass
        assert time.monotonic() < deadline
        time.sleep(0.1)


def accept(words):
    arguments = vars(make_parser().parse_args(words))
    read_arguments(arguments)
    return read_listen_arguments(arguments)


def test_every_metric_on_the_dashboard_is_served(server):
    served = server.get("/metrics").text
    server.post("/v1/completions", json={"prompt": "a"})
    served += server.get("/metrics").text
    panels = json.loads(text_of("grafana-dashboard.json"))["panels"]
    assert [panel["title"] for panel in panels][:4] == ["Requests", "KV cache", "Throughput", "GPU and CPU"]
    expressions = [target["expr"] for panel in panels for target in panel["targets"]]
    names = {name for e in expressions for name in re.findall(r"\b(?:vllm:|http_|process_)\w+", e)}
    assert len(names) > 10
    for name in names:
        assert re.search(rf"^{name}[{{ ]", served, re.M), name


def test_flags_in_dockerfile_and_unit_are_flags_of_the_server():
    docker = text_of("Dockerfile")
    words = json.loads(re.search(r"^ENTRYPOINT (.*)$", docker, re.M)[1]) + json.loads(
        re.search(r"^CMD (.*)$", docker, re.M)[1]
    )
    assert accept(words[3:]).shutdown_timeout == 20
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str
    unit.read_string(text_of("minivllm.service"))
    words = shlex.split(unit["Service"]["ExecStart"])
    assert words[1:3] == ["-m", "minivllm.serve"]
    listen = accept(words[3:])
    assert listen.shutdown_timeout < int(unit["Service"]["TimeoutStopSec"])


def test_compose_joins_the_files():
    services = yaml.safe_load(text_of("docker-compose.yml"))["services"]
    accept(services["minivllm"]["command"])
    for service in services.values():
        for volume in service.get("volumes", ()):
            assert DEPLOY.joinpath(volume.split(":")[0]).is_file()
    jobs = {job["job_name"]: job for job in yaml.safe_load(text_of("prometheus.yml"))["scrape_configs"]}
    assert jobs["minivllm"]["static_configs"][0]["targets"] == ["minivllm:8000"]
    assert {"minivllm", "prometheus", "grafana"} == set(services)


@pytest.mark.system("prometheus")
def test_real_prometheus_scrapes(server, tmp_path):
    host = server.url.removeprefix("http://")
    config = yaml.safe_load(text_of("prometheus.yml").replace("minivllm:8000", host).replace("15s", "1s"))
    config["scrape_configs"] = config["scrape_configs"][:1]
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
    port = free_port()
    command = [
        "prometheus",
        f"--config.file={tmp_path}/prometheus.yml",
        f"--storage.tsdb.path={tmp_path}/data",
    ]
    with (tmp_path / "log").open("w") as log:
        running = subprocess.Popen(
            [*command, f"--web.listen-address=127.0.0.1:{port}"], stdout=log, stderr=log
        )
    try:

        def value(query):
            answer = httpx.get(
                f"http://127.0.0.1:{port}/api/v1/query", params={"query": query}, timeout=5
            ).json()
            assert answer["status"] == "success", answer
            return [float(one["value"][1]) for one in answer["data"]["result"]]

        server.post("/v1/completions", json={"prompt": "abc", "max_tokens": 5})
        until(lambda: httpx.get(f"http://127.0.0.1:{port}/-/ready", timeout=5).status_code == 200, 60)
        until(lambda: value('up{job="minivllm"}') == [1.0], 60)
        until(lambda: value("vllm:generation_tokens_total") and value("vllm:generation_tokens_total")[0] >= 5)
        for panel in json.loads(text_of("grafana-dashboard.json"))["panels"]:
            for target in panel["targets"]:
                value(target["expr"])  # each is a valid query
    finally:
        running.terminate()
        running.wait(10)


@pytest.mark.system("nginx")
def test_real_nginx_streams(fake, serve, tmp_path):
    slow = serve(fake.FakeEngine(step_seconds=0.1), enable_request_id_headers=True)
    port = free_port()
    site = text_of("nginx.conf").replace("127.0.0.1:8000", slow.url.removeprefix("http://"))
    site = site.replace("listen 80;", f"listen 127.0.0.1:{port};")
    temporary = "".join(
        f"{kind}_temp_path {tmp_path}/{kind};\n"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    main = f"pid {tmp_path}/pid;\nerror_log {tmp_path}/error.log;\nevents {{}}\n"
    main += f"http {{ access_log off;\n{temporary}{site} }}\n"
    (tmp_path / "nginx.conf").write_text(main)
    command = [shutil.which("nginx") or "nginx", "-c", f"{tmp_path}/nginx.conf", "-g", "daemon off;"]
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        url = f"http://127.0.0.1:{port}"
        until(lambda: httpx.get(url + "/health").status_code == 200)
        assert len(httpx.get(url + "/version").headers["x-request-id"]) == 32  # nginx's own
        body = {"prompt": "hello", "max_tokens": 10, "stream": True}
        times = []
        with httpx.stream("POST", url + "/v1/completions", json=body, timeout=20) as response:
            for line in response.iter_lines():
                if line.startswith("data: "):
                    times.append(time.monotonic())
        assert len(times) == 11 and times[-2] - times[0] > 0.5  # token by token, not in one piece at the end
        too_large = httpx.post(url + "/v1/completions", content=b" " * 5_000_000)
        assert too_large.status_code == 413
        with httpx.stream(
            "POST", url + "/v1/completions", json={**body, "max_tokens": 400, "ignore_eos": True}
        ) as left:
            lines = left.iter_lines()
            next(lines)
        slow.wait_until_idle(5)  # nginx passes on that the client has gone
    finally:
        running.terminate()
        running.wait(10)
