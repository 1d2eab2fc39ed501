"""The headline figures: those of the book are those of the results, and one command measures and draws them."""

import argparse
import json
import re
import subprocess
from pathlib import Path

import pytest

from minivllm.bench import figures
from minivllm.bench.__main__ import COMMANDS
from minivllm.bench.headlines import HEADLINES
from minivllm.bench.report import RESULTS

ROOT = Path(__file__).resolve().parents[2]
BOOK = ROOT / "book"


def run(*arguments):
    parser = argparse.ArgumentParser()
    figures.add_arguments(parser)
    return figures.run(parser.parse_args([str(each) for each in arguments]))


def of(name):
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def spec_result():
    row = {"target": "tutor", "method": "ngram", "prompts": "stories", "greedy_tokens_equal": True}
    rows = [{**row, "batch_size": 1, "speedup": 1.25}, {**row, "batch_size": 8, "speedup": 0.5}]
    rows.append({**row, "batch_size": 1, "prompts": "set 95%", "speedup": 3.0})
    return {"num_speculative_tokens": 4, "rows": rows}


def test_the_committed_page_and_plots_are_those_of_the_committed_results(tmp_path):
    """If this is red after a new measurement: `make figures`."""
    run("--book", tmp_path)
    drawn = sorted(path.name for path in (tmp_path / "images").iterdir())
    assert drawn == sorted(path.name for path in (BOOK / "images").glob("figure_*.svg"))
    for name in drawn:
        again = (tmp_path / "images" / name).read_text(encoding="utf-8")
        assert again == (BOOK / "images" / name).read_text(encoding="utf-8"), name
    assert figures.page_text() == (BOOK / "figures.md").read_text(encoding="utf-8")


def test_numbers_on_the_page_are_those_of_the_files():
    page = (BOOK / "figures.md").read_text(encoding="utf-8")
    throughput, prefix, waste = of("throughput"), of("prefix-caching"), of("kv-waste")
    (ratio,) = throughput["ratio_of_minivllm_to"].values()
    assert f"{ratio:.1f} times that of transformers" in page
    assert f"{prefix['speedup']:.1f} times as fast" in page
    assert f"{100 * waste['rows'][0]['paged_waste']:.1f}%" in page
    for name in ("throughput", "prefix-caching", "kv-waste"):
        assert f"{of(name)['date']}, commit {of(name)['commit']}" in page


def test_a_plot_has_the_lengths_of_its_result():
    svg = (BOOK / "images" / "figure_batching.svg").read_text(encoding="utf-8")
    first, second = (float(x) for x in re.findall(r'<rect x="16" y="[\d.]+" width="([\d.]+)"', svg)[:2])
    rows = of("batching")["rows"]
    assert first / second == pytest.approx(rows["continuous"]["steps"] / rows["static"]["steps"], abs=0.01)


def test_what_is_written_in_a_plot_fits_into_it():
    for path in (BOOK / "images").glob("figure_*.svg"):
        for size, text in re.findall(
            r'font-size="(\d+)"[^>]*>([^<]*)</text>', path.read_text(encoding="utf-8")
        ):
            assert 0.6 * int(size) * len(text) < 444, (path.name, text)


def test_every_headline_is_a_benchmark_and_says_what_differs():
    for headline in HEADLINES:
        assert headline.name in COMMANDS
        assert headline.claimed.endswith(".") and headline.differs.endswith(".")


def test_what_has_no_result_is_said_to_have_none(tmp_path):
    assert run("--results", tmp_path / "none", "--book", tmp_path)["figures"] == []
    page = (tmp_path / "figures.md").read_text(encoding="utf-8")
    assert page.count("Not measured yet") == len(HEADLINES) and "Found:" not in page


def test_speculation_is_drawn_by_batch_size(tmp_path):
    provenance = {
        "date": "2000-01-01",
        "commit": "abc",
        "gpu": None,
        "cores": 2,
        "processor": "x",
        "threads": 1,
    }
    (tmp_path / "spec-decode.json").write_text(json.dumps({**provenance, **spec_result()}))
    assert run("--results", tmp_path, "--book", tmp_path, "--only", "spec-decode")["figures"] == [
        "spec-decode"
    ]
    page = (tmp_path / "figures.md").read_text(encoding="utf-8")
    assert "From 0.50 to 1.25 times the speed with real drafts; from 3.00 to 3.00 times" in page
    assert "4 tokens are drafted, the greedy tokens are equal." in page
    assert "batches of 8: real drafts: no speculation 1, ngram, stories 0.50." in page
    assert "batches of 1: drafts right at a set rate: no speculation 1, ngram, set 95% 3.00." in page


def test_measure_runs_each_benchmark_by_its_own_command(tmp_path, monkeypatch):
    commands = []

    def pretend(command, check):
        commands.append(command[1:])
        Path(command[-1]).write_text((RESULTS / f"{command[3]}.json").read_text(encoding="utf-8"))
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", pretend)
    run("--measure", "--only", "sharing", "--results", tmp_path, "--book", tmp_path)
    assert commands == [["-m", "minivllm.bench", "sharing", "--json", str(tmp_path / "sharing.json")]]
    assert (tmp_path / "images" / "figure_sharing.svg").is_file()


def test_a_benchmark_that_fails_and_a_name_that_is_none_are_told(tmp_path, monkeypatch):
    failed = subprocess.CompletedProcess([], 1)
    monkeypatch.setattr(subprocess, "run", lambda command, check: failed)
    with pytest.raises(SystemExit, match="sharing` did not succeed"):
        run("--measure", "--only", "sharing", "--results", tmp_path, "--book", tmp_path)
    with pytest.raises(SystemExit, match="--only must be among throughput, .*, not nonsense"):
        run("--only", "nonsense", "--book", tmp_path)
