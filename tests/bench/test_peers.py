"""The race between engines: who gets what, in which order, and what becomes of an engine that fails."""

import argparse
import sys
from pathlib import Path

import pytest

from minivllm.bench.peers import referee
from minivllm.bench.peers.referee import OURS, Peer, Runner, peers, race, requests_of

TOY = """
import pathlib, sys
sys.path.insert(0, {here!r})
from protocol import serve

def load(settings):
    def engine(requests):
        with open(settings["log"], "a") as log:
            print(settings["name"], len(requests), file=log)
        print("noise of a library")
        return [[prompt[0] + settings["shift"]] * (n + settings["more"]) for prompt, n in requests]
    return engine, "toy 1"

serve(load)
"""


@pytest.fixture
def toy(tmp_path):
    """toy(name, shift, more): the process of an engine that repeats the first token, plus `shift`, n + `more` times."""
    script = tmp_path / "toy.py"
    script.write_text(TOY.format(here=str(Path(referee.__file__).parent)))

    def make(name, shift=0, more=0):
        settings = {"threads": 1, "log": str(tmp_path / "log"), "name": name, "shift": shift, "more": more}
        return Runner(Peer(name, str(script), sys.executable, {}), settings)

    return make


def test_all_run_the_same_requests_forwards_and_backwards(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(referee, "SETTLE", 0)
    rounds = [requests_of("W1", "q06", i) for i in range(2)]
    with toy(OURS) as ours, toy("other", shift=1) as other, toy("twin") as twin:
        (tmp_path / "log").unlink()  # of warming up
        row = race({OURS: ours, "other": other, "twin": twin}, rounds)
    assert (tmp_path / "log").read_text().split() == [
        word for name in (OURS, "other", "twin", "twin", "other", OURS) for word in (name, "16")
    ]
    engines = row["engines"]
    assert {name: said["equal_greedy_tokens"] for name, said in engines.items()} == {
        OURS: 1,
        "other": 0,
        "twin": 1,
    }
    assert engines[OURS]["ratio_of_minivllm"] == {"median": 1, "min": 1, "max": 1}
    assert row["output_tokens"] == sum(r.output_len for r in rounds[0])
    assert engines["other"]["peak_mib"] > 1
    assert ours.process.returncode == other.process.returncode == 0


def test_an_engine_that_ends_is_named(toy, capfd):
    with pytest.raises(SystemExit, match="short ended with exit code 1"), toy("short", more=-1) as runner:
        runner.ask([([5], 3)])
    assert "another number of tokens" in capfd.readouterr().err


def test_token_ids_are_new_in_each_round_and_lengths_are_not():
    first, second = (requests_of("W3", "tiny", i) for i in range(2))
    assert [len(r.prompt_token_ids) for r in first] == [len(r.prompt_token_ids) for r in second] == [528] * 32
    assert all(a.prompt_token_ids != b.prompt_token_ids for a, b in zip(first, second, strict=True))
    (alone,) = requests_of("W2", "tiny", 0)
    assert (len(alone.prompt_token_ids), alone.output_len) == (64, 128)


def test_only_who_is_installed_takes_part():
    parser = argparse.ArgumentParser()
    referee.add_arguments(parser)
    ours_and_theirs = [OURS, "transformers, static batches of 8"]
    none = ["--vllm-python", "", "--openvino-python", ""]
    assert [p.name for p in peers(parser.parse_args(none))] == ours_and_theirs
    with_vllm = parser.parse_args(["--vllm-python", "python-of-vllm", "--openvino-python", ""])
    assert [p.name for p in peers(with_vllm)] == [*ours_and_theirs, "vLLM, compiled", "vLLM, eager"]
    assert peers(with_vllm)[2].python == "python-of-vllm"
    fewer = parser.parse_args([*none, "--without", "transformers, static batches of 8"])
    assert [p.name for p in peers(fewer)] == [OURS]
