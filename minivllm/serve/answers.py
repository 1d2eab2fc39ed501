"""Asking the program what it says to an input that it does not serve: the sentences of book/compatibility.md."""

from __future__ import annotations

import asyncio
import contextlib
import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

from minivllm.serve.arguments import make_parser, read_arguments

NUM_BLOCKS = 64  # of the engine that is asked
Probe = Mapping[str, Any]


class Answers:
    """Asks the program what it says to an input that it does not serve."""

    def sentence(self, probe: Probe) -> str:
        """What a user reads.

        Raises:
            AssertionError: the input is served.
        """
        ((kind, given),) = probe.items()
        ask: dict[str, Callable[[Any], str | None]] = {
            "flags": self._flags,
            "llm": self._llm,
            "prompt": self._prompt,
            "post": self._post,
        }
        said = ask[kind](given)
        assert said, f"{probe} is served: the table says that it is not"
        return said

    def _flags(self, words: Sequence[str]) -> str | None:
        out = io.StringIO()
        with contextlib.redirect_stderr(out):
            try:
                read_arguments(vars(make_parser().parse_args(list(words))))
            except ValueError as error:
                return str(error)
            except SystemExit:
                return out.getvalue().splitlines()[-1].partition(" error: ")[2]
        return out.getvalue().strip().removeprefix("minivllm.serve: ")

    def _llm(self, arguments: Mapping[str, Any]) -> str | None:
        from minivllm.llm import LLM

        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                LLM(**{"num_gpu_blocks_override": NUM_BLOCKS, **arguments})
            except ValueError as error:
                return str(error)
        return str(caught[0].message) if caught else None

    def _prompt(self, prompt: Mapping[str, Any]) -> str | None:
        try:
            self._tutor.generate(prompt, use_tqdm=False)
        except ValueError as error:
            return str(error)
        return None

    def _post(self, request: Sequence[Any]) -> str | None:
        from minivllm.async_engine import AsyncLLMEngine
        from minivllm.serve.app import create_app
        from minivllm.serve.in_process import post
        from minivllm.serve.settings import ServerSettings

        engine = AsyncLLMEngine(self._tutor.llm_engine)
        try:
            app = create_app(engine, ServerSettings(enable_xray=False))
            status, body = asyncio.run(post(app, *request))
        finally:
            engine.shutdown()
        return body["error"]["message"] if status != 200 else None

    @cached_property
    def _tutor(self) -> Any:
        from minivllm.llm import LLM

        return LLM("tutor", num_gpu_blocks_override=NUM_BLOCKS)
