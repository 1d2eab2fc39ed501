"""OpenVINO GenAI's continuous batching as a contestant, in the Python that it and optimum-intel are installed in."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from protocol import Engine, Request, serve


def load(settings: dict[str, Any]) -> tuple[Engine, str]:
    """Its own copy of the model is made the first time, beside the model."""
    import numpy as np
    import openvino as ov
    import openvino_genai as genai

    folder = Path(settings["model"] + "-openvino")
    if not (folder / "openvino_model.xml").exists():
        _export(settings["model"], folder, "fp32" if settings["dtype"] == "float32" else "fp16")
    scheduler = genai.SchedulerConfig()
    scheduler.cache_size = 2  # GiB
    scheduler.max_num_seqs = settings["max_num_seqs"]
    scheduler.max_num_batched_tokens = settings["max_num_batched_tokens"]
    scheduler.enable_prefix_caching = scheduler.dynamic_split_fuse = True
    properties: dict[str, Any] = {"INFERENCE_NUM_THREADS": settings["threads"]}
    if settings["exact"]:
        properties |= {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32"}
    pipeline = genai.ContinuousBatchingPipeline(str(folder), scheduler, "CPU", properties, {}, {})

    def run(requests: Sequence[Request]) -> list[list[int]]:
        configs = []
        for _, n in requests:
            config = genai.GenerationConfig()
            config.max_new_tokens = config.min_new_tokens = n
            config.ignore_eos, config.do_sample = True, False
            configs.append(config)
        prompts = [ov.Tensor(np.array([prompt], dtype=np.int64)) for prompt, _ in requests]
        return [list(result.m_generation_ids[0]) for result in pipeline.generate(prompts, configs)]

    return run, f"openvino-genai {genai.__version__}"


def _export(model: str, folder: Path, weights: str) -> None:
    program = Path(sys.executable).parent / "optimum-cli"
    task = ["export", "openvino", "--task", "text-generation-with-past", "--weight-format", weights]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    subprocess.run([program, *task, "--model", model, str(folder)], check=True, env=environment)


if __name__ == "__main__":
    serve(load)
