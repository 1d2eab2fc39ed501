"""The cost of scale: every cell is measured on a full batch, and only the measured steps run the model."""

import argparse
import json

import pytest

from minivllm.bench import scale


def run(*arguments):
    parser = argparse.ArgumentParser()
    scale.add_arguments(parser)
    return scale.run(parser.parse_args([str(each) for each in arguments]))


def test_rows_and_plot(tmp_path):
    picture = tmp_path / "scale.svg"
    result = run(
        *("--requests", 1, 3, "--context", 40, "--contexts", 9, 70, "--batch", 2, "--steps", 2),
        *("--starts", 0, "--model", "tutor-draft", "--plot", picture),
    )
    assert json.loads(json.dumps(result)) == result
    cells = [(row["requests"], row["context"]) for row in result["by_requests"] + result["by_context"]]
    assert cells == [(1, 40), (3, 40), (2, 9), (2, 70)]
    for row in result["by_requests"] + result["by_context"]:
        assert 0 < row["ms_in_model"] < row["ms_per_step"]
    assert (
        result["kv_bytes_per_token"] == 2 * 2 * 4 * 16 * 4
    )  # layers, key and value, kv heads, head size, float32
    drawn = picture.read_text()
    assert "by requests of 40 tokens" in drawn and "of 2 requests" in drawn


@pytest.mark.parametrize(
    ("num_requests", "budget"), [(2, scale.BUDGET), (6, 64)], ids=["one step", "many steps"]
)
def test_prompts_skip_the_model_and_measured_steps_run_all_requests(monkeypatch, num_requests, budget):
    monkeypatch.setattr(scale, "BUDGET", budget)  # of prompt tokens in a step
    llm = scale._load("tutor-draft", [(num_requests, 50)], 3)
    runner, sizes = llm.llm_engine.executor.runner, []
    forward = type(runner.model).forward
    monkeypatch.setattr(
        type(runner.model), "forward", lambda self, x, *rest: sizes.append(len(x)) or forward(self, x, *rest)
    )
    scale.measure(llm, num_requests, 50, 3)
    assert sizes == [num_requests] * 4  # one step more than asked for: the first is dropped
    assert not llm.llm_engine.has_unfinished_requests()
    assert llm.llm_engine.stats().kv_cache_usage == 0
