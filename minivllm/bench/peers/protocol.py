"""What a contestant's process and the referee say to each other: JSON lines over pipes. Standard library only.

This file and the `run_*.py` beside it run in the Python of the engine that they drive, where minivllm may be missing.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

Request = tuple[list[int], int]  # prompt token ids, exact number of tokens to generate
Engine = Callable[[Sequence[Request]], list[list[int]]]
ENDED = "the engine generated another number of tokens than was asked for"


def serve(load: Callable[[dict[str, Any]], tuple[Engine, str]]) -> None:
    """Load the engine with the settings of the first line, then answer each further line until the pipe closes.

    An answer has the seconds, the tokens and the peak memory of the process so far. Whatever the engine prints goes to
    stderr.
    """
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    settings = json.loads(sys.stdin.readline())
    start = time.perf_counter()
    engine, version = load(settings)
    engine([(list(range(3, 20)), 8)] * 4)  # whatever is made at first use
    print(json.dumps({"version": version, "seconds": time.perf_counter() - start}), file=answers)
    for line in sys.stdin:
        requests = json.loads(line)
        start = time.perf_counter()
        tokens = engine(requests)
        seconds = time.perf_counter() - start
        assert [len(t) for t in tokens] == [n for _, n in requests], ENDED
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts KiB
        tokens = [[int(token) for token in row] for row in tokens]
        print(json.dumps({"seconds": seconds, "tokens": tokens, "peak_bytes": peak}), file=answers)
