"""`python -m minivllm.sim`: tables, JSON, pictures, and one sentence for every mistake."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from minivllm.sim.cli import main
from minivllm.sim.trace import Trace, dataset_trace, fixed_trace

ROOT = Path(__file__).resolve().parents[2]
SMALL_MEMORY = [
    "memory",
    "--dataset",
    "alpaca",
    "--num-requests",
    "12",
    "--capacity",
    "512",
    "--max-model-len",
    "256",
]
SMALL_SCHEDULE = ["schedule", "--dataset", "alpaca", "--num-requests", "12", "--max-num-seqs", "4"]


def table_rows(text, first_cell):
    """The rows under the line of dashes that begin with `first_cell`."""
    return [line.split() for line in text.splitlines() if line.startswith(first_cell)]


def test_memory_prints_shares_that_add_up(capsys):
    assert main(SMALL_MEMORY) == 0
    out = capsys.readouterr().out
    assert "alpaca: 12 requests, on average 19 tokens in and 58 out" in out
    for name in ("max", "pow2", "oracle", "buddy"):
        ((_, *shares, _, _),) = table_rows(out, name + " ")
        assert sum(map(float, shares)) == pytest.approx(100, abs=0.3)
    assert "figure 2" not in out, "this is not the paper's workload"


def test_memory_puts_the_paper_beside_its_own_workload(capsys):
    assert main(["memory", "--num-requests", "10", "--policy", "max", "paged"]) == 0
    out = capsys.readouterr().out
    assert "/ 20.4" in out and "/ 96.3" in out and "38.2" not in out
    assert "these lengths are drawn" in out


def test_memory_says_where_nobody_waited(capsys):
    assert main(["memory", "--num-requests", "2", "--policy", "paged"]) == 0
    assert "* nobody ever waited" in capsys.readouterr().out


def test_memory_writes_what_it_says(tmp_path, capsys):
    path = tmp_path / "memory.json"
    assert main([*SMALL_MEMORY, "--policy", "paged", "max", "paged", "--json", str(path)]) == 0
    data = json.loads(path.read_text(encoding="utf-8"))
    assert [result["summary"]["policy"] for result in data["results"]] == ["paged", "max"], (
        "asked twice, played once"
    )
    assert Trace.from_json(data["trace"]) == dataset_trace("alpaca", 12, max_model_len=256)
    series = data["results"][1]["series"]
    for row in zip(
        *(series[name] for name in ("used", "reserved", "internal", "external", "free")), strict=True
    ):
        assert sum(row) == 512
    capsys.readouterr()


def test_schedule_compares_and_writes(tmp_path, capsys):
    path = tmp_path / "schedule.json"
    assert main([*SMALL_SCHEDULE, "--prefill", "chunked", "whole", "--json", str(path)]) == 0
    out = capsys.readouterr().out
    data = json.loads(path.read_text(encoding="utf-8"))
    labels = [result["summary"]["label"] for result in data["results"]]
    assert labels == ["static, batch 4", "continuous, chunked 2048", "continuous, whole 2048"]
    assert all(label in out for label in labels)
    (ratios,) = table_rows(out, "  against the first")
    fast = [result["summary"]["output_tokens_per_second"] for result in data["results"]]
    assert float(ratios[-1].rstrip("x")) == pytest.approx(fast[2] / fast[0], abs=0.01)


def test_schedule_tells_priorities_and_prefix_caching_apart(capsys):
    few = ["schedule", "--num-requests", "12", "--max-num-seqs", "2"]
    assert main([*few, "--dataset", "two-tiers", "--policy", "continuous", "priority"]) == 0
    out = capsys.readouterr().out
    assert [row[:3] for row in table_rows(out, "  of priority")] == [
        ["of", "priority", "0"],
        ["of", "priority", "1"],
    ]
    assert (
        main([*few, "--dataset", "system-prompt", "--policy", "continuous", "--prefix-caching", "off", "on"])
        == 0
    )
    out = capsys.readouterr().out
    ((*_, plain, cached),) = table_rows(out, "tokens computed")
    assert int(plain.replace(",", "")) - int(cached.replace(",", "")) == 11 * 512
    assert "continuous, chunked 2048, cached" in out and "of priority" not in out


def test_schedule_takes_its_costs_from_the_user(tmp_path, capsys):
    path = tmp_path / "schedule.json"
    costs = ["--step-ms", "500", "--token-us", "0", "--context-us", "0"]
    assert main([*SMALL_SCHEDULE, *costs, "--policy", "continuous", "--json", str(path)]) == 0
    (result,) = json.loads(path.read_text(encoding="utf-8"))["results"]
    assert {step["duration"] for step in result["steps"]} == {0.5}
    capsys.readouterr()


def test_schedule_logs_rounds(tmp_path, capsys):
    path = tmp_path / "trace.json"
    fixed_trace([(2, 1), (1, 2)]).save(path)
    assert main(["schedule", "--trace", str(path), "--policy", "continuous", "--log"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "continuous, chunked 2048",
        "round 1 | batch of 2 [r1:2 r2:1] | joined r1 r2 | finished r1 | waiting 0",
        "round 2 | batch of 1 [r2:1] | finished r2 | waiting 0",
    ]


def test_a_trace_is_saved_and_read_again(tmp_path, capsys):
    path = tmp_path / "trace.json"
    assert main([*SMALL_MEMORY, "--seed", "5", "--rate", "3", "--save-trace", str(path)]) == 0
    drawn = capsys.readouterr().out
    assert main(["memory", "--trace", str(path), "--capacity", "512", "--max-model-len", "256"]) == 0
    assert capsys.readouterr().out == drawn
    assert Trace.load(path).requests[0].arrival > 0


def test_the_seed_changes_the_outcome_and_nothing_else_does(capsys):
    outputs = []
    for seed in ("1", "1", "2"):
        assert main([*SMALL_SCHEDULE, "--seed", seed]) == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1] != outputs[2]


def is_sentence(error, *words):
    (line,) = [line for line in error.splitlines() if "error: " in line]
    assert all(word in line for word in words), line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["memory", "--policy", "best"], ["--policy", "'best'", "paged"]),
        (["schedule", "--policy", "paged"], ["--policy", "'paged'", "static"]),
        (["memory", "--num-requests", "0"], ["--num-requests", "[1, 100000]", "'0'"]),
        (["memory", "--num-requests", "many"], ["--num-requests", "'many'"]),
        (["memory", "--num-requests", "9" * 5000], ["--num-requests"]),
        (["memory", "--rate", "0"], ["--rate", "above 0"]),
        (["memory", "--rate", "nan"], ["--rate", "'nan'"]),
        (["memory", "--step-time", "inf"], ["--step-time", "finite"]),
        (["memory", "--capacity", "-5"], ["--capacity", "'-5'"]),
        (["memory", "--max-model-len", "1"], ["--max-model-len"]),
        (["schedule", "--token-us", "-1"], ["--token-us", "at least 0"]),
        (["schedule", "--seed", "-1"], ["--seed"]),
        ([], ["memory", "schedule"]),
        (["draw"], ["'draw'", "memory"]),
    ],
)
def test_a_flag_out_of_range_gets_a_sentence(arguments, words, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    is_sentence(capsys.readouterr().err, *words)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["memory", "--capacity", "1000", "--policy", "max"], ["'max'", "2048", "raise capacity"]),
        (["memory", "--block-size", "99999"], ["block_size", "15728"]),
        (["memory", "--max-model-len", "64"], ["161", "raise max_model_len"]),
        (["memory", "--trace", "no/such/file.json"], ["no/such/file.json"]),
        (["memory", "--num-requests", "2", "--json", "no/such/folder/x.json"], ["no/such/folder"]),
        (["memory", "--plot", "picture.txt"], ["--plot", ".png", "picture.txt"]),
        (["schedule", "--max-num-seqs", "4096"], ["max_num_batched_tokens", "max_num_seqs"]),
        (["schedule", "--step-ms", "0", "--token-us", "0"], ["must not both be 0"]),
        (["schedule", "--capacity", "100"], ["KV cache", "raise capacity"]),
    ],
)
def test_what_does_not_fit_together_gets_a_sentence(arguments, words, capsys):
    assert main(arguments) == 2
    captured = capsys.readouterr()
    is_sentence(captured.err, *words)


def test_a_plot_without_matplotlib_gets_a_sentence(monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main([*SMALL_MEMORY, "--plot", "x.png"]) == 2
    is_sentence(capsys.readouterr().err, "matplotlib", "pip install")


@pytest.mark.parametrize("arguments", [["--help"], ["memory", "--help"], ["schedule", "--help"]])
def test_help_fits_a_terminal(arguments, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80


def test_it_runs_as_a_module():
    command = [sys.executable, "-m", "minivllm.sim", "schedule", "--num-requests", "3", "--dataset", "alpaca"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "output tokens per second" in done.stdout


def test_a_reader_who_leaves_early_is_no_error():
    program = f"{sys.executable} -m minivllm.sim memory --num-requests 5 | true"
    done = subprocess.run(program, shell=True, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stderr == ""
