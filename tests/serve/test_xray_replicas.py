"""Data-parallel replicas: the X-ray shows each of them by itself, and the page has a switch between them.

The replicas here run in this process; that they run in processes of their own is tests/parallel's business.
"""

import json
import time
from dataclasses import replace

import pytest

from minivllm import data_parallel
from minivllm.config import EngineConfig
from minivllm.engine import LLMEngine

NUM_BLOCKS = 60


@pytest.fixture(scope="module")
def two(serve):
    """A server over two replicas of the tutor."""

    def replicas(config, parts):
        return [LLMEngine(replace(config, data_parallel_size=1), parts, replica) for replica in range(2)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data_parallel, "_start_replicas", replicas)
        config = EngineConfig(model="tutor", num_gpu_blocks_override=NUM_BLOCKS, data_parallel_size=2)
        both = data_parallel.DataParallelEngine(config)
    return serve(both, served_model_names=("tutor",))


@pytest.fixture(autouse=True)
def idle_afterwards(two):
    yield
    two.wait_until_idle()


class Stream:
    """The events of /xray?replica=N, read on demand."""

    def __init__(self, server, replica):
        self._context = server.http.stream("GET", f"{server.url}/xray?replica={replica}", timeout=30)
        self._lines = self._context.__enter__().iter_lines()
        self.state = self._next()["state"]
        self.frames = []

    def _next(self):
        return json.loads(next(line for line in self._lines if line.startswith("data: "))[6:])

    def until_finished(self, num_requests, seconds=20):
        deadline = time.monotonic() + seconds
        while sum(event[0] == "finish" for frame in self.frames for event in frame["events"]) < num_requests:
            assert time.monotonic() < deadline, self.frames[-3:]
            self.frames += self._next()["frames"]

    def count(self, kind):
        return sum(event[2] for frame in self.frames for event in frame["events"] if event[0] == kind)

    def close(self):
        self._context.__exit__(None, None, None)


def test_each_replica_has_an_xray_of_its_own(two):
    streams = [Stream(two, replica) for replica in range(2)]
    assert [(s.state["replica"], s.state["num_replicas"]) for s in streams] == [(0, 2), (1, 2)]
    assert all(s.state["num_blocks"] == NUM_BLOCKS for s in streams)
    body = {"prompt": ["Once upon a time", "A fox", "The mill", "Rain"], "max_tokens": 9, "ignore_eos": True}
    assert two.post("/v1/completions", json=body).status_code == 200
    shares = [sum(replica.stats().finished.values()) for replica in two.engine.replicas]
    assert sum(shares) == 4 and min(shares) > 0  # the router gives each of them some
    for stream, share in zip(streams, shares, strict=True):
        stream.until_finished(share)
        numbers = [frame["number"] for frame in stream.frames]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        assert stream.count("sample") == share * 9
        assert sum(len(frame["ttft"]) for frame in stream.frames) == share  # of its own requests only
        usage = max(frame["usage"] for frame in stream.frames)
        assert usage <= share / (NUM_BLOCKS - 1) + 1e-4  # of its own blocks: each request has one
        stream.close()


def test_a_replica_that_is_none_is_told(two, server):
    for url, number in ((two, 2), (two, -1)):
        error = url.get(f"/xray?replica={number}").json()["error"]
        assert error["code"] == 404 and error["param"] == "replica" and "[0, 1]" in error["message"]
    error = two.get("/xray?replica=x").json()["error"]
    assert error["code"] == 400 and error["param"] == "replica"


def test_at_rest_no_block_is_in_use(two):
    """Every replica has a null block, which is not counted."""
    status = two.get("/status").json()
    assert (status["num_blocks_in_use"], status["num_blocks"]) == (0, 2 * (NUM_BLOCKS - 1))


@pytest.mark.browser
def test_page_switches_between_replicas(two, slow_steps, open_chromium):
    from selenium.webdriver.support.ui import Select

    slow_steps(two.engine)
    browser = open_chromium("window-size=1400,1000")

    def until(condition):
        deadline = time.monotonic() + 40
        while not condition():
            assert time.monotonic() < deadline, browser.find_element("id", "xray").text
            time.sleep(0.05)

    try:
        browser.get(two.url)
        until(lambda: browser.find_element("id", "replica").is_displayed())
        assert len(Select(browser.find_element("id", "replica")).options) == 2
        for number in ("1", "0"):
            Select(browser.find_element("id", "replica")).select_by_value(number)
            browser.find_element("id", "send-20").click()
            until(lambda: int(browser.find_element("id", "num-running").text) == 10)
            until(lambda: browser.find_element("id", "num-running").text == "0")
    finally:
        browser.quit()
