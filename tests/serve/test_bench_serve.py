"""`bench serve` against a server whose answers and pace are known."""

import json
import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minivllm.bench import serve as bench
from minivllm.bench.serve_client import Target, Timing, ask, first_model
from minivllm.bench.serve_report import parse_goodput, percentile_of, summarize
from minivllm.bench.serve_workload import ServeRequest, prefix_repetition, random_requests, sharegpt


def arguments(url, *argv):
    import argparse

    parser = argparse.ArgumentParser()
    bench.add_arguments(parser)
    return parser.parse_args(["--base-url", url, "--disable-tqdm", *argv])


SMALL = ("--num-prompts", "6", "--random-input-len", "20", "--random-output-len", "9", "--vocab-size", "90")


def test_figures_of_a_known_server(fake, serve, capsys):
    server = serve(fake.FakeEngine(step_seconds=0.01))
    result = bench.run(arguments(server.url, *SMALL, "--goodput", "ttft:60000", "e2el:0.001"))
    assert (result["completed"], result["failed"], result["model"]) == (6, 0, "fake")
    assert (result["total_input_tokens"], result["total_output_tokens"]) == (120, 54)
    assert result["output_throughput"] == pytest.approx(54 / result["duration_s"])
    assert result["p50_itl_ms"] >= 9 and result["mean_e2el_ms"] > 8 * 9
    assert result["request_goodput"] == 0
    assert "6 requests done, 0 failed" in capsys.readouterr().out


def test_total_is_first_token_plus_the_others(server):
    timing = ask(Target(server.url, "fake"), ServeRequest("abc", 12))
    assert timing.error is None and timing.num_output_tokens == 12 and len(timing.itl) == 11
    assert timing.e2el == pytest.approx(timing.ttft + 11 * timing.tpot)
    assert timing.e2el == pytest.approx(timing.ttft + math.fsum(timing.itl))


def test_matrix_rate_and_plot(fake, serve, tmp_path, capsys):
    server = serve(fake.FakeEngine(step_seconds=0.005))
    plot = tmp_path / "matrix.png"
    result = bench.run(arguments(server.url, *SMALL, "--matrix", "1", "3", "--plot", str(plot)))
    one, three = result["rows"]
    assert [row["max_concurrency"] for row in (one, three)] == [1, 3] and one["completed"] == three[
        "completed"
    ] == 6
    assert server.engine.most_running == 3
    assert plot.read_bytes().startswith(b"\x89PNG") and "concurrency" in capsys.readouterr().out
    server.engine.most_running = 0
    bench.run(arguments(server.url, *SMALL, "--max-concurrency", "2"))
    assert server.engine.most_running <= 2
    slow = bench.run(arguments(server.url, *SMALL, "--request-rate", "20"))
    assert slow["duration_s"] > 0.05 and slow["completed"] == 6


def test_failures_are_counted_and_told(server, capsys):
    result = bench.run(arguments(server.url, *SMALL, "--random-input-len", "600"))
    assert (result["completed"], result["failed"]) == (0, 6) and "status 400" in result["errors"][0]
    assert "mean_ttft_ms" not in result and "6 failed" in capsys.readouterr().out
    timing = ask(Target("http://127.0.0.1:9", "x", timeout=2), ServeRequest("a", 1))
    assert "Refused" in timing.error


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["--num-prompts", "0"], "num_prompts"),
        (["--request-rate", "-1"], "request_rate"),
        (["--request-rate", "nan"], "request_rate"),
        (["--max-concurrency", "0"], "max_concurrency"),
        (["--percentiles", "50,x"], "percentiles"),
        (["--goodput", "speed:5"], "goodput"),
        (["--dataset-name", "sharegpt"], "dataset_path"),
        (["--dataset-name", "sharegpt", "--dataset-path", "nowhere.json"], "no file"),
        (["--random-range-ratio", "1"], "random_range_ratio"),
        (["--base-url", "nonsense"], "base_url"),
        (["--backend", "hf"], "backend must be openai or vllm.*bench throughput"),
        (["--dataset", "nowhere.json"], "no file nowhere.json"),
        (["--host", "127.0.0.1", "--port", "9"], "http://127.0.0.1:9 cannot be reached"),
        (["--base-url", "http://127.0.0.1:9"], "cannot be reached"),
    ],
)
def test_wrong_arguments_get_a_sentence(server, argv, sentence):
    with pytest.raises(SystemExit, match=sentence):
        bench.run(arguments(server.url, *argv))


def test_a_plot_without_matplotlib_gets_a_sentence(server, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(SystemExit, match="--plot needs matplotlib: pip install"):
        bench.run(arguments(server.url, "--plot", "matrix.png"))


def test_the_flags_of_older_scripts(server, tmp_path):
    turns = [{"value": "Who?"}, {"value": "x" * 40}]
    (tmp_path / "chats.json").write_text(json.dumps([{"conversations": turns}]))
    port = server.url.rpartition(":")[2]
    argv = (
        "--backend",
        "vllm",
        "--port",
        port,
        "--dataset",
        str(tmp_path / "chats.json"),
        "--num-prompts",
        "2",
    )
    result = bench.run(arguments("http://nobody.invalid", *argv))
    assert (result["completed"], result["total_output_tokens"]) == (2, 20)


def test_key_and_path_prefix(fake, serve):
    server = serve(fake.FakeEngine(), api_keys=("k",))
    with pytest.raises(ValueError, match="401"):
        first_model(Target(server.url, ""))
    assert first_model(Target(server.url, "", api_key="k")) == "fake"
    assert Target("http://host/prefix/", "m").path("/v1/models") == "/prefix/v1/models"


@given(st.integers(1, 20), st.integers(1, 50), st.floats(0, 0.9), st.integers(0, 5))
def test_random_workload(num, length, ratio, seed):
    requests = random_requests(num, length, 10, ratio, 100, seed)
    assert len(requests) == num and requests == random_requests(num, length, 10, ratio, 100, seed)
    for request in requests:
        assert (
            max(1, round(length * (1 - ratio))) <= len(request.prompt) <= max(1, round(length * (1 + ratio)))
        )
        assert all(3 <= token < 100 for token in request.prompt)


def test_prefixes_are_shared():
    requests = prefix_repetition(20, 30, 5, 4, 8, 500, 1)
    prefixes = [tuple(request.prompt[:30]) for request in requests]
    assert len(set(prefixes)) == 4 and all(prefixes.count(one) == 5 for one in set(prefixes))
    assert len({tuple(request.prompt) for request in requests}) == 20


def test_sharegpt_file(tmp_path):
    file = tmp_path / "data.json"
    turns = [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "x" * 400}]
    file.write_text(json.dumps([{"conversations": turns}, {"conversations": turns[:1]}, {}, 5]))
    assert sharegpt(str(file), 3, 0) == [ServeRequest("Why?", 100)] * 3
    for content, sentence in (("[]", "no conversation"), ("{", "not valid JSON")):
        file.write_text(content)
        with pytest.raises(ValueError, match=sentence):
            sharegpt(str(file), 1, 0)


@given(st.lists(st.floats(0, 1000), min_size=2, max_size=50))
def test_percentiles_equal_those_of_the_standard_library(values):
    ordered = sorted(values)
    expected = statistics.quantiles(values, n=100, method="inclusive")
    for percentile in (1, 25, 50, 90, 99):
        assert percentile_of(ordered, percentile) == pytest.approx(expected[percentile - 1], abs=1e-9)
    assert (percentile_of(ordered, 0), percentile_of(ordered, 100)) == (ordered[0], ordered[-1])


def test_goodput_counts_requests_that_keep_every_limit():
    timings = [Timing(ttft=0.1, itl=[0.02, 0.3], e2el=0.42, num_output_tokens=3, num_prompt_tokens=1)] * 2
    timings += [Timing(ttft=0.5, itl=[0.01], e2el=0.51, num_output_tokens=2), Timing(error="no")]
    for words, good in (
        (["ttft:200"], 2),
        (["itl:100"], 1),
        (["ttft:200", "itl:100"], 0),
        (["e2el:1000"], 3),
    ):
        result = summarize(timings, 2.0, [50], parse_goodput(words))
        assert result["request_goodput"] == good / 2
    assert (result["completed"], result["failed"]) == (3, 1)
