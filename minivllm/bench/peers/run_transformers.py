"""`generate` of transformers as a contestant: left-padded batches in order of arrival, each to its longest answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import transformers
from protocol import Engine, Request, serve

BATCH_SIZE = 8


def load(settings: dict[str, Any]) -> tuple[Engine, str]:
    """The model in the type that was asked for, on all threads."""
    torch.set_num_threads(settings["threads"])
    dtype = getattr(torch, settings["dtype"])
    network = transformers.AutoModelForCausalLM.from_pretrained(settings["model"], dtype=dtype).eval()
    network.generation_config.eos_token_id = None  # exact numbers of tokens

    @torch.inference_mode()
    def run_batch(batch: Sequence[Request]) -> list[list[int]]:
        width = max(len(prompt) for prompt, _ in batch)
        ids = torch.zeros(len(batch), width, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, (prompt, _) in enumerate(batch):
            ids[row, width - len(prompt) :] = torch.tensor(prompt)
            mask[row, width - len(prompt) :] = 1
        length = max(n for _, n in batch)
        out = network.generate(
            ids, attention_mask=mask, do_sample=False, max_new_tokens=length, pad_token_id=0
        )
        return [out[row, width : width + n].tolist() for row, (_, n) in enumerate(batch)]

    def run(requests: Sequence[Request]) -> list[list[int]]:
        batches = [requests[i : i + BATCH_SIZE] for i in range(0, len(requests), BATCH_SIZE)]
        return [tokens for batch in batches for tokens in run_batch(batch)]

    return run, f"transformers {transformers.__version__}"


if __name__ == "__main__":
    serve(load)
