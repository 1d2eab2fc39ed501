"""The command line: EngineConfig's fields in vLLM's spelling, and the server's own flags, in groups.

Flags that are known and not served are in refusals.py; `--config` is read by config_file.py.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from minivllm.config import (
    ATTENTION_BACKENDS,
    DTYPES,
    EXECUTOR_BACKENDS,
    KV_CACHE_DTYPES,
    LOAD_FORMATS,
    PREEMPTION_MODES,
    QUANTIZATIONS,
    SCHEDULING_POLICIES,
    TOKENIZER_MODES,
    EngineConfig,
)
from minivllm.presets import PRESETS, preset_arguments
from minivllm.serve.refusals import add_old_spellings, add_refused_flags, check_refused
from minivllm.serve.settings import (
    MIB,
    TOOL_CALL_PARSERS,
    ListenSettings,
    ServerSettings,
    read_template,
)
from minivllm.vllm_arguments import with_speculation

LOG_LEVELS = ("critical", "error", "warning", "info", "debug", "trace")
_SWITCH: dict[str, Any] = {"action": argparse.BooleanOptionalAction}
_ON: dict[str, Any] = {"action": "store_true"}

SHORT_FLAGS = {
    "tensor_parallel_size": ["-tp"],
    "pipeline_parallel_size": ["-pp"],
    "data_parallel_size": ["-dp"],
    "quantization": ["-q"],
}

# group -> field of EngineConfig -> (keywords of add_argument, help)
ENGINE_FLAGS: dict[str, dict[str, tuple[dict[str, Any], str]]] = {
    "model": {
        "tokenizer": ({}, "folder or hub id of the tokenizer; default: the model's own"),
        "tokenizer_mode": ({"choices": TOKENIZER_MODES}, "both are the Hugging Face tokenizer"),
        "revision": ({}, "revision of a hub id"),
        "download_dir": (
            {"metavar": "PATH"},
            "where the hub's files are put; default: the Hugging Face cache",
        ),
        "trust_remote_code": (_ON, "let a tokenizer run its own code (a model never may)"),
        "load_format": ({"choices": LOAD_FORMATS}, "dummy = random weights"),
        "dtype": (
            {"choices": DTYPES},
            "auto = the checkpoint's on a GPU; on a CPU float32, or bfloat16 for large models where it is fast",
        ),
        "device": ({}, "auto = cuda where there is one, else cpu"),
        "attention_backend": ({"choices": ATTENTION_BACKENDS}, "how attention is computed"),
        "quantization": (
            {"choices": QUANTIZATIONS},
            "how weights are stored; default: what the checkpoint says",
        ),
        "enforce_eager": (_SWITCH, "no padded decode batches, which a GPU replays as CUDA graphs"),
        "seed": ({"type": int}, "seed of requests that bring none"),
        "max_model_len": ({"type": int}, "tokens of prompt and answer together; default: the model's"),
        "max_logprobs": ({"type": int}, "most logprobs that a request may ask for"),
    },
    "KV cache": {
        "block_size": ({"type": int}, "tokens in a block"),
        "gpu_memory_utilization": ({"type": float}, "share of a GPU's memory to use, in (0, 1]"),
        "kv_cache_dtype": (
            {"choices": KV_CACHE_DTYPES},
            "type of keys and values; auto = the model's, fp8 = 8-bit floats (e4m3): more blocks, some precision less",
        ),
        "kv_cache_memory_bytes": ({"type": int}, "size of the KV cache; default: found out"),
        "num_gpu_blocks_override": ({"type": int}, "number of blocks, set outright"),
        "enable_prefix_caching": (_SWITCH, "share blocks of equal beginnings"),
    },
    "scheduler": {
        "max_num_seqs": ({"type": int}, "requests in one step"),
        "max_num_batched_tokens": ({"type": int}, "tokens in one step"),
        "enable_chunked_prefill": (_SWITCH, "compute long prompts in pieces"),
        "long_prefill_token_threshold": ({"type": int}, "longest piece of a prompt; 0 = no limit of its own"),
        "scheduling_policy": ({"choices": SCHEDULING_POLICIES}, "who comes first"),
        "max_num_queued_reqs": ({"type": int}, "more waiting requests than this are refused with 503"),
        "preemption_mode": (
            {"choices": PREEMPTION_MODES},
            "what happens to the blocks of a preempted request",
        ),
        "swap_space": ({"type": float}, "GiB of CPU memory for the blocks of preempted requests"),
        "enable_static_batching": (_ON, "no continuous batching, to see what it is worth"),
    },
    "speculation": {
        "speculative_config": (
            {"metavar": "JSON"},
            'who drafts tokens ahead, such as {"method": "ngram", "num_speculative_tokens": 4}',
        ),
        "speculative_model": ({}, "a draft model, or [ngram]; the older way to say it"),
        "num_speculative_tokens": ({"type": int}, "tokens that it drafts in a step"),
    },
    "parallel": {
        "tensor_parallel_size": ({"type": int}, "ranks that share every layer"),
        "pipeline_parallel_size": ({"type": int}, "stages of consecutive layers"),
        "data_parallel_size": ({"type": int}, "copies of the whole model behind one door"),
        "distributed_executor_backend": (
            {"choices": EXECUTOR_BACKENDS},
            "default: one process for one rank, several for more",
        ),
    },
}

# group -> flag of the server -> keywords of add_argument
SERVER_FLAGS: dict[str, dict[str, dict[str, Any]]] = {
    "server": {
        "host": {
            "default": "127.0.0.1",
            "help": "address to listen on (default: 127.0.0.1, this machine only, where vLLM listens to everyone; "
            "0.0.0.0 = everyone who can reach this machine: then also set --api-key)",
        },
        "port": {"type": int, "default": 8000, "help": "port (default: 8000; 0 = any free one)"},
        "uds": {"metavar": "PATH", "help": "listen on this Unix socket instead"},
        "root-path": {"default": "", "help": "what a proxy cuts off in front of every path"},
        "ssl-keyfile": {
            "metavar": "PATH",
            "help": "private key: with --ssl-certfile the server speaks HTTPS",
        },
        "ssl-certfile": {"metavar": "PATH", "help": "its certificate"},
        "api-key": {
            "nargs": "+",
            "metavar": "KEY",
            "help": "all but the page's own files, health checks and metrics asks for one of these keys "
            "(default: $VLLM_API_KEY, or no key)",
        },
        "allowed-origins": {
            "nargs": "+",
            "metavar": "ORIGIN",
            "default": [],
            "help": "other web pages that may call, such as https://example.org (default: none)",
        },
        "h11-max-incomplete-event-size": {
            "type": int,
            "default": 4 * MIB,
            "help": "most bytes of a request's headers (default: 4194304)",
        },
        "h11-max-header-count": {"type": int, "default": 256, "help": "most headers (default: 256)"},
        "shutdown-timeout": {
            "type": float,
            "default": 0.0,
            "help": "seconds that running requests get to finish after SIGTERM (default: 0)",
        },
        "disable-fastapi-docs": {**_ON, "help": "no /docs and no /openapi.json"},
        "disable-xray": {**_ON, "help": "no live picture of the engine on the page"},
    },
    "answers": {
        "served-model-name": {
            "nargs": "+",
            "metavar": "NAME",
            "help": "names for requests; the first is reported",
        },
        "chat-template": {"help": "a Jinja file, or Jinja itself; default: the tokenizer's own"},
        "response-role": {"default": "assistant", "help": "role of the answer (default: assistant)"},
        "enable-auto-tool-choice": {**_ON, "help": "let the model decide whether to call a tool"},
        "tool-call-parser": {"choices": TOOL_CALL_PARSERS, "help": "the form in which the model calls tools"},
        "enable-prompt-tokens-details": {**_ON, "help": "tell in `usage` what the prefix cache saved"},
        "enable-force-include-usage": {**_ON, "help": "end every stream with its usage"},
        "return-tokens-as-token-ids": {
            **_ON,
            "help": "write token_id:17 for the text of a token in logprobs",
        },
        "sse-keep-alive-interval": {
            "type": float,
            "default": 0.0,
            "help": "seconds of silence after which a stream sends a comment (default: 0 = never)",
        },
    },
    "course": {
        "mine": {
            "nargs": "?",
            "const": "",
            "metavar": "PARTS",
            "help": "run your own parts of the engine, such as allocator,sampler; without names, all of yours that "
            "pass their smoke tier",
        },
        "shadow": {
            "metavar": "PARTS",
            "help": "run these parts of yours and the reference in lockstep, and stop where they differ",
        },
    },
    "logs": {
        "enable-log-requests": {**_ON, "help": "one line for each request, with its id"},
        "enable-request-id-headers": {**_ON, "help": "send X-Request-Id with every response"},
        "enable-server-load-tracking": {**_ON, "help": "/load counts the requests being answered"},
        "log-level": {
            "choices": LOG_LEVELS,
            "help": "of minivllm's own lines (default: $VLLM_LOGGING_LEVEL, or info)",
        },
        "uvicorn-log-level": {"choices": LOG_LEVELS, "default": "info", "help": "(default: info)"},
        "log-json": {**_ON, "help": "one JSON object for each line of the log"},
    },
}


def make_parser() -> argparse.ArgumentParser:
    """The command line; engine flags that are not given stay away, so that EngineConfig's defaults hold."""
    parser = argparse.ArgumentParser(
        prog="python -m minivllm.serve",
        description="Serve a model over OpenAI's HTTP API, with a chat page at /.",
        usage="%(prog)s [MODEL] [flags]",
        allow_abbrev=False,
    )
    parser.add_argument("model_tag", nargs="?", metavar="MODEL", help="the same as --model")
    parser.add_argument("--config", metavar="YAML", help="a file of flags; those on the command line win")
    parser.add_argument("--preset", choices=PRESETS, help="four limits at once, see minivllm/presets.py")
    for title, flags in ENGINE_FLAGS.items():
        _add_engine_flags(parser.add_argument_group(title), flags, with_model=title == "model")
    for title, server_flags in SERVER_FLAGS.items():
        group = parser.add_argument_group(title)
        for name, keywords in server_flags.items():
            group.add_argument(f"--{name}", **keywords)
    add_old_spellings(parser)
    add_refused_flags(parser)
    return parser


def _add_engine_flags(
    group: argparse._ArgumentGroup, flags: Mapping[str, tuple[dict[str, Any], str]], *, with_model: bool
) -> None:
    defaults = {field.name: field.default for field in fields(EngineConfig)}
    if with_model:
        text = f"a shipped model's name, a folder, or a hub id (default: {defaults['model']})"
        group.add_argument("--model", default=argparse.SUPPRESS, help=text)
    for name, (keywords, text) in flags.items():
        shown = "" if defaults[name] is None else f" (default: {defaults[name]})"
        names = [f"--{name.replace('_', '-')}", *SHORT_FLAGS.get(name, ())]
        text = (text + shown).replace("%", "%%")
        group.add_argument(*names, default=argparse.SUPPRESS, help=text, **keywords)


def read_arguments(arguments: dict[str, Any]) -> tuple[EngineConfig, ServerSettings]:
    """The engine's configuration and the server's settings.

    Raises:
        ValueError: a value is out of range, a flag is not served, or the model is named twice.
    """
    check_refused(arguments)
    arguments = with_speculation(arguments)
    tag, model = arguments["model_tag"], arguments.get("model")
    if tag and model and tag != model:
        raise ValueError(f"the model is named twice, as {tag!r} and by --model {model!r}: give one")
    known = {field.name for field in fields(EngineConfig)}
    given = {name: value for name, value in arguments.items() if name in known}
    if tag:
        given["model"] = tag
    if arguments["preset"]:
        given = preset_arguments(arguments["preset"], given)
    config = EngineConfig(**given)
    same_names = {field.name for field in fields(ServerSettings)} & arguments.keys()
    special = {"chat_template", "allowed_origins"}
    template = arguments["chat_template"]
    keys = arguments["api_key"] or [key for key in [os.environ.get("VLLM_API_KEY")] if key]
    settings = ServerSettings(
        **{name: arguments[name] for name in same_names - special},
        served_model_names=tuple(arguments["served_model_name"] or [config.model]),
        api_keys=tuple(keys),
        allowed_origins=tuple(arguments["allowed_origins"]),
        chat_template=None if template is None else read_template(template),
        enable_docs=not arguments["disable_fastapi_docs"],
        enable_xray=not arguments["disable_xray"],
        max_header_count=arguments["h11_max_header_count"],
    )
    return config, settings


def read_listen_arguments(arguments: dict[str, Any]) -> ListenSettings:
    """Where to listen.

    Raises:
        ValueError: a value is out of range.
    """
    same_names = {field.name for field in fields(ListenSettings)} & arguments.keys() - {"log_level"}
    return ListenSettings(
        **{name: arguments[name] for name in same_names},
        log_level=arguments["uvicorn_log_level"],
        max_incomplete_event_size=arguments["h11_max_incomplete_event_size"],
    )


def log_level_of(arguments: dict[str, Any]) -> str:
    """The level of minivllm's own log: the flag, else the environment variable, else info.

    Raises:
        ValueError: the variable holds no level.
    """
    level = (arguments["log_level"] or os.environ.get("VLLM_LOGGING_LEVEL") or "info").lower()
    if level not in LOG_LEVELS:
        raise ValueError(f"VLLM_LOGGING_LEVEL must be one of {', '.join(LOG_LEVELS)}, not {level[:40]!r}")
    return level
