"""`python -m minivllm.serve` as a user starts and stops it: in a process of its own, with a model of random weights."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import fields, replace
from pathlib import Path

import httpx
import pytest

from minivllm.config import EngineConfig
from minivllm.serve.arguments import log_level_of, make_parser, read_arguments, read_listen_arguments
from minivllm.serve.cli import describe, main
from minivllm.serve.config_file import expand_config


def read(*argv):
    return read_arguments(vars(make_parser().parse_args(argv)))


def test_without_arguments_the_tutor_is_served_to_this_machine(monkeypatch):
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    config, settings = read()
    assert config.model == "tutor" and settings.served_model_names == ("tutor",) and settings.api_keys == ()
    arguments = make_parser().parse_args([])
    assert (arguments.host, arguments.port, arguments.uvicorn_log_level) == ("127.0.0.1", 8000, "info")


def test_flags_have_vllms_spelling(monkeypatch):
    config, settings = read(
        *("my-model", "--tokenizer", "tok", "--dtype", "float32", "--seed", "5", "--max-model-len", "64"),
        *("--block-size", "8", "--gpu-memory-utilization", "0.5", "--kv-cache-memory-bytes", "1000000"),
        *("--num-gpu-blocks-override", "50", "--no-enable-prefix-caching", "--max-num-seqs", "4"),
        *(
            "--max-num-batched-tokens",
            "32",
            "--no-enable-chunked-prefill",
            "--long-prefill-token-threshold",
            "16",
        ),
        *("--attention-backend", "naive", "--device", "cpu", "--trust-remote-code", "--revision", "main"),
        *("--load-format", "dummy", "--max-logprobs", "3", "--enforce-eager", "--api-key", "k1", "k2"),
        *("--served-model-name", "a", "b", "--disable-fastapi-docs", "--enable-prompt-tokens-details"),
    )
    assert config == replace(
        config,
        model="my-model",
        tokenizer="tok",
        dtype="float32",
        seed=5,
        max_model_len=64,
        block_size=8,
        gpu_memory_utilization=0.5,
        kv_cache_memory_bytes=1_000_000,
        num_gpu_blocks_override=50,
        enable_prefix_caching=False,
        max_num_seqs=4,
        max_num_batched_tokens=32,
        enable_chunked_prefill=False,
        long_prefill_token_threshold=16,
        attention_backend="naive",
        device="cpu",
        trust_remote_code=True,
        revision="main",
        load_format="dummy",
        max_logprobs=3,
        enforce_eager=True,
    )
    assert settings.served_model_names == ("a", "b") and settings.api_keys == ("k1", "k2")
    assert not settings.enable_docs and settings.enable_prompt_tokens_details
    monkeypatch.setenv("VLLM_API_KEY", "from-environment")
    assert read("--model", "x")[1].api_keys == ("from-environment",)


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["--block-size", "0"], "block_size must be"),
        (["--port", "99999"], "--port must be in [0, 65535]"),
        (["a", "--model", "b"], "named twice"),
        (["--api-key", ""], "api_key must not be empty"),
        (["--gpu-memory", "0.5"], "unrecognized arguments"),
        (["--dtype", "int3"], "invalid choice"),
        (["--cpu-offload-gb", "2"], "--cpu-offload-gb is not served"),
        (["--enable-lora"], "--enable-lora is not served"),
        (["--speculative-config", "{}"], "speculative_config must have num_speculative_tokens"),
        (["--chat-template", "no-such-file"], "there is no file"),
        (["--ssl-certfile", "no-such-file"], "there is no file"),
        (["--ssl-keyfile", "a"], "needs --ssl-certfile"),
        (["--enable-auto-tool-choice"], "needs tool_call_parser"),
        (["--tool-call-parser", "magic"], "invalid choice"),
        (["--shutdown-timeout", "-1"], "--shutdown-timeout"),
        (["--sse-keep-alive-interval", "nan"], "sse_keep_alive_interval"),
        (["--h11-max-incomplete-event-size", "5"], "--h11-max-incomplete-event-size"),
        (["--config", "no-such-file"], "there is no file"),
    ],
)
def test_wrong_flags_get_a_sentence(capsys, argv, sentence):
    with pytest.raises(SystemExit) as exit_status:
        main(argv)
    assert exit_status.value.code == 2 and sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [(["no-such-model"], "no-such-model"), (["--host", "no.such.host.invalid"], "no.such.host.invalid")],
)
def test_what_cannot_be_served_gets_a_sentence(capsys, argv, sentence):
    assert main([*argv, "--port", "0"]) == 1
    error = capsys.readouterr().err
    assert sentence in error and "Traceback" not in error and error.count("\n") == 1


def test_port_in_use_is_one_sentence(capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        started = time.monotonic()
        assert main(["--port", str(port)]) == 1
    error = capsys.readouterr().err
    assert str(port) in error and "--port" in error and error.count("\n") == 1
    assert time.monotonic() - started < 5  # found out before the model is loaded


def test_start_line_says_what_fits(fake):
    engine = fake.FakeEngine()
    engine.stats_now, engine.stats = engine.stats(), engine.stats()  # describe reads a property
    line = describe(engine, read("--served-model-name", "fake")[1])
    assert (
        "256 blocks of 16 tokens" in line
        and "4,080 tokens" in line
        and "8.0 requests" in line
        and "fake" in line
    )


def test_flags_that_change_nothing_are_accepted(capsys):
    config, _ = read("--kv-cache-dtype", "auto", "--disable-log-requests", "--enable-metrics", "--verbose")
    assert config.model == "tutor"
    warnings = capsys.readouterr().err
    assert warnings.count("has no effect") == 3 and "--enable-log-requests" in warnings


def test_help_is_grouped_and_knows_every_field(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    for title in ("model:", "KV cache:", "scheduler:", "server:", "answers:", "logs:"):
        assert f"\n{title}\n" in text
    assert "--enable-lora" not in text and "--tool-call-parser" in text
    for field in fields(EngineConfig):
        assert f"--{field.name.replace('_', '-')}" in text or field.name == "hf_overrides", field.name


def test_config_file(tmp_path, monkeypatch):
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    file = tmp_path / "flags.yaml"
    file.write_text(
        "port: 9000\nmax-num-seqs: 7\nenable_log_requests: true\ndisable-xray: false\n"
        "served_model_name: [a, b]\nblock_size: 8\n"
    )

    def arguments(*argv):
        return vars(make_parser().parse_args(expand_config(argv)))

    given = arguments("tutor", "--config", str(file), "--port", "9001")
    config, settings = read_arguments(given)
    assert (config.model, config.max_num_seqs, config.block_size) == ("tutor", 7, 8)
    assert settings.served_model_names == ("a", "b") and settings.enable_log_requests
    assert read_listen_arguments(given).port == 9001
    assert read_listen_arguments(arguments(f"--config={file}")).port == 9000
    for content, sentence in (
        ("[1]", "must hold lines"),
        ("a: {b: c}", "must be a number"),
        ("a: [", "not valid YAML"),
        ("a: " + "[" * 3000, "not valid YAML"),
        ("a: !!python/object/apply:os.getcwd []", "not valid YAML"),
    ):
        file.write_text(content)
        with pytest.raises(ValueError, match=sentence):
            expand_config(["--config", str(file)])


def test_log_level_comes_from_the_flag_or_the_environment(monkeypatch):
    def level(*argv):
        return log_level_of(vars(make_parser().parse_args(argv)))

    monkeypatch.delenv("VLLM_LOGGING_LEVEL", raising=False)
    assert level() == "info" and level("--log-level", "debug") == "debug"
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "WARNING")
    assert level() == "warning" and level("--log-level", "debug") == "debug"
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "loud")
    with pytest.raises(ValueError, match="VLLM_LOGGING_LEVEL"):
        level()


MODEL = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 100_000,
    "rms_norm_eps": 1e-6,
    "torch_dtype": "float32",
}


@pytest.fixture
def start(tmp_path):
    """Start a server process over a model of random weights, without a tokenizer, on a free port."""
    processes = []

    def start(*flags):
        running, url, log = start_process(tmp_path, flags)
        processes.append(running)
        return running, url, log

    yield start
    for running in processes:
        if running.poll() is None:
            running.kill()
        running.wait()


def start_process(folder, flags):
    (folder / "config.json").write_text(json.dumps(MODEL))
    log = folder / "log.txt"
    command = [sys.executable, "-m", "minivllm.serve", str(folder), "--load-format", "dummy", "--port", "0"]
    command += [
        "--num-gpu-blocks-override",
        "7000",
        "--max-model-len",
        "100000",
        "--served-model-name",
        "random",
        *flags,
    ]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    with log.open("w") as output:
        running = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, cwd=Path(__file__).parents[2], env=environment
        )
    deadline = time.monotonic() + 60
    while not (
        match := re.search(r"Uvicorn running on (http://127\.0\.0\.1:\d+|unix socket \S+) ", log.read_text())
    ):
        assert running.poll() is None and time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)
    return running, match[1], log


def test_process_serves_and_sigterm_ends_it_with_streams_open(start):
    running, url, log = start()
    assert "Serving random: KV cache of 7,000 blocks" in log.read_text()
    assert log.read_text().count("KV cache") == 1  # said once
    assert re.search(
        r"^INFO: +Model weights: [\d.]+ MB \([\d.]+ MB of float32\)$", log.read_text(), re.MULTILINE
    )
    body = {"prompt": [1, 2, 3], "max_tokens": 90_000, "ignore_eos": True}
    assert (
        httpx.post(url + "/v1/completions", json={**body, "max_tokens": 8}).json()["usage"][
            "completion_tokens"
        ]
        == 8
    )
    assert (
        "token ids" in httpx.post(url + "/v1/completions", json={"prompt": "text"}).json()["error"]["message"]
    )
    ends = []

    def hold_open(stream):
        response = httpx.post(url + "/v1/completions", json={**body, "stream": stream}, timeout=60)
        ends.append((stream, response.status_code, response.text[-300:]))

    threads = [threading.Thread(target=hold_open, args=(stream,)) for stream in (True, True, False)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 10
    while httpx.get(url + "/status").json()["num_requests_running"] < 3:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    started = time.monotonic()
    running.send_signal(signal.SIGTERM)
    assert running.wait(10) == 0
    seconds = time.monotonic() - started
    for thread in threads:
        thread.join(5)
    assert seconds < 2, log.read_text()
    assert "Traceback" not in log.read_text() and "/status" not in log.read_text()
    assert [(stream, status) for stream, status, _ in sorted(ends)] == [
        (False, 503),
        (True, 200),
        (True, 200),
    ]
    for stream, _, text in ends:
        assert "shut down" in text and text.endswith("data: [DONE]\n\n") == stream


def test_sigterm_lets_running_requests_finish(start):
    running, url, log = start("--shutdown-timeout", "20", "--log-json", "--enable-log-requests")
    body = {"prompt": [1, 2, 3], "max_tokens": 200, "ignore_eos": True}
    answers = []
    ask = threading.Thread(
        target=lambda: answers.append(httpx.post(url + "/v1/completions", json=body, timeout=60))
    )
    ask.start()
    deadline = time.monotonic() + 10
    while httpx.get(url + "/status").json()["num_requests_running"] < 1:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    running.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    with pytest.raises(httpx.ConnectError):
        httpx.get(url + "/health")
    ask.join(30)
    assert answers[0].json()["usage"]["completion_tokens"] == 200
    assert running.wait(10) == 0 and "unfinished" not in log.read_text()
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    requests = [line for line in lines if line.get("handler") == "/v1/completions"]
    assert [line["status"] for line in requests] == [200] and len(requests[0]["request_id"]) == 32


def test_second_sigterm_ends_the_wait(start):
    running, url, _ = start("--shutdown-timeout", "60")
    body = {"prompt": [1, 2, 3], "max_tokens": 90_000, "ignore_eos": True, "stream": True}
    body["return_token_ids"] = True  # this model has no tokenizer, so there is no text to stream
    with httpx.stream("POST", url + "/v1/completions", json=body, timeout=60) as response:
        lines = response.iter_lines()
        next(lines)
        running.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        assert running.poll() is None
        running.send_signal(signal.SIGTERM)
        assert running.wait(10) == 0


def test_unix_socket(start, tmp_path):
    path = tmp_path / "serve.sock"
    running, place, _ = start("--uds", str(path))
    assert place == f"unix socket {path}"
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(path))) as client:
        assert client.get("http://server/health").status_code == 200
    running.send_signal(signal.SIGTERM)
    assert running.wait(10) == 0 and not path.exists()
