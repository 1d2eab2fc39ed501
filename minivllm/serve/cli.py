"""`python -m minivllm.serve [model] [flags]`: EngineConfig's fields in vLLM's spelling, and the server's own flags."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from minivllm.config import (
    ATTENTION_BACKENDS,
    DTYPES,
    LOAD_FORMATS,
    PREEMPTION_MODES,
    SCHEDULING_POLICIES,
    EngineConfig,
    resolve_model,
)
from minivllm.serve.settings import ServerSettings

LOG_LEVELS = ("critical", "error", "warning", "info", "debug", "trace")

# group -> field of EngineConfig -> (keywords of add_argument, help)
ENGINE_FLAGS: dict[str, dict[str, tuple[dict[str, Any], str]]] = {
    "model": {
        "tokenizer": ({}, "folder or hub id of the tokenizer; default: the model's own"),
        "revision": ({}, "revision of a hub id"),
        "trust_remote_code": (
            {"action": "store_true"},
            "let a tokenizer run its own code (a model never may)",
        ),
        "load_format": ({"choices": LOAD_FORMATS}, "dummy = random weights"),
        "dtype": (
            {"choices": DTYPES},
            "auto = the checkpoint's on a GPU; on a CPU float32, or bfloat16 for large models where it is fast",
        ),
        "device": ({}, "auto = cuda where there is one, else cpu"),
        "attention_backend": ({"choices": ATTENTION_BACKENDS}, "how attention is computed"),
        "enforce_eager": (
            {"action": argparse.BooleanOptionalAction},
            "accepted; CUDA graphs are not built yet",
        ),
        "seed": ({"type": int}, "seed of requests that bring none"),
        "max_model_len": ({"type": int}, "tokens of prompt and answer together; default: the model's"),
        "max_logprobs": ({"type": int}, "most logprobs that a request may ask for"),
    },
    "KV cache": {
        "block_size": ({"type": int}, "tokens in a block"),
        "gpu_memory_utilization": ({"type": float}, "share of a GPU's memory to use, in (0, 1]"),
        "kv_cache_memory_bytes": ({"type": int}, "size of the KV cache; default: found out"),
        "num_gpu_blocks_override": ({"type": int}, "number of blocks, set outright"),
        "enable_prefix_caching": (
            {"action": argparse.BooleanOptionalAction},
            "share blocks of equal beginnings",
        ),
    },
    "scheduler": {
        "max_num_seqs": ({"type": int}, "requests in one step"),
        "max_num_batched_tokens": ({"type": int}, "tokens in one step"),
        "enable_chunked_prefill": (
            {"action": argparse.BooleanOptionalAction},
            "compute long prompts in pieces",
        ),
        "long_prefill_token_threshold": ({"type": int}, "longest piece of a prompt; 0 = no limit of its own"),
        "scheduling_policy": ({"choices": SCHEDULING_POLICIES}, "who comes first"),
        "max_num_queued_reqs": ({"type": int}, "more waiting requests than this are refused with 503"),
        "preemption_mode": (
            {"choices": PREEMPTION_MODES},
            "what happens to the blocks of a preempted request",
        ),
        "swap_space": ({"type": float}, "GiB of CPU memory for the blocks of preempted requests"),
        "enable_static_batching": (
            {"action": "store_true"},
            "no continuous batching, to see what it is worth",
        ),
    },
}


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until told to stop.

    Returns:
        The exit status: 0 after Ctrl-C or SIGTERM, 1 when the server could not start, 2 for a wrong flag.
    """
    parser = make_parser()
    arguments = vars(parser.parse_args(argv))
    try:
        engine_config, settings = read_arguments(arguments)
    except ValueError as error:
        parser.error(str(error))
    try:
        return _serve(engine_config, settings, arguments)
    except (ValueError, OSError) as error:
        print(f"minivllm.serve: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("minivllm.serve: stopped while starting.", file=sys.stderr)
        return 130


def make_parser() -> argparse.ArgumentParser:
    """The command line; engine flags that are not given stay away, so that EngineConfig's defaults hold."""
    parser = argparse.ArgumentParser(
        prog="python -m minivllm.serve",
        description="Serve a model over OpenAI's HTTP API, with a chat page at /.",
        allow_abbrev=False,
    )
    defaults = {field.name: field.default for field in fields(EngineConfig)}
    parser.add_argument("model_tag", nargs="?", metavar="MODEL", help="the same as --model")
    for title, flags in ENGINE_FLAGS.items():
        group = parser.add_argument_group(title)
        if title == "model":
            text = f"a shipped model's name, a folder, or a hub id (default: {defaults['model']})"
            group.add_argument("--model", default=argparse.SUPPRESS, help=text)
        for name, (keywords, text) in flags.items():
            shown = "" if defaults[name] is None else f" (default: {defaults[name]})"
            group.add_argument(
                f"--{name.replace('_', '-')}",
                default=argparse.SUPPRESS,
                help=text + shown.replace("%", "%%"),
                **keywords,
            )
    _add_server_flags(parser.add_argument_group("server"))
    return parser


def read_arguments(arguments: dict[str, Any]) -> tuple[EngineConfig, ServerSettings]:
    """The engine's configuration and the server's settings.

    Raises:
        ValueError: a value is out of range, or the model is named twice.
    """
    tag, model = arguments["model_tag"], arguments.get("model")
    if tag and model and tag != model:
        raise ValueError(f"the model is named twice, as {tag!r} and by --model {model!r}: give one")
    known = {field.name for field in fields(EngineConfig)}
    given = {name: value for name, value in arguments.items() if name in known}
    if tag:
        given["model"] = tag
    config = EngineConfig(**given)
    if not 0 <= arguments["port"] <= 65535:
        raise ValueError(f"--port must be in [0, 65535], not {arguments['port']}")
    keys = arguments["api_key"] or [key for key in [os.environ.get("VLLM_API_KEY")] if key]
    settings = ServerSettings(
        served_model_names=tuple(arguments["served_model_name"] or [config.model]),
        api_keys=tuple(keys),
        enable_docs=not arguments["disable_fastapi_docs"],
        enable_prompt_tokens_details=arguments["enable_prompt_tokens_details"],
    )
    return config, settings


def _add_server_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on (default: 127.0.0.1, this machine only, where vLLM listens to everyone; "
        "0.0.0.0 = everyone who can reach this machine: then also set --api-key)",
    )
    group.add_argument(
        "--port", type=int, default=8000, help="port to listen on (default: 8000; 0 = any free one)"
    )
    group.add_argument(
        "--served-model-name", nargs="+", metavar="NAME", help="names for requests; the first is reported"
    )
    group.add_argument(
        "--api-key",
        nargs="+",
        metavar="KEY",
        help="every route but /health, /ping and the page's own files asks for one of these keys "
        "(default: $VLLM_API_KEY, or no key)",
    )
    group.add_argument("--uvicorn-log-level", choices=LOG_LEVELS, default="info", help="(default: info)")
    group.add_argument(
        "--disable-fastapi-docs",
        action="store_true",
        help="no /docs (a page that loads its scripts from the web) and no /openapi.json",
    )
    group.add_argument(
        "--enable-prompt-tokens-details",
        action="store_true",
        help="tell in `usage` what the prefix cache saved",
    )


def _serve(engine_config: EngineConfig, settings: ServerSettings, arguments: dict[str, Any]) -> int:
    from minivllm.serve.server import bind, run_server  # --help needs none of this

    resolve_model(engine_config.model)  # a misspelt name is told before torch is loaded, which takes seconds
    sock = bind(arguments["host"], arguments["port"])
    try:
        from minivllm.async_engine import AsyncLLMEngine
        from minivllm.serve.app import create_app

        print(f"Loading {engine_config.model} ...", flush=True)
        engine = AsyncLLMEngine.from_config(engine_config)
        try:
            print(describe(engine, settings), flush=True)
            run_server(create_app(engine, settings), engine, sock, arguments["uvicorn_log_level"])
        finally:
            engine.shutdown(timeout=0.5)
    finally:
        sock.close()
    return 0


def describe(engine: Any, settings: ServerSettings) -> str:
    """What is served, for the terminal: the model, its KV cache, and what that is good for."""
    num_blocks, block_size = engine.stats.num_gpu_blocks, engine.config.block_size
    num_tokens = (num_blocks - 1) * block_size  # block 0 is the null block
    return (
        f"Serving {', '.join(settings.served_model_names)}: KV cache of {num_blocks:,} blocks of {block_size} tokens = "
        f"{num_tokens:,} tokens, room for {num_tokens / engine.max_model_len:.1f} requests of full length "
        f"({engine.max_model_len:,} tokens)"
    )
