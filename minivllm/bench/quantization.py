"""Perplexity, accuracy and memory of one model with its weights stored in different ways, side by side.

Perplexity is exp of the mean negative logprob of the answers' tokens in held-out dialogues (questions are drawn at
random, and nobody can foresee them); accuracy is that of minivllm.zoo.evaluate. Both go through the engine, which
computes in float32 unless the line says bfloat16, so that lines differ by their weights alone. The AWQ checkpoints are
made on the way, calibrated on other dialogues. Beside it: the error of each layer's outputs on held-out dialogues, and
perplexity with so few bits that it hurts.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minivllm import LLM, SamplingParams
from minivllm.bench.quantization_layers import layer_errors, round_model
from minivllm.config import resolve_model

if TYPE_CHECKING:
    from torch import Tensor, nn

    from minivllm.zoo.rows import Row

SKILLS = "glossary,lookup_500,sort_listed,reverse_unseen,story_question,told"
FEW_BITS = (4, 3, 2)
ROOM = 2000  # blocks of KV cache: six engines are made, one after the other


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `python -m minivllm.bench quantization`."""
    parser.add_argument(
        "--model", default="tutor", help="tutor, or another with its tokenizer (default: tutor)"
    )
    parser.add_argument("--group-size", type=int, default=128, help="of the 4-bit weights (default: 128)")
    parser.add_argument("--num-rows", type=int, default=64, help="held-out rows of 256 tokens (default: 64)")
    parser.add_argument("--n", type=int, default=50, help="questions for each skill (default: 50; 0 = none)")
    parser.add_argument("--skills", default=SKILLS, help=f"comma-separated (default: {SKILLS})")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure, and print a table."""
    folder = Path(resolve_model(args.model))
    held_out = dialogues(folder, "held-out", args.num_rows)
    with tempfile.TemporaryDirectory() as scratch:
        variants: dict[str, dict[str, Any]] = {
            "float32": {"model": str(folder)},
            "bfloat16": {"model": str(folder), "dtype": "bfloat16"},
            "int8": {"model": str(folder), "quantization": "int8_per_channel_weight_only"},
            "fp8": {"model": str(folder), "quantization": "fp8"},
            "int4, to nearest": {"model": make_awq(folder, Path(scratch) / "rtn", args.group_size, False)},
            "int4, AWQ": {"model": make_awq(folder, Path(scratch) / "awq", args.group_size, True)},
        }
        rows = {name: measure(options, held_out, args) for name, options in variants.items()}
        _print(rows)
        few_bits = [
            few(folder, Path(scratch) / f"{bits}{method}", args.group_size, bits, method, held_out)
            for bits in FEW_BITS
            for method in ("nearest", "awq")
        ]
    unseen = [_tensor(row) for row in held_out[:32]]
    return {
        "model": args.model,
        "group_size": args.group_size,
        "num_rows": args.num_rows,
        "n": args.n,
        "rows": rows,
        "few_bits": few_bits,
        "layers": layer_errors(folder, calibration_batches(folder), unseen, args.group_size),
    }


def few(
    folder: Path, out: Path, group_size: int, bits: int, method: str, held_out: Sequence[Row]
) -> dict[str, Any]:
    """Perplexity with matrices that are rounded to so many bits, and kept as floats."""
    model = round_model(folder, out, calibration_batches(folder), group_size, bits, method == "awq")
    llm = LLM(model, dtype="float32", num_gpu_blocks_override=ROOM)
    found = perplexity(llm, held_out)
    print(f"{bits} bits, {method:8} perplexity {found:.4f}", flush=True)
    return {"bits": bits, "method": method, "perplexity": found}


def dialogues(folder: Path, seed: str, num_rows: int, length: int = 256) -> list[Row]:
    """Rows of generated dialogues, 256 tokens each."""
    from tokenizers import Tokenizer

    from minivllm.zoo.dialogue import Mixture
    from minivllm.zoo.lexicon import load_lexicon
    from minivllm.zoo.rows import make_row

    tokenizer, lexicon = Tokenizer.from_file(str(folder / "tokenizer.json")), load_lexicon()
    return [make_row(lexicon, tokenizer, f"{seed}:{i}", length, Mixture()) for i in range(num_rows)]


def make_awq(folder: Path, out: Path, group_size: int, search: bool) -> str:
    """Quantize to 4 bits, with AWQ's search or without; the folder's name."""
    from minivllm.quantization.awq import quantize
    from minivllm.quantization.awq_search import GRID, NEAREST_ONLY

    quantize(str(folder), out, calibration_batches(folder), group_size, GRID if search else NEAREST_ONLY)
    return str(out)


def calibration_batches(folder: Path) -> list[Tensor]:
    """32 rows of dialogues that are in no other set."""
    return [_tensor(row) for row in dialogues(folder, "calibration", 32)]


def _tensor(row: Row) -> Tensor:
    import torch

    return torch.tensor([row.ids])  # [1, 256]


def measure(options: dict[str, Any], held_out: Sequence[Row], args: argparse.Namespace) -> dict[str, Any]:
    """One line of the table."""
    asked: dict[str, Any] = {"dtype": "float32", "num_gpu_blocks_override": ROOM} | options
    llm = LLM(**asked)
    executor: Any = llm.llm_engine.executor  # one process: the model is at hand
    num_bytes, num_weights = matrix_sizes(executor.runner.model)
    row: dict[str, Any] = {
        "matrix_megabytes": num_bytes / 1e6,
        "bits_per_weight": 8 * num_bytes / num_weights,
        "perplexity": perplexity(llm, held_out),
    }
    if args.n > 0:
        row["percent_right"] = accuracy(llm, Path(options["model"]), args.skills.split(","), args.n)
    return row


def matrix_sizes(model: nn.Module) -> tuple[int, int]:
    """(bytes, weights) of the layers' matrices, scales and zero points included; embeddings and norms stay as they are.

    A layer whose weights are stored in few bits keeps them beside scales, as parameters or buffers of its own.
    """
    num_bytes = num_weights = 0
    for name, module in model.named_modules():
        if name.endswith("_proj"):
            own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
            num_bytes += sum(tensor.numel() * tensor.element_size() for tensor in own)
            num_weights += sum(
                _weights_in(key, tensor) for key, tensor in module.named_parameters(recurse=False)
            )
    return num_bytes, num_weights


def _weights_in(name: str, tensor: Tensor) -> int:
    per_element = {"weight": 1, "qweight": 8}  # a word of AWQ holds eight
    return per_element.get(name, 0) * tensor.numel()


def perplexity(llm: LLM, rows: Sequence[Row]) -> float:
    """exp of the mean negative logprob of the tokens that belong to answers."""
    params = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0)
    outputs = llm.generate([{"prompt_token_ids": row.ids} for row in rows], params, use_tqdm=False)
    logprobs = [
        entry[token].logprob
        for row, output in zip(rows, outputs, strict=True)
        for token, skill, entry in zip(row.ids, row.skills, output.prompt_logprobs or [], strict=True)
        if skill and entry is not None
    ]
    return math.exp(-sum(logprobs) / len(logprobs))


def accuracy(llm: LLM, folder: Path, skills: Sequence[str], count: int) -> dict[str, float]:
    """Percent of right answers for each skill, on questions that training never saw."""
    from tokenizers import Tokenizer

    from minivllm.zoo.evaluate import measure as measure_skill
    from minivllm.zoo.lexicon import load_lexicon

    tokenizer, lexicon = Tokenizer.from_file(str(folder / "tokenizer.json")), load_lexicon()
    return {skill: measure_skill(llm, tokenizer, lexicon, skill, count)[0].percent for skill in skills}


def _print(rows: dict[str, dict[str, Any]]) -> None:
    skills = list(next(iter(rows.values())).get("percent_right", {}))
    print(f"{'weights':18} {'bits':>7} {'perplexity':>11}" + "".join(f" {skill:>15}" for skill in skills))
    for name, row in rows.items():
        right = "".join(f" {row['percent_right'][skill]:13.1f} %" for skill in skills)
        print(f"{name:18} {row['bits_per_weight']:7.2f} {row['perplexity']:11.4f}{right}")
