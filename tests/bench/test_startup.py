"""The time of a start: its parts, and what it is compared with."""

import argparse
import json

import pytest

from minivllm.bench import startup
from minivllm.bench.__main__ import COMMANDS


def test_a_start_has_its_parts(monkeypatch):
    monkeypatch.setattr(startup, "TORCH", "pass")
    monkeypatch.setattr(startup, "TRANSFORMERS", "print({path!r})")
    parser = argparse.ArgumentParser()
    startup.add_arguments(parser)
    result = startup.run(parser.parse_args(["--model", "tutor-draft", "--rounds", "1"]))
    assert json.loads(json.dumps(result)) == result
    medians = {part: spread["median"] for part, spread in result["parts"].items()}
    assert list(medians) == ["imports", "engine", "app", "first answer"] and min(medians.values()) > 0
    assert result["ready"]["median"] == pytest.approx(sum(medians.values()), abs=0.01)
    assert result["times_import_torch"]["median"] > 1 and (result["rss_mib"] or 100) > 50
    assert COMMANDS["startup"] is startup


def test_a_server_that_does_not_start_tells_why():
    with pytest.raises(ValueError, match="did not start:\n.*no-such-model"):
        startup.seconds_of_serve("./no-such-model")
