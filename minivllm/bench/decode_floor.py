"""Decoding speed of a random-weight model, eager and with CUDA graphs, as a share of what memory allows.

A decode step cannot be faster than reading all weights once: the floor is their bytes over the bandwidth of a copy
(what it reads plus what it writes), measured in the same run. An embedding that is not tied to the output head is left
out: of it a step reads one row for each token. The model needs no checkpoint, only a shape: Qwen3-0.6B's or an 8B's.
--smoke runs a tiny one, on a CPU too: to see that it works, not how fast.
"""

from __future__ import annotations

import argparse
import gc
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from minivllm import LLM, SamplingParams
from minivllm.bench.kernels import Timer, copy_bandwidth, find_device

QWEN3 = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "dtype": "bfloat16",
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "vocab_size": 151936,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 4096,
    "rope_theta": 1000000.0,
}
SHAPES: dict[str, dict[str, Any]] = {
    "0.6B": {
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "tie_word_embeddings": True,
    },
    "8B": {
        "hidden_size": 4096,
        "intermediate_size": 12288,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "tie_word_embeddings": False,
    },
}
TINY: dict[str, Any] = SHAPES["8B"] | {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 64,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `python -m minivllm.bench decode-floor`."""
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES), help="(default: all)")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 64], help="(default: 1 8 64)")
    parser.add_argument("--output-len", type=int, default=128, help="tokens of each request (default: 128)")
    parser.add_argument("--smoke", action="store_true", help="a tiny shape and few tokens, on any device")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure, and print a line for each case."""
    device = find_device("decode-floor", args.smoke)
    shapes = {name: QWEN3 | SHAPES[name] for name in args.shapes}
    if args.smoke:
        shapes, args.batches, args.output_len = {"tiny": QWEN3 | TINY}, [1, 3], 4
    copy = copy_bandwidth(Timer(device, args.smoke))
    rows = []
    for name, shape in shapes.items():
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "config.json").write_text(json.dumps(shape))
            for eager in (True, False):
                free_memory(device)
                llm = LLM(folder, load_format="dummy", enforce_eager=eager, max_num_seqs=max(args.batches))
                for batch in args.batches:
                    row = {"shape": name, "mode": "eager" if eager else "CUDA graphs", "batch": batch}
                    rows.append(row | measure(llm, shape, batch, args.output_len, copy))
                    print(rows[-1], flush=True)
                llm.llm_engine.shutdown()
                del llm
    return {"smoke": args.smoke, "copy_bytes_per_second": copy, "rows": rows}


def free_memory(device: str) -> None:
    """Give back what nobody holds any more: an engine takes most of what it finds free."""
    gc.collect()  # an engine's parts know one another: without this its memory stays taken
    if device == "cuda":
        torch.cuda.empty_cache()


def measure(llm: LLM, shape: dict[str, Any], batch: int, output_len: int, copy: float) -> dict[str, float]:
    """Tokens per second of `batch` requests, beside the floor."""
    vocab_size: int = shape["vocab_size"]
    prompts = [{"prompt_token_ids": [(7 * i + j) % vocab_size for j in range(32)]} for i in range(batch)]
    params = SamplingParams(temperature=0, max_tokens=output_len, ignore_eos=True)
    llm.generate(prompts, SamplingParams(temperature=0, max_tokens=4, ignore_eos=True), use_tqdm=False)
    start = time.perf_counter()
    llm.generate(prompts, params, use_tqdm=False)
    speed = batch * output_len / (time.perf_counter() - start)
    weights = sum(report.parameter_bytes for report in llm.llm_engine.executor.report())
    if not shape["tie_word_embeddings"]:
        weights -= vocab_size * shape["hidden_size"] * torch.bfloat16.itemsize
    return {"output_tokens_per_second": speed, "share_of_floor": speed / batch * weights / copy}
