"""Our engine as a contestant."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from protocol import Engine, Request, serve

from minivllm import LLM, SamplingParams


def load(settings: dict[str, Any]) -> tuple[Engine, str]:
    """Our defaults, with as many seats and tokens of budget as everybody has."""
    llm = LLM(
        settings["model"],
        dtype=settings["dtype"],
        max_model_len=settings["max_model_len"],
        max_num_seqs=settings["max_num_seqs"],
        max_num_batched_tokens=settings["max_num_batched_tokens"],
    )

    def run(requests: Sequence[Request]) -> list[list[int]]:
        params = [
            SamplingParams(temperature=0, max_tokens=n, ignore_eos=True, detokenize=False)
            for _, n in requests
        ]
        outputs = llm.generate([prompt for prompt, _ in requests], params, use_tqdm=False)
        return [output.outputs[0].token_ids for output in outputs]

    return run, f"minivllm {version('minivllm')}"


if __name__ == "__main__":
    serve(load)
