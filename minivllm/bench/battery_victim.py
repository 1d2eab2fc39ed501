"""Who must not notice the battery: a victim whose text never changes, and whoever asks after clients were cut off."""

from __future__ import annotations

import http.client
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from minivllm.bench.battery_send import Report, check_health
from minivllm.bench.hostile import COMPLETIONS
from minivllm.bench.live_server import read_state, wait_until_idle
from minivllm.bench.serve_client import Target

VICTIM = {"prompt": "Once upon a time", "max_tokens": 100, "temperature": 0.8, "seed": 7, "ignore_eos": True}
LONG = {"max_tokens": 1900, "ignore_eos": True, "stream": True}


class Victim:
    """Streams one request over and over, in a thread."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self.texts = [self._stream()]  # the first while nothing else happens
        self._errors: list[str] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Finish the stream under way, and no other."""
        self._stop.set()
        self._thread.join()

    def failures(self) -> list[str]:
        """What the victim noticed of the battery."""
        if len(set(self.texts)) > 1:
            self._errors.append(f"the victim's text changed: {len(set(self.texts))} texts")
        return [f"victim: {error}" for error in self._errors]

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self.texts.append(self._stream())
            except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
                self._errors.append(f"{type(error).__name__}: {error}")
                return

    def _stream(self) -> str:
        connection = self._target.connect()
        try:
            body = json.dumps({**VICTIM, "stream": True})
            connection.request("POST", self._target.path(COMPLETIONS), body, self._target.headers)
            lines = connection.getresponse().read().decode().split("\n\n")
        finally:
            connection.close()
        if lines[-2:] != ["data: [DONE]", ""]:
            raise ValueError(f"the stream ended with {lines[-2:]}")
        return "".join(json.loads(line[6:])["choices"][0]["text"] for line in lines[:-2])


def cut_off_clients(target: Target, num_clients: int, report: Report) -> dict[str, Any]:
    """So many clients leave at the same moment, each in the middle of its stream."""
    begun = threading.Barrier(num_clients + 1)

    def client(index: int) -> None:
        connection = target.connect()
        try:
            body = json.dumps({"prompt": f"Client {index}", **LONG})
            connection.request("POST", target.path(COMPLETIONS), body, target.headers)
            connection.getresponse().readline()
        finally:
            begun.wait()
            connection.close()

    with ThreadPoolExecutor(num_clients) as pool:
        clients = [pool.submit(client, index) for index in range(num_clients)]
        while begun.n_waiting < num_clients:
            time.sleep(0.05)
        busy = read_state(target)
        begun.wait()
        for one in clients:
            if error := one.exception():
                report.failures.append(f"cut off: a client got {type(error).__name__}: {error}")
    left = time.perf_counter()
    check_health(target, "cut off", report)
    answered = time.perf_counter() - left
    state = wait_until_idle(target, 30)
    idle = time.perf_counter() - left
    if not state.is_idle:
        report.failures.append(f"cut off: not idle after 30 s: {state}")
    if answered > 5:
        report.failures.append(f"cut off: the next answer took {answered:.1f} s")
    return {
        "clients": num_clients,
        "running_before": busy.num_running,
        "waiting_before": busy.num_waiting,
        "blocks_before": busy.num_blocks_in_use,
        "blocks_after": state.num_blocks_in_use,
        "running_after": state.num_running,
        "waiting_after": state.num_waiting,
        "next_answer_s": round(answered, 3),
        "idle_after_s": round(idle, 3),
    }
