"""`bench latency`, `batch-sizes`, `throughput --alone` and `xray-cost`; and total = TTFT + (n - 1) x TPOT."""

import argparse
import re
from types import SimpleNamespace

import pytest

from minivllm.bench import batch_sizes, latency, throughput, xray_cost
from minivllm.bench.__main__ import COMMANDS
from minivllm.bench.serve_client import Target, Timing
from minivllm.bench.xray_cost import CONDITIONS, OFF, WATCHED, Run, counters, summarize, viewer

NUM_TOKENS = 9


def parsed(module, *argv):
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    return parser.parse_args(argv)


def sums(server):
    """Family -> (sum, count) of the latency histograms, as Prometheus would read them."""
    text = server.get("/metrics").text
    found = {}
    for name in (
        "time_to_first_token",
        "inter_token_latency",
        "request_time_per_output_token",
        "e2e_request_latency",
    ):
        values = [
            re.search(rf"^vllm:{name}_seconds_{part}{{.*}} (\S+)$", text, re.M)[1]
            for part in ("sum", "count")
        ]
        found[name] = (float(values[0]), float(values[1]))
    return found


def test_in_the_metrics_too_the_total_is_the_first_token_plus_the_others(real):
    real.wait_until_idle()
    before = sums(real)
    for prompt in ("Once", "Upon a time there", "A"):
        body = {"prompt": prompt, "max_tokens": NUM_TOKENS, "ignore_eos": True, "temperature": 0}
        assert real.post("/v1/completions", json=body).status_code == 200
    after = sums(real)
    grown = {name: tuple(b - a for a, b in zip(before[name], after[name], strict=True)) for name in before}
    (total, calls), (first, firsts) = grown["e2e_request_latency"], grown["time_to_first_token"]
    (between, gaps), (per_token, requests) = (
        grown["inter_token_latency"],
        grown["request_time_per_output_token"],
    )
    assert (calls, firsts, gaps, requests) == (3, 3, 3 * (NUM_TOKENS - 1), 3)
    # the end is noted with the last token's step: nothing but the steps themselves lies between
    assert total == pytest.approx(first + between, rel=0.05)
    assert total == pytest.approx(first + (NUM_TOKENS - 1) * per_token, rel=0.02)


SMALL = ("--num-iters", "6", "--num-iters-warmup", "1", "--output-len", "5", "--disable-tqdm")


def test_calls_of_a_server_one_after_the_other(fake, serve, capsys):
    server = serve(fake.FakeEngine(step_seconds=0.01))
    args = parsed(latency, "--base-url", server.url, "--vocab-size", "90", *SMALL)
    result = latency.run(args)
    assert (result["model"], result["completed"], result["total_output_tokens"]) == ("fake", 6, 30)
    assert server.engine.most_running == 1
    assert result["mean_e2el_ms"] > 4 * 10 and result["p50_e2el_ms"] <= result["p99_e2el_ms"]
    assert "End-to-end latency" in capsys.readouterr().out


def test_calls_of_an_engine_in_this_process():
    result = latency.run(parsed(latency, *SMALL, "--batch-size", "3", "--input-len", "7"))
    assert (result["completed"], result["total_input_tokens"], result["total_output_tokens"]) == (18, 126, 90)
    assert result["mean_e2el_ms"] == pytest.approx(result["mean_ttft_ms"] + 4 * result["mean_tpot_ms"])
    assert COMMANDS["latency"] is latency and parsed(latency).num_iters == 100


@pytest.mark.parametrize(
    "argv, sentence",
    [
        (["--num-iters", "0"], "num_iters must be at least 1"),
        (["--base-url", "http://127.0.0.1:9", "--batch-size", "2"], "batch_size must be 1 with base_url"),
        (["--base-url", "http://127.0.0.1:9"], "cannot be reached"),
        (["--model", "no-such-model"], "no-such-model"),
    ],
)
def test_wrong_arguments_get_a_sentence(argv, sentence):
    with pytest.raises(SystemExit, match=sentence):
        latency.run(parsed(latency, *argv))


def test_every_batch_size_has_its_figures():
    args = parsed(
        batch_sizes, "--batch-size", "3", "1", "--output-len", "6", "--input-len", "20", "--repetitions", "2"
    )
    rows = batch_sizes.run(args)["batch_sizes"]
    assert list(rows) == ["1", "3"]
    for size, row in rows.items():
        assert row["throughput"] == pytest.approx(int(size) * 6 / row["latency_ms"] * 1000)
        assert row["min_latency_ms"] <= row["latency_ms"] <= row["max_latency_ms"]
        assert row["kv_blocks"] == 2 * int(size)  # 20 + 5 tokens in blocks of 16
    assert parsed(batch_sizes).batch_size == [1, 4, 8, 16]
    with pytest.raises(SystemExit, match="batch_size must be at least 1, not 0"):
        batch_sizes.run(parsed(batch_sizes, "--batch-size", "4", "0"))


def test_throughput_of_our_engine_alone(capsys):
    args = parsed(throughput, "--num-prompts", "3", "--repetitions", "1", "--alone")
    result = throughput.run(args)
    assert list(result["contestants"]) == ["minivllm"] and result["ratio_of_minivllm_to"] == {}
    said = capsys.readouterr().out
    assert "output tokens/s" in said and "greedy" not in said


def test_a_viewer_makes_the_server_record_and_its_steps_are_counted(real):
    target = Target(real.url, "tutor")
    steps, cpu = counters(target)
    with viewer(target) as num_bytes:
        state = num_bytes[0]
        assert state > 0
        body = {"prompt": "Once", "max_tokens": 7, "ignore_eos": True}
        assert real.post("/v1/completions", json=body).status_code == 200
    after, cpu_after = counters(target)
    assert after - steps == 7 and cpu_after >= cpu and num_bytes[0] > state


def test_ratios_are_taken_round_by_round():
    # the second round runs on a machine of half the speed; the X-ray makes no difference, a viewer doubles the cost
    rounds = [
        {
            name: Run(100, s * (2 if name == WATCHED else 1), s / (1 if name == WATCHED else 2))
            for name in CONDITIONS
        }
        for s in (1.0, 2.0)
    ]
    rows = summarize(rounds)["conditions"]
    assert [rows[name]["ratio_to_off"] for name in CONDITIONS] == [1, 1, 0.5]
    assert rows[OFF]["cpu_us_per_step"] == pytest.approx(7500)
    assert rows[WATCHED]["extra_cpu_us_per_step"] == pytest.approx(7500)
    assert "0.500" in xray_cost.describe({"conditions": rows})


def test_an_answer_of_one_token_has_no_time_between_tokens():
    assert Timing(ttft=1.0, e2el=1.0, num_output_tokens=1).tpot is None


def test_throughput_beside_transformers(capsys):
    args = parsed(throughput, "--num-requests", "3", "--repetitions", "1", "--static-batch-size", "2")
    result = throughput.run(args)
    assert result["greedy_agreement"] == 1 and len(result["contestants"]) == 2
    assert "times as fast as transformers, static batches of 2" in capsys.readouterr().out


def test_moments_of_the_engine_become_a_timing():
    moments = SimpleNamespace(arrival_time=1.0, first_token_time=3.0, finished_time=7.0)
    choice = SimpleNamespace(token_ids=[5] * 5)
    output = SimpleNamespace(metrics=moments, prompt_token_ids=[5, 6], outputs=[choice])
    timing = latency._timing(output)
    assert (timing.ttft, timing.e2el, timing.tpot, timing.num_prompt_tokens) == (2.0, 6.0, 1.0, 2)
