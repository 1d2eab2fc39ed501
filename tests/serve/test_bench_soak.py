"""`bench soak`: it counts what it sends, and sees a leak, a changed answer and a growing latency."""

import argparse
import json
from dataclasses import replace

import pytest

from minivllm.bench import soak
from minivllm.bench.live_server import LiveServer, ServerState, read_state
from minivllm.bench.serve_client import Target, Timing
from minivllm.bench.soak_load import Tally
from minivllm.bench.soak_plot import draw


def arguments(*argv):
    parser = argparse.ArgumentParser()
    soak.add_arguments(parser)
    return parser.parse_args(argv)


def test_a_short_run_against_the_real_engine(real, tmp_path, capsys):
    plot = tmp_path / "soak.svg"
    result = soak.run(
        arguments(
            *("--base-url", real.url, "--minutes", "2", "--minute-seconds", "3", "--num-clients", "4"),
            *("--pause", "0", "--plot", str(plot)),
        )
    )
    assert result["failures"] == [] and result["summary"]["leaked_blocks"] == 0
    assert result["blocks"] == 149 and result["summary"]["answers_5xx"] == 0
    for row in result["rows"]:
        assert row["requests"] == sum(row["statuses"].values()) == sum(row["sent"].values()) > 0
    assert plot.read_text().startswith("<svg") and json.dumps(result)
    assert "nothing leaked" in capsys.readouterr().out


IDLE = ServerState(0, 0, 0.0, 149, 0, 0, 300 * 2**20)


class NoPeaks:
    num_running = num_waiting = num_blocks_in_use = 0


def row_of(minute, state=IDLE, timings=(), surprises=()):
    tally = Tally(timings=list(timings), surprises=list(surprises))
    figures = soak.figures(tally, state, NoPeaks())
    alone = {"alone_e2el_ms": 10.0, "yardstick_ms": 5.0, "alone_in_yardsticks": 2.0}
    return {"minute": minute, "preemptions": 0, **alone, **figures}


def test_a_block_that_is_not_free_again_is_a_failure():
    rows = [row_of(1), row_of(2, replace(IDLE, num_blocks_in_use=1))]
    (failure,) = soak.failures_of(rows, {"text"})
    assert "minute 2" in failure and "'blocks_in_use': 1" in failure
    assert soak.summarize(rows, {"text"})["leaked_blocks"] == 1


def test_changed_answers_and_surprises_are_failures():
    assert soak.failures_of([row_of(1)], {"text"}) == []
    assert "2 ways" in soak.failures_of([row_of(1)], {"text", "tixt"})[0]
    assert "0 ways" in soak.failures_of([row_of(1)], set())[0]
    assert "status 500" in soak.failures_of([row_of(1, surprises=["chat: status 500"])], {"text"})[0]


def test_figures_and_growth_by_hand():
    slow, fast = Timing(0.4, [0.02, 0.04], 0.46, 5, 3), Timing(0.1, [0.01, 0.01], 0.12, 5, 3)
    rows = [row_of(1, timings=[fast]), row_of(2, timings=[fast, slow]), row_of(3, timings=[slow])]
    assert [row["p50_ttft_ms"] for row in rows] == pytest.approx([100, 250, 400])
    assert rows[2]["p50_itl_ms"] == pytest.approx(30) and rows[1]["output_tokens_timed"] == 6
    growth = soak.summarize(rows, {"text"})["last_third_to_first"]
    assert growth["p50_ttft_ms"] == pytest.approx(4) and growth["idle_rss_mib"] == 1


def test_the_picture_holds_every_minute():
    drawing = draw({"rows": [row_of(1), row_of(2)], "blocks": 149})
    assert "of 149" in drawing.alt and "2 points" in drawing.alt and "unknown" in drawing.alt


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [(["--minutes", "0"], "minutes"), (["--pause", "nan"], "pause"), (["--num-clients", "0"], "num_clients")],
)
def test_wrong_arguments_get_a_sentence(argv, sentence):
    with pytest.raises(SystemExit, match=sentence):
        soak.run(arguments(*argv))


def test_a_server_that_is_not_there_gets_a_sentence():
    with pytest.raises(SystemExit, match="cannot be reached"):
        soak.run(arguments("--base-url", "http://127.0.0.1:9", "--minutes", "1"))


def test_a_server_that_nobody_entered_ends_with_its_object():
    server = LiveServer(())
    process = server._process
    assert process.poll() is None
    del server
    assert process.poll() is not None


def test_a_server_that_does_not_start_says_why_and_is_not_entered_again():
    server = LiveServer(("no-such-model",))
    for sentence in ("no-such-model", "has been ended"):
        with pytest.raises(ValueError, match=sentence), server:
            pass


def test_state_of_a_server(real):
    real.wait_until_idle()
    state = read_state(Target(real.url, "tutor"))
    assert state.is_idle and state.num_blocks == 149
    assert not replace(state, num_blocks_in_use=1).is_idle and not replace(state, num_waiting=1).is_idle
