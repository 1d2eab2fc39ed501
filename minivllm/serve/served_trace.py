"""A trace served as a server serves it: every request a stream on the event loop, and some clients leave.

Without a socket: what HTTP adds is tested with the server. The engine, its thread and its streams are the server's own.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from minivllm.async_engine import AsyncLLMEngine, EngineDeadError
from minivllm.config import EngineConfig
from minivllm.core.step_checks import BrokenLawError
from minivllm.course.traces import Trace
from minivllm.outputs import EngineStats, RequestOutput
from minivllm.parts import Parts
from minivllm.sampling_params import SamplingParams

if TYPE_CHECKING:
    from minivllm.engine import LLMEngine


def serve_trace(trace: Trace, parts: Parts) -> tuple[list[list[int]], EngineStats]:
    """Serve a trace with the model that ships.

    Returns:
        The tokens of every answer whose client stayed, choice after choice, and the engine's figures at the end.

    Raises:
        BrokenLawError: a part broke a law, or a block is held when nobody is there any more. What else a part raised.
    """
    engine = AsyncLLMEngine.from_config(EngineConfig(model="tutor", **trace.engine), parts=parts)
    try:
        return asyncio.run(serve_all(engine, trace))
    except EngineDeadError as error:
        raise error.__cause__ or error from error
    finally:
        engine.shutdown()


async def serve_all(engine: AsyncLLMEngine, trace: Trace) -> tuple[list[list[int]], EngineStats]:
    """The same with an engine that runs; returns and raises what `serve_trace` does."""
    tokens: list[list[int]] = []
    number = 0
    for requests in trace.rounds:
        clients = []
        for prompt, fields in requests:
            asked = prompt if isinstance(prompt, str) else {"prompt_token_ids": prompt}
            clients.append(_client(engine, f"client {number}", asked, fields, trace.leaves_after.get(number)))
            number += 1
        for answer in await asyncio.gather(*clients):
            tokens += answer
    num_held = await engine.call(_num_held)
    if num_held:
        raise BrokenLawError(f"{num_held} blocks are held and no request is there")
    return tokens, engine.stats


async def _client(
    engine: AsyncLLMEngine, name: str, prompt: Any, fields: Any, leaves_after: int | None
) -> list[list[int]]:
    """Read a stream to its end, or leave; returns the tokens of its choices, nothing if it left."""
    stream = await engine.add_request(prompt, SamplingParams(**fields), name)
    choices: dict[int, list[int]] = {}  # an output tells of the choices that have something new
    num_read = 0
    try:
        async for output in stream:
            assert isinstance(output, RequestOutput)
            choices |= {choice.index: choice.token_ids for choice in output.outputs}
            num_read += 1
            if num_read == leaves_after:
                return []
    finally:
        stream.abort()
    return [choices[index] for index in sorted(choices)]


def _num_held(engine: LLMEngine) -> int:
    pool = engine.kv_cache_manager.pool
    return pool.num_blocks - 1 - pool.num_free_blocks
