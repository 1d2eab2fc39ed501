"""Microseconds of CPU time that the scheduler takes for a step, by number of running requests. No model runs."""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

from minivllm.core.kv_cache_manager import KVCacheManager
from minivllm.core.scheduler import Scheduler, SchedulerConfig
from minivllm.request import Request
from minivllm.sampling_params import SamplingParams

PROMPT_LEN = 128
NUM_STEPS = 200


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `python -m minivllm.bench scheduler-cost`."""
    parser.add_argument(
        "--running", type=int, nargs="*", default=[1, 64, 256, 1024], help="(default: 1 64 256 1024)"
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Decode steps of `running` requests, all past their prompt."""
    rows = [measure(count) for count in args.running]
    for row in rows:
        print(
            f"{row['running']:5} running: {row['schedule_us']:8.1f} us schedule, {row['update_us']:8.1f} us update, "
            f"{row['us_per_request']:6.2f} us for each request"
        )
    return {"prompt_len": PROMPT_LEN, "steps": NUM_STEPS, "rows": rows}


def measure(num_running: int) -> dict[str, float]:
    """Medians over `NUM_STEPS` decode steps."""
    blocks_each = -(-(PROMPT_LEN + NUM_STEPS + 2) // 16)
    manager = KVCacheManager(1 + num_running * blocks_each, 16)
    budget = num_running * PROMPT_LEN
    limits = SchedulerConfig(max_num_seqs=num_running, max_num_batched_tokens=budget, max_model_len=4096)
    scheduler = Scheduler(limits, manager)
    params = SamplingParams(max_tokens=4000)
    for number in range(num_running):
        prompt = [number * PROMPT_LEN + i for i in range(PROMPT_LEN)]
        scheduler.add_request(Request(str(number), prompt, params, max_tokens=NUM_STEPS + 2))
    schedule_times, update_times = [], []
    for _ in range(NUM_STEPS + 1):
        start = time.thread_time()
        output = scheduler.schedule()
        scheduled = time.thread_time()
        scheduler.update_from_output(output, {request_id: [1] for request_id in output.num_scheduled_tokens})
        schedule_times.append(scheduled - start)
        update_times.append(time.thread_time() - scheduled)
    schedule, update = (statistics.median(times[1:]) * 1e6 for times in (schedule_times, update_times))
    return {
        "running": num_running,
        "schedule_us": round(schedule, 1),
        "update_us": round(update, 1),
        "us_per_request": round((schedule + update) / num_running, 2),
    }
