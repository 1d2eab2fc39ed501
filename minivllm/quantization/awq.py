"""Make a 4-bit AWQ checkpoint: `python -m minivllm.quantization.awq MODEL OUT --w-bit 4 --group-size 128`.

OUT becomes a folder in Hugging Face layout that `--quantization awq` serves here, and vLLM likewise. For each group of
matrices the report says how far the outputs are off on the calibration data, rounded to nearest and with AWQ's scales
(mean squared error). The calibration text should look like what the model will see; without one, the model writes it.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from minivllm.config import resolve_model
from minivllm.model_config import ModelConfig
from minivllm.quantization.awq_linear import GROUP_SIZES
from minivllm.quantization.awq_model import (
    apply_scale,
    linear_groups,
    quantize_layer,
    record_inputs,
    search_layer,
)
from minivllm.quantization.awq_search import GRID, NEAREST_ONLY

REPORT = "awq_report.json"


@dataclass(frozen=True)
class Row:
    """One line of the report."""

    name: str
    alpha: float
    rtn_error: float
    awq_error: float


def quantize(
    model: str, out: Path, batches: Sequence[Tensor], group_size: int, grid: Sequence[float] = GRID
) -> list[Row]:
    """Write the folder OUT, and return the report.

    Args:
        model: a shipped model's name, a folder in Hugging Face layout, or a hub id.
        out: where the checkpoint goes; must not exist, or be empty.
        batches: calibration data, token ids [b, t].
        group_size: inputs that share a scale; must divide the model's hidden and intermediate sizes.
        grid: the alphas to try, beginning with 0; (0,) = round to nearest.

    Raises:
        ValueError: the model cannot be read, or its sizes do not divide, or OUT holds something.
    """
    config = ModelConfig.from_pretrained(resolve_model(model))
    check(config, out, group_size)
    network = load(config)
    layers = linear_groups(network)
    inputs = record_inputs(network, [group for groups in layers for group in groups], batches)
    rows: list[Row] = []
    tensors: dict[str, Tensor] = {}
    for groups in tqdm(layers, desc="Quantizing", unit="layer"):
        results = list(search_layer(groups, inputs, group_size, grid))
        rows += [Row(group.name, r.alpha, r.rtn_error, r.error) for group, r in results]
        for group, result in results:
            if result.alpha > 0:
                apply_scale(group, result.scale)
        tensors |= quantize_layer(groups, group_size)
    write(config, network, tensors, out, group_size)
    (out / REPORT).write_text(json.dumps([vars(row) for row in rows], indent=2) + "\n", encoding="utf-8")
    return rows


def check(config: ModelConfig, out: Path, group_size: int) -> None:
    """Raise ValueError for what cannot work, before anything is loaded."""
    if config.raw.get("quantization_config"):
        raise ValueError("MODEL is already quantized; give the original.")
    attention = config.num_attention_heads * config.head_dim
    for name, size in (
        ("hidden_size", config.hidden_size),
        ("num_attention_heads * head_dim", attention),
        ("intermediate_size", config.intermediate_size),
    ):
        if size % group_size:
            raise ValueError(
                f"--group-size {group_size} does not divide the model's {name} ({size}); try a smaller one."
            )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"OUT: {out} exists and is not an empty folder.")


def load(config: ModelConfig) -> Any:
    """transformers' model in float32, on a GPU if there is one."""
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()  # the command has a bar of its own
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network: Any = AutoModelForCausalLM.from_pretrained(config.path, dtype=torch.float32)
    return network.to(device).eval()


def write(config: ModelConfig, network: Any, packed: dict[str, Tensor], out: Path, group_size: int) -> None:
    """The checkpoint: packed matrices, everything else in the type it had, config.json, and the tokenizer's files."""
    dtype = getattr(torch, config.dtype)
    quantized = {name.rpartition(".")[0] for name in packed}
    tensors = dict(packed)
    for name, tensor in network.state_dict().items():
        is_tied_head = name == "lm_head.weight" and config.tie_word_embeddings
        if name.removesuffix(".weight") not in quantized and not is_tied_head:
            tensors[name] = tensor.to("cpu", dtype).contiguous()
    out.mkdir(parents=True, exist_ok=True)
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    for file in config.path.iterdir():
        if file.is_file() and "safetensors" not in file.name and file.suffix not in (".bin", ".md"):
            shutil.copy(file, out)
    content = json.loads((config.path / "config.json").read_text(encoding="utf-8"))
    content["quantization_config"] = {
        "quant_method": "awq",
        "bits": 4,
        "group_size": group_size,
        "zero_point": True,
        "version": "gemm",
        "modules_to_not_convert": None,
    }
    (out / "config.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


# -- calibration data -----------------------------------------------------------------------------------------------


def batches_of_text(model: str, text: str, num_samples: int, seq_len: int) -> list[Tensor]:
    """The text's tokens, cut into at most num_samples rows of seq_len; each row is a batch.

    Raises:
        ValueError: the text is too short for one row.
    """
    from transformers import AutoTokenizer

    ids = AutoTokenizer.from_pretrained(resolve_model(model)).encode(
        text, add_special_tokens=False, verbose=False
    )
    rows = torch.tensor(ids[: num_samples * seq_len])
    if len(rows) < seq_len:
        raise ValueError(
            f"--calibration: {len(rows)} tokens are too few for one sample of {seq_len} (--seq-len)."
        )
    return list(rows[: len(rows) // seq_len * seq_len].view(-1, 1, seq_len))


def batches_by_the_model(model: str, num_samples: int, seq_len: int, seed: int = 0) -> list[Tensor]:
    """Text that the model writes itself, each sample beginning with a random token (self-calibration)."""
    network = load(ModelConfig.from_pretrained(resolve_model(model)))
    torch.manual_seed(seed)
    starts = torch.randint(network.config.vocab_size, (num_samples, 1), device=network.device)
    options = {"do_sample": True, "top_k": 0, "min_new_tokens": seq_len - 1, "max_new_tokens": seq_len - 1}
    written = network.generate(starts, attention_mask=torch.ones_like(starts), pad_token_id=0, **options)
    return list(written.cpu()[:, None])


# -- the command ----------------------------------------------------------------------------------------------------


def table(rows: Sequence[Row]) -> str:
    """The report, a line for each group of matrices."""
    lines = [f"{'matrices':44} {'alpha':>5} {'to nearest':>11} {'AWQ':>11} {'ratio':>6}"]
    for row in rows:
        ratio = row.awq_error / row.rtn_error if row.rtn_error else 1.0
        lines.append(
            f"{row.name:44} {row.alpha:5.2f} {row.rtn_error:11.3e} {row.awq_error:11.3e} {ratio:6.3f}"
        )
    return "\n".join(lines)


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m minivllm.quantization.awq", description=__doc__)
    parser.add_argument("model", metavar="MODEL", help="a shipped model's name, a folder, or a hub id")
    parser.add_argument("out", metavar="OUT", type=Path, help="the folder to write")
    parser.add_argument("--w-bit", type=int, choices=(4,), default=4, help="bits of a weight (default: 4)")
    parser.add_argument(
        "--group-size",
        type=int,
        choices=GROUP_SIZES,
        default=128,
        help="inputs that share a scale (default: 128)",
    )
    parser.add_argument("--calibration", type=Path, metavar="FILE", help="text; default: the model writes it")
    parser.add_argument("--num-samples", type=int, default=32, help="rows of calibration data (default: 32)")
    parser.add_argument("--seq-len", type=int, default=256, help="tokens of a row (default: 256)")
    parser.add_argument(
        "--round-to-nearest", action="store_true", help="no search: what AWQ is compared with"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Quantize, and print the report. Returns the exit status."""
    args = make_parser().parse_args(argv)
    try:
        if args.num_samples < 1 or args.seq_len < 2:
            raise ValueError("--num-samples must be at least 1, and --seq-len at least 2.")
        check(ModelConfig.from_pretrained(resolve_model(args.model)), args.out, args.group_size)
        if args.calibration:
            text = args.calibration.read_text(encoding="utf-8")
            batches = batches_of_text(args.model, text, args.num_samples, args.seq_len)
        else:
            batches = batches_by_the_model(args.model, args.num_samples, args.seq_len)
        grid = NEAREST_ONLY if args.round_to_nearest else GRID
        print(table(quantize(args.model, args.out, batches, args.group_size, grid)))
    except (ValueError, OSError) as error:
        print(f"minivllm.quantization.awq: {error}", file=sys.stderr)
        return 1
    size = (args.out / "model.safetensors").stat().st_size
    print(f"written: {args.out} ({size / 1e6:.1f} MB of weights)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
