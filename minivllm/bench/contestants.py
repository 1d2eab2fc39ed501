"""Who is measured: our engine, and transformers' generate as people use it. All greedy, with exact output lengths."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from minivllm.bench.workload import BenchRequest
from minivllm.config import resolve_model
from minivllm.llm import LLM
from minivllm.sampling_params import SamplingParams

Contestant = Callable[[Sequence[BenchRequest]], list[list[int]]]  # requests -> output tokens of each


def minivllm(model: str, **engine_args: Any) -> Contestant:
    """All requests submitted at once; the engine batches as it likes."""
    llm = LLM(model, **engine_args)

    def run(requests: Sequence[BenchRequest]) -> list[list[int]]:
        params = [
            SamplingParams(temperature=0, max_tokens=r.output_len, ignore_eos=True, detokenize=False)
            for r in requests
        ]
        outputs = llm.generate([r.prompt_token_ids for r in requests], params, use_tqdm=False)
        return [output.outputs[0].token_ids for output in outputs]

    return run


def transformers_static(model: str, batch_size: int) -> Contestant:
    """`generate` on padded batches in order of arrival: each batch runs until its longest answer is done."""
    from transformers import AutoModelForCausalLM

    network = AutoModelForCausalLM.from_pretrained(resolve_model(model), dtype=torch.float32).eval()
    network.generation_config.eos_token_id = None  # exact output lengths

    def run_batch(batch: Sequence[BenchRequest]) -> list[list[int]]:
        width = max(len(r.prompt_token_ids) for r in batch)
        ids = torch.tensor(
            [[0] * (width - len(r.prompt_token_ids)) + r.prompt_token_ids for r in batch]
        )  # left-padded
        mask = torch.tensor(
            [[0] * (width - len(r.prompt_token_ids)) + [1] * len(r.prompt_token_ids) for r in batch]
        )
        length = max(r.output_len for r in batch)
        with torch.inference_mode():
            out = network.generate(
                ids,
                attention_mask=mask,
                do_sample=False,
                max_new_tokens=length,
                pad_token_id=0,
            )
        return [out[i, width : width + r.output_len].tolist() for i, r in enumerate(batch)]

    def run(requests: Sequence[BenchRequest]) -> list[list[int]]:
        batches = [requests[i : i + batch_size] for i in range(0, len(requests), batch_size)]
        return [tokens for batch in batches for tokens in run_batch(batch)]

    return run
