"""XrayFeed: what the engine does, step by step, for the picture on the page. Fed by the event log.

Nobody watching costs nothing: the recorder stands around the engine's parts only while a page is open. Then the engine
thread writes one small frame per step into a bounded queue, and the event loop sends what has gathered every
SEND_SECONDS. A viewer that cannot keep up loses its connection, never the engine's time.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from typing import Any

from minivllm.async_engine import AsyncLLMEngine
from minivllm.engine import LLMEngine
from minivllm.events import (
    Add,
    Alloc,
    Cache,
    Copy,
    Event,
    EventLog,
    Evict,
    Finish,
    Fork,
    Free,
    Hit,
    Preempt,
    Sample,
    Schedule,
    Trim,
)
from minivllm.outputs import EngineStats
from minivllm.recorder import Recorder
from minivllm.request_stream import EngineOutput
from minivllm.serve.errors import APIError

SEND_SECONDS = 0.05
MAX_FRAMES = 2000  # that wait to be sent
MAX_VIEWERS = 16
MAX_CHUNKS = 200  # that wait for one viewer: ten seconds
KEEP_ALIVE_SECONDS = 10.0


class _Tap(EventLog):
    """An event log that keeps only what has not been looked at yet."""

    def __init__(self, log: EventLog) -> None:
        super().__init__(log.num_blocks, log.block_size)
        self.base = log.base
        self._fresh: list[Event] = []

    def append(self, event: Event) -> None:
        self._fresh.append(event)

    def take(self) -> list[Event]:
        fresh, self._fresh = self._fresh, []
        return fresh


class XrayFeed:
    """The frames of one engine, for any number of viewers up to MAX_VIEWERS; a StepObserver.

    Of several data-parallel replicas it shows the one of number `replica`.
    """

    def __init__(self, engine: AsyncLLMEngine, replica: int = 0) -> None:
        self._engine = engine
        self._replica = replica
        self._viewers: set[asyncio.Queue[bytes | None]] = set()
        self._frames: deque[dict[str, Any]] = deque(maxlen=MAX_FRAMES)
        self._sender: asyncio.Task[None] | None = None
        self._lock = asyncio.Lock()  # one viewer comes or goes at a time
        self._num_replicas = engine.config.data_parallel_size
        self._watched: LLMEngine | None = None  # only the engine thread touches it and the next
        self._recorder: Recorder | None = None
        self._tap: _Tap | None = None
        self._numbers: dict[str, int] = {}  # request id -> a short number, while the request lives
        self._num_named = 0
        self._num_frames = 0
        self._timed: set[str] = set()  # requests whose first token is told

    # ---- engine thread ----

    def on_step(self, outputs: Sequence[EngineOutput], stats: EngineStats, now: float) -> None:
        """Write a frame of what happened since the last one."""
        if self._tap is None or self._watched is None:
            return
        events = self._tap.take()
        if self._num_replicas > 1:
            if not events:
                return  # another replica's step
            stats, outputs = self._watched.stats(), self._outputs_here(events, outputs)
        self._frames.append(self._frame(events, outputs, stats, now))

    def _outputs_here(
        self, events: Sequence[Event], outputs: Sequence[EngineOutput]
    ) -> Sequence[EngineOutput]:
        """Those of requests that this replica has; of several choices the first is called 0_ID."""
        here = {*self._numbers, *(event.request_id for event in events if isinstance(event, Add))}
        return [one for one in outputs if not here.isdisjoint((one.request_id, f"0_{one.request_id}"))]

    def on_abort(self, request_id: str) -> None:
        """The abort itself is an event."""
        self._timed.discard(request_id)

    def _watch(self, engine: LLMEngine) -> dict[str, Any]:
        """Begin to record if nobody does, and say how things stand."""
        engine = self._watched = getattr(engine, "replicas", [engine])[self._replica]
        if self._recorder is None:
            self._recorder = Recorder(engine.kv_cache_manager, engine.scheduler)
            self._recorder.log = self._tap = _Tap(self._recorder.log)
        assert self._tap is not None
        self._frames.append(self._frame(self._tap.take(), (), engine.stats(), time.monotonic()))
        manager = engine.kv_cache_manager
        tables = {i: table.block_ids for i, table in manager.tables().items()}
        return {
            "number": self._num_frames,  # later frames have higher ones
            "replica": self._replica,
            "num_replicas": self._num_replicas,
            "num_blocks": manager.pool.num_blocks,
            "block_size": manager.block_size,
            "budget": engine.config.max_num_batched_tokens,
            "tables": {self._number(i): block_ids for i, block_ids in tables.items()},
            "cached": [block.block_id for block in manager.pool.blocks if block.block_hash is not None],
            "running": [self._number(request.request_id) for request in engine.scheduler.running],
            "waiting": [self._number(request.request_id) for request in engine.scheduler.waiting],
        }

    def _stop(self, _: LLMEngine) -> None:
        if self._recorder is not None:
            self._recorder.stop()
        self._watched, self._recorder, self._tap, self._numbers = None, None, None, {}
        self._timed.clear()

    def _frame(
        self, events: Sequence[Event], outputs: Sequence[EngineOutput], stats: EngineStats, now: float
    ) -> dict[str, Any]:
        self._num_frames += 1
        frame: dict[str, Any] = {
            "number": self._num_frames,
            "time": round(now, 4),
            "events": [short for event in events if (short := self._short(event)) is not None],
            "usage": round(stats.kv_cache_usage, 4),
            "queries": stats.prefix_cache_queries,
            "hits": stats.prefix_cache_hits,
            "preemptions": stats.num_preemptions,
        }
        for event in events:
            if isinstance(event, Schedule):
                frame["step"] = event.step
                frame["batch"] = [
                    [self._number(i), count, event.num_computed_tokens[i]]
                    for i, count in event.num_scheduled_tokens.items()
                ]
            elif isinstance(event, Finish):
                self._numbers.pop(event.request_id, None)
        frame["ttft"] = [seconds for o in outputs if (seconds := self._time_to_first_token(o)) is not None]
        return frame

    def _time_to_first_token(self, output: EngineOutput) -> float | None:
        """Seconds, once for each request: with its first output that knows."""
        is_told = output.request_id in self._timed
        times = output.metrics
        if output.finished:
            self._timed.discard(output.request_id)
        if is_told or times is None or times.first_token_time is None:
            return None
        if not output.finished:
            self._timed.add(output.request_id)
        return round(times.first_token_time - times.arrival_time, 4)

    def _short(self, event: Event) -> list[Any] | None:
        """The event as a row: kind, request, details. What the picture does not show is left out."""
        match event:
            case Add():
                return ["add", self._number(event.request_id), event.num_tokens]
            case Hit() | Alloc() | Free() | Cache():
                return [event.kind, self._number(event.request_id), list(event.block_ids)]
            case Trim():
                return (
                    ["free", self._number(event.request_id), list(event.block_ids)]
                    if event.block_ids
                    else None
                )
            case Fork():
                return ["fork", self._number(event.request_id), list(event.block_ids)]
            case Copy():
                return ["copy", self._number(event.request_id), [event.source, event.target]]
            case Evict():
                return ["evict", 0, list(event.block_ids)]
            case Preempt():
                return ["preempt", self._number(event.request_id)]
            case Sample():
                return ["sample", self._number(event.request_id), len(event.token_ids)]
            case Finish():
                return ["finish", self._number(event.request_id), event.reason]
        return None

    def _number(self, request_id: str) -> int:
        if request_id not in self._numbers:
            self._num_named += 1
            self._numbers[request_id] = self._num_named
        return self._numbers[request_id]

    # ---- event loop ----

    async def watch(self) -> AsyncIterator[bytes]:
        """Server-sent events: first how things stand, then lists of frames.

        Raises:
            APIError: too many watch already.
        """
        queue: asyncio.Queue[bytes | None] = asyncio.Queue(MAX_CHUNKS)
        await self._join(queue)
        try:
            while True:
                try:
                    chunk = await asyncio.wait_for(queue.get(), KEEP_ALIVE_SECONDS)
                except TimeoutError:
                    chunk = b": still here\n\n"
                if chunk is None:
                    return
                yield chunk
        finally:
            await asyncio.shield(self._leave(queue))

    async def _join(self, queue: asyncio.Queue[bytes | None]) -> None:
        async with self._lock:
            if len(self._viewers) >= MAX_VIEWERS:
                raise APIError(503, f"{MAX_VIEWERS} pages watch the engine already; close one of them.")
            queue.put_nowait(_event("state", await self._engine.call(self._watch)))
            self._viewers.add(queue)  # it skips the frames that are older than its state
            if self._sender is None:
                self._sender = asyncio.create_task(self._send_regularly())

    async def _leave(self, queue: asyncio.Queue[bytes | None]) -> None:
        async with self._lock:
            self._viewers.discard(queue)
            if self._viewers or self._sender is None:
                return
            self._sender.cancel()
            self._sender = None
            if self._engine.dead_error is None:
                await self._engine.call(self._stop)
            self._frames.clear()

    async def _send_regularly(self) -> None:
        while self._engine.dead_error is None:
            await asyncio.sleep(SEND_SECONDS)
            self._send_frames()
        for queue in list(self._viewers):
            self._dismiss(queue)

    def _send_frames(self) -> None:
        frames = []
        while self._frames:
            frames.append(self._frames.popleft())
        if not frames:
            return
        chunk = _event("frames", frames)
        for queue in list(self._viewers):
            if queue.full():
                self._dismiss(queue)
            else:
                queue.put_nowait(chunk)

    def _dismiss(self, queue: asyncio.Queue[bytes | None]) -> None:
        """End a viewer's stream; the page connects again and starts from the state of then."""
        self._viewers.discard(queue)
        while not queue.empty():
            queue.get_nowait()
        queue.put_nowait(None)


def _event(name: str, content: Any) -> bytes:
    return b"data: " + json.dumps({name: content}, separators=(",", ":")).encode() + b"\n\n"
