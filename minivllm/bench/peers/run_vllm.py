"""vLLM on a CPU as a contestant, in the Python that it is installed in."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from protocol import Engine, Request, serve


def load(settings: dict[str, Any]) -> tuple[Engine, str]:
    """Engine and referee's pipe in one process, so that the peak memory is all of it."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")  # GiB
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", f"0-{settings['threads'] - 1}")
    os.environ.setdefault("VLLM_CPU_NUM_OF_RESERVED_CPU", "0")
    os.environ |= {"VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1", "VLLM_LOGGING_LEVEL": "WARNING"}
    import vllm

    llm = vllm.LLM(
        model=settings["model"],
        dtype=settings["dtype"],
        max_model_len=settings["max_model_len"],
        max_num_seqs=settings["max_num_seqs"],
        max_num_batched_tokens=settings["max_num_batched_tokens"],
        enforce_eager=settings["eager"],
        disable_log_stats=True,
    )

    def run(requests: Sequence[Request]) -> list[list[int]]:
        params = [
            vllm.SamplingParams(temperature=0, max_tokens=n, min_tokens=n, ignore_eos=True, detokenize=False)
            for _, n in requests
        ]
        prompts = [{"prompt_token_ids": prompt} for prompt, _ in requests]
        outputs = llm.generate(prompts, params, use_tqdm=False)
        return [list(output.outputs[0].token_ids) for output in outputs]

    return run, f"vllm {vllm.__version__}"


if __name__ == "__main__":
    serve(load)
