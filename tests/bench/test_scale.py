"""The cost of scale: every cell is measured on a full batch, and only the measured steps run the model."""

import argparse
import json

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


def test_prompts_skip_the_model_and_measured_steps_do_not(monkeypatch):
    llm = scale._load("tutor-draft", [(2, 50)], 3)
    runner, sizes = llm.llm_engine.executor.runner, []
    forward = type(runner.model).forward
    monkeypatch.setattr(
        type(runner.model), "forward", lambda self, x, *rest: sizes.append(len(x)) or forward(self, x, *rest)
    )
    scale.measure(llm, 2, 50, 3)
    assert sizes == [2] * 4  # one step more than asked for: the first is dropped
    assert not llm.llm_engine.has_unfinished_requests()
    assert llm.llm_engine.stats().kv_cache_usage == 0


def test_all_requests_run_in_each_measured_step_where_prompts_take_many_steps(monkeypatch):
    monkeypatch.setattr(scale, "BUDGET", 64)
    llm = scale._load("tutor-draft", [(6, 50)], 3)
    runner, sizes = llm.llm_engine.executor.runner, []
    forward = type(runner.model).forward
    monkeypatch.setattr(
        type(runner.model), "forward", lambda self, x, *rest: sizes.append(len(x)) or forward(self, x, *rest)
    )
    scale.measure(llm, 6, 50, 3)
    assert sizes == [6] * 4
