"""Draw the block map of a live engine in the middle of serving a few requests: the picture in the README."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from minivllm.llm import LLM
from minivllm.sampling_params import SamplingParams
from minivllm.viz.block_map import to_svg, to_text

QUESTIONS = ("What is a KV cache?", "What is copy-on-write?", "Tell me a story about a fox.")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `python -m minivllm.bench picture`."""
    parser.add_argument(
        "--svg", metavar="PATH", help="write the picture there; the text version is printed anyway"
    )
    parser.add_argument(
        "--steps", type=int, default=18, help="engine steps before the picture is taken (default: 18)"
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Three questions, the last with three choices that share its prompt; one question was answered before."""
    llm = LLM("tutor", num_gpu_blocks_override=48, block_size=8, max_model_len=256)
    chats = [[{"role": "user", "content": question}] for question in QUESTIONS]
    llm.chat([chats[0]], SamplingParams(temperature=0, max_tokens=24), use_tqdm=False)
    engine, tokenizer = llm.llm_engine, llm.get_tokenizer()
    for question, chat in zip(QUESTIONS, chats, strict=True):
        ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
        many = question == QUESTIONS[-1]
        params = (
            SamplingParams(n=3, seed=1, max_tokens=100)
            if many
            else SamplingParams(temperature=0, max_tokens=100)
        )
        engine.add_request(question, {"prompt_token_ids": ids}, params)
    for _ in range(args.steps):
        engine.step()
    block_map = engine.block_map()
    labels = {i: i.partition("_")[2] + f" (choice {i[0]})" if i[1:2] == "_" else i for i in block_map.holders}
    print(to_text(block_map))
    if args.svg:
        Path(args.svg).write_text(to_svg(block_map, labels), encoding="utf-8")
    return {"steps": args.steps, "holders": {k: list(v) for k, v in block_map.holders.items()}}
