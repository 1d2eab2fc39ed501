"""The X-ray: frames that add up to the engine's own state, viewers that come, go and lag, the picture in Chromium."""

import json
import threading
import time

import pytest

from minivllm.serve import xray

BODY = {
    "prompt": ["Once upon a time"] * 3 + ["A fox"] * 2,
    "max_tokens": 12,
    "temperature": 1,
    "ignore_eos": True,
}


@pytest.fixture(autouse=True)
def nobody_watches_afterwards(real):
    yield
    real.wait_until_idle()
    deadline = time.monotonic() + 5
    while "allocate_slots" in vars(real.engine.kv_cache_manager):  # the recorder's wrapper
        assert time.monotonic() < deadline, "the recorder was left in place"
        time.sleep(0.01)


class Viewer:
    """Reads /xray in a thread of its own, as the page does."""

    def __init__(self, server) -> None:
        self.states, self.frames = [], []
        self.ready = threading.Event()
        self._stop = threading.Event()
        self._server = server
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        assert self.ready.wait(10)

    def _read(self):
        with self._server.http.stream("GET", self._server.url + "/xray", timeout=30) as response:
            for line in response.iter_lines():
                if line.startswith("data: "):
                    event = json.loads(line[6:])
                    self.states += [event["state"]] if "state" in event else []
                    self.frames += event.get("frames", [])
                    self.ready.set()
                if self._stop.is_set():
                    return

    def until(self, condition, seconds=10):
        deadline = time.monotonic() + seconds
        while not condition(self.events()):
            assert time.monotonic() < deadline, self.events()[-5:]
            time.sleep(0.02)

    def events(self):
        return [event for frame in self.frames for event in frame["events"]]

    def leave(self, server):
        self._stop.set()
        server.post(
            "/v1/completions", json={"prompt": "a", "max_tokens": 3, "ignore_eos": True}
        )  # one more line
        self._thread.join(15)
        assert not self._thread.is_alive()


def add_up(state, frames):
    """Tables and cached blocks after the frames: written from the meaning of the events, not from the page's code."""
    tables = {int(number): list(blocks) for number, blocks in state["tables"].items()}
    cached = set(state["cached"])
    for kind, number, *detail in (event for frame in frames for event in frame["events"]):
        if kind in ("hit", "alloc"):
            tables[number] = tables.get(number, []) + detail[0]
        elif kind == "copy":
            tables[number] = [detail[0][1] if block == detail[0][0] else block for block in tables[number]]
        elif kind == "fork":
            tables[number] = list(detail[0])
        elif kind == "free":
            tables[number] = [block for block in tables[number] if block not in detail[0]]
            if not tables[number]:
                del tables[number]
        elif kind == "cache":
            cached |= set(detail[0])
        elif kind == "evict":
            cached -= set(detail[0])
    return tables, cached


def test_frames_add_up_to_the_engines_own_state(real):
    viewer = Viewer(real)
    answer = real.post("/v1/completions", json={**BODY, "n": 2, "prompt": BODY["prompt"]}).json()
    viewer.until(lambda events: sum(event[0] == "finish" for event in events) == 10)
    assert answer["usage"]["completion_tokens"] == 120
    events = viewer.events()
    assert sum(event[2] for event in events if event[0] == "sample") == 120
    assert [frame["number"] for frame in viewer.frames] == list(
        range(viewer.frames[0]["number"], viewer.frames[0]["number"] + len(viewer.frames))
    )
    tables, cached = add_up(viewer.states[0], viewer.frames)
    assert tables == {}
    blocks = real.engine.kv_cache_manager.pool.blocks
    assert cached == {block.block_id for block in blocks if block.block_hash is not None}
    batches = [frame["batch"] for frame in viewer.frames if "batch" in frame]
    assert max(len(batch) for batch in batches) == 10
    assert all(sum(count for _, count, _ in batch) <= viewer.states[0]["budget"] for batch in batches)
    assert sum(len(frame["ttft"]) for frame in viewer.frames) == 5  # one for each prompt
    assert "cmpl-" not in json.dumps(viewer.frames)  # no id of a client is shown
    viewer.leave(real)


def test_viewer_that_comes_in_the_middle_sees_the_same(real):
    early = Viewer(real)
    body = {**BODY, "max_tokens": 150}
    asking = threading.Thread(target=lambda: real.post("/v1/completions", json=body))
    asking.start()
    early.until(lambda events: sum(event[0] == "sample" for event in events) > 20)
    late = Viewer(real)
    asking.join(60)
    for viewer in (early, late):
        viewer.until(lambda events: sum(event[0] == "finish" for event in events) == 5)
    assert late.states[0]["tables"] and len(late.states[0]["running"]) == 5
    first = late.states[0]["number"]
    assert [f for f in late.frames if f["number"] > first] == [f for f in early.frames if f["number"] > first]
    frames = [frame for frame in late.frames if frame["number"] > first]
    assert add_up(late.states[0], frames) == add_up(early.states[0], early.frames)
    early.leave(real)
    late.leave(real)


def test_viewer_who_does_not_read_is_let_go(real, monkeypatch):
    """Bounded: the queue of one viewer never grows, the others and the engine go on."""
    import asyncio

    feed = xray.XrayFeed(real.async_engine)

    async def lag() -> list[bytes]:
        queue = asyncio.Queue(3)
        feed._viewers.add(queue)
        for number in range(10):
            feed._frames.append({"number": number})
            feed._send_frames()
        assert queue not in feed._viewers
        return [queue.get_nowait() for _ in range(queue.qsize())]

    assert asyncio.run(lag()) == [None]


def test_only_so_many_watch(real, monkeypatch):
    monkeypatch.setattr(xray, "MAX_VIEWERS", 1)
    viewer = Viewer(real)
    refused = real.get("/xray")
    assert refused.status_code == 503 and "watch" in refused.json()["error"]["message"]
    viewer.leave(real)


def test_xray_asks_for_the_key_and_can_be_turned_off(fake, serve):
    guarded = serve(fake.FakeEngine(), api_keys=("k",), enable_xray=False)
    assert guarded.get("/xray").status_code == 401
    headers = {"Authorization": "Bearer k"}
    assert guarded.get("/xray", headers=headers).status_code == 404
    assert guarded.get("/status", headers=headers).json()["has_xray"] is False


@pytest.mark.browser
def test_picture_moves_and_can_be_replayed(real, slow_steps, open_chromium):
    slow_steps(real.engine)
    browser = open_chromium("window-size=1400,1000")

    def text(element_id):
        return browser.find_element("id", element_id).text

    def until(condition, seconds=40):
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, browser.find_element("id", "xray").text
            time.sleep(0.05)

    try:
        browser.get(real.url)
        until(lambda: "of 149 in use" in text("map-sum"))  # 150 blocks, one of them the null block
        browser.find_element("id", "send-shared").click()
        until(lambda: len(browser.find_elements("css selector", "#running-list .chip")) == 8)
        until(lambda: " 0 shared" not in text("map-sum") and text("ttft").endswith("ms"))
        assert int(text("hits").split()[0]) > 0 and "tokens" in text("batch-sum")
        assert "in use" in browser.find_element("id", "map").get_attribute("aria-label")
        until(lambda: text("num-running") == "0" and text("map-sum").startswith("0 of 149"))
        script = "const m = document.getElementById('moment'); m.value = m.max / 2; m.dispatchEvent(new Event('input'))"
        browser.execute_script(script)
        until(lambda: text("num-running") != "0" and text("moment-text").endswith("s ago"))
        browser.find_element("id", "live").click()
        until(lambda: text("num-running") == "0" and text("moment-text") == "now")
        browser.find_element("id", "show-xray").click()
        assert not browser.find_element("id", "xray").is_displayed()
        assert not [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    finally:
        browser.quit()
