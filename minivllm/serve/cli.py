"""`python -m minivllm.serve [model] [flags]`: from the command line to a running server."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence
from logging.config import dictConfig
from typing import Any

from minivllm.config import EngineConfig, resolve_model
from minivllm.parts import REFERENCE, Parts
from minivllm.serve.arguments import log_level_of, make_parser, read_arguments, read_listen_arguments
from minivllm.serve.config_file import expand_config
from minivllm.serve.settings import ListenSettings, ServerSettings


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until told to stop.

    Returns:
        The exit status: 0 after Ctrl-C or SIGTERM, 1 when the server could not start, 2 for a wrong flag.
    """
    parser = make_parser()
    try:
        arguments = vars(parser.parse_args(expand_config(sys.argv[1:] if argv is None else argv)))
        engine_config, settings = read_arguments(arguments)
        listen, level = read_listen_arguments(arguments), log_level_of(arguments)
    except ValueError as error:
        parser.error(str(error))
    try:
        return _serve(engine_config, settings, listen, level, _parts(arguments))
    except (ValueError, OSError) as error:
        print(f"minivllm.serve: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("minivllm.serve: stopped while starting.", file=sys.stderr)
        return 130
    finally:
        gc.enable()


def _parts(arguments: dict[str, Any]) -> Parts:
    if arguments["mine"] is None and arguments["shadow"] is None:
        return REFERENCE
    from minivllm.serve.learner_parts import learner_parts  # loads the course

    return learner_parts(arguments["mine"], arguments["shadow"])


def _serve(
    engine_config: EngineConfig, settings: ServerSettings, listen: ListenSettings, level: str, parts: Parts
) -> int:
    resolve_model(engine_config.model)  # a misspelt name is told before torch is loaded, which takes seconds
    if engine_config.executor_backend == "external_launcher" and os.environ.get("RANK", "0") != "0":
        from minivllm.async_engine import AsyncLLMEngine

        AsyncLLMEngine.from_config(
            engine_config, parts=parts
        )  # works for rank 0, which listens, and then exits
    gc.disable()  # what a start makes stays until the end: looking for garbage in it would take a tenth of the time
    from minivllm.serve.logs import log_config
    from minivllm.serve.server import bind, run_server  # --help needs none of this

    sock = bind(listen)
    try:
        from minivllm.async_engine import AsyncLLMEngine
        from minivllm.serve.app import create_app

        print(f"Loading {engine_config.model} ...", flush=True)
        logs = log_config(level, listen.log_json)
        dictConfig(logs)  # uvicorn would do it only after loading, which has something to tell
        engine = AsyncLLMEngine.from_config(engine_config, parts=parts)
        try:
            print(describe(engine, settings), flush=True)
            app = create_app(engine, settings)
            gc.freeze()  # nor is it looked at later
            gc.enable()
            run_server(app, engine, sock, listen, logs)
        finally:
            engine.shutdown(timeout=0.5)
    finally:
        sock.close()
    return 0


def describe(engine: Any, settings: ServerSettings) -> str:
    """What is served, for the terminal: the model, its KV cache, and what that is good for."""
    num_blocks, block_size = engine.stats.num_gpu_blocks, engine.config.block_size
    num_tokens = (
        num_blocks - engine.config.data_parallel_size
    ) * block_size  # block 0 of each replica is the null block
    return (
        f"Serving {', '.join(settings.served_model_names)}: KV cache of {num_blocks:,} blocks of {block_size} tokens = "
        f"{num_tokens:,} tokens, room for {num_tokens / engine.max_model_len:.1f} requests of full length "
        f"({engine.max_model_len:,} tokens)"
    )
