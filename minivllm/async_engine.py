"""AsyncLLMEngine: the same LLMEngine behind asyncio. One thread owns it, everybody else sends it messages.

    event loop(s)                                     engine thread
    generate / add_request / abort  --- inbox --->    apply the messages, step()
    RequestStream                   <-- one call_soon_threadsafe per loop and step --- outputs, errors

What it is not: a second engine. No scheduling decision is made here, and apart from the thread below nothing
touches the LLMEngine, so it needs no locks.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar

from minivllm.outputs import EngineStats
from minivllm.parts import REFERENCE, Parts
from minivllm.pooling_params import PoolingParams
from minivllm.request_stream import EngineOutput, RequestStream, StreamEvent
from minivllm.sampling_params import BeamSearchParams, SamplingParams

if TYPE_CHECKING:
    from minivllm.config import EngineConfig
    from minivllm.engine import LLMEngine

logger = logging.getLogger(__name__)
T = TypeVar("T")
HEALTH_SECONDS = 1.0  # how often an idle engine is looked after
Prompt: TypeAlias = "str | list[int] | dict[str, Any]"
EngineParams: TypeAlias = "SamplingParams | BeamSearchParams | PoolingParams"


class EngineDeadError(RuntimeError):
    """The engine can serve no further request: a step failed, or it was shut down."""


class StepObserver(Protocol):
    """Told about every step, on the engine thread; must return quickly (metrics are its use)."""

    def on_step(self, outputs: Sequence[EngineOutput], stats: EngineStats, now: float) -> None:
        """What `LLMEngine.step` returned, the state after it, and when (seconds of `time.monotonic()`)."""

    def on_abort(self, request_id: str) -> None:
        """The request ended without a final output."""


@dataclass(frozen=True)
class _Add:
    stream: RequestStream
    prompt: Prompt
    sampling_params: EngineParams | None
    options: dict[str, Any]  # keyword arguments of LLMEngine.add_request


@dataclass(frozen=True)
class _Abort:
    stream: RequestStream


@dataclass(frozen=True)
class _Call:
    function: Callable[[LLMEngine], Any]
    answer: Future[Any]


_Message: TypeAlias = _Add | _Abort | _Call


class AsyncLLMEngine:
    """An LLMEngine that runs in a thread of its own and is awaited from any event loop.

    The thread steps while there is work and sleeps on a condition otherwise. From construction on the engine
    belongs to that thread; `await call(function)` runs a function there.
    """

    def __init__(self, engine: LLMEngine, observer: StepObserver | None = None) -> None:
        self.observer = observer
        self.config = engine.config
        self.model_config = engine.model_config
        self.max_model_len: int = engine.max_model_len
        self.tokenizer = engine.tokenizer  # the engine thread uses it: copy it before use
        self._engine = engine
        self._condition = threading.Condition()
        self._inbox: list[_Message] = []  # guarded by _condition, as are the next two
        self._is_stopping = False
        self._error: EngineDeadError | None = None
        self._streams: dict[str, RequestStream] = {}  # only the engine thread touches it, as the next
        self._outbox: dict[asyncio.AbstractEventLoop, list[tuple[RequestStream, StreamEvent]]] = defaultdict(
            list
        )
        self._is_checked = True  # nothing has happened since the blocks were checked
        self._stats: EngineStats = engine.stats()
        self._thread = threading.Thread(target=self._run, name="minivllm-engine", daemon=True)
        self._thread.start()

    @classmethod
    def from_config(
        cls, config: EngineConfig, observer: StepObserver | None = None, parts: Parts = REFERENCE
    ) -> AsyncLLMEngine:
        """Load the model of `config` and start; `parts` as in `LLMEngine`.

        Raises:
            ValueError: the model cannot be served; the message says why.
        """
        from minivllm.data_parallel import make_engine

        return cls(make_engine(config, parts), observer)

    @property
    def stats(self) -> EngineStats:
        """The engine's state after its latest step."""
        return self._stats

    @property
    def dead_error(self) -> EngineDeadError | None:
        """Why the engine serves no more; None while it does."""
        with self._condition:
            return self._error

    async def generate(
        self, prompt: Prompt, sampling_params: EngineParams | None, request_id: str, **options: Any
    ) -> AsyncIterator[EngineOutput]:
        """Yield the outputs of one request, as its `output_kind` asks; closing the iterator aborts it.

        `options` are the keyword arguments of `LLMEngine.add_request`.

        Raises:
            ValueError: the engine refused the request; the message says why.
            EngineDeadError: the engine died before the request was finished.
        """
        stream = await self.add_request(prompt, sampling_params, request_id, **options)
        try:
            async for output in stream:
                yield output
        finally:
            stream.abort()

    async def add_request(
        self, prompt: Prompt, sampling_params: EngineParams | None, request_id: str, **options: Any
    ) -> RequestStream:
        """Queue a request and return the stream of its outputs; the caller aborts it when it stops early.

        Raises:
            ValueError, EngineDeadError: as `generate`, before anything is queued.
        """
        stream = self.submit(prompt, sampling_params, request_id, **options)
        await stream.wait_until_admitted()
        return stream

    def submit(
        self, prompt: Prompt, sampling_params: EngineParams | None, request_id: str, **options: Any
    ) -> RequestStream:
        """`add_request` without waiting for the engine's word: a batch is sent first and awaited afterwards.

        Raises:
            EngineDeadError: the engine is dead already. A ValueError comes from `wait_until_admitted`.
        """
        stream = RequestStream(request_id, self._request_abort)
        self._send(_Add(stream, prompt, sampling_params, options))
        return stream

    def _request_abort(self, stream: RequestStream) -> None:
        self._send(_Abort(stream), even_if_dead=True)

    async def call(self, function: Callable[[LLMEngine], T]) -> T:
        """Run `function(engine)` on the engine thread between two steps and return its result.

        Raises:
            EngineDeadError: the engine is dead. What `function` raises is raised here and harms nobody else.
        """
        answer: Future[T] = Future()
        self._send(_Call(function, answer))
        return await asyncio.wrap_future(answer)

    def shutdown(self, timeout: float | None = 5.0) -> bool:
        """Stop: requests are aborted, their callers get EngineDeadError, the thread ends. Twice is harmless.

        Returns:
            True when the thread has ended, False when a step is still running after `timeout` seconds.
        """
        with self._condition:
            self._is_stopping = True
            self._condition.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def _send(self, message: _Message, *, even_if_dead: bool = False) -> None:
        """Put a message into the engine thread's inbox.

        Raises:
            EngineDeadError: nobody reads it any more, and that matters (it does not for an abort).
        """
        with self._condition:
            if self._error is None:
                self._inbox.append(message)
                self._condition.notify()
            elif not even_if_dead:
                raise EngineDeadError(str(self._error)) from self._error

    # ---- from here on: the engine thread ----

    def _run(self) -> None:
        error: EngineDeadError
        try:
            while self._turn():
                pass
            error = EngineDeadError("The engine has been shut down.")
        except Exception as cause:  # told to every caller and to the log: nothing is swallowed
            logger.exception("The engine died in a step; no further request can be served.")
            error = EngineDeadError("The engine died: a step failed. The server's log says why.")
            error.__cause__ = cause
        self._end(error)

    def _turn(self) -> bool:
        """Apply the waiting messages and make one step; False when the engine is to stop."""
        with self._condition:
            while not (self._inbox or self._is_stopping or self._engine.has_unfinished_requests()):
                if not self._condition.wait(HEALTH_SECONDS):
                    self._look_after_engine()
            if self._is_stopping:
                return False
            messages, self._inbox = self._inbox, []
        self._is_checked = False
        for message in messages:
            self._apply(message)
        is_busy = self._engine.has_unfinished_requests()
        outputs = self._engine.step() if is_busy else []
        stats = self._engine.stats()
        # a call or an abort between steps is no step: nobody may count the latest one twice
        self._stats = stats if is_busy else replace(stats, num_step_tokens=0)
        if self.observer is not None:
            self.observer.on_step(outputs, self._stats, time.monotonic())
        self._hand_over(outputs)
        return True

    def _look_after_engine(self) -> None:
        """Nothing has run for a while, which a worker need not survive. Blocks are checked once after each turn."""
        self._engine.check_health()
        if not self._is_checked:
            self._engine.check_integrity()
            self._is_checked = True

    def _apply(self, message: _Message) -> None:
        if isinstance(message, _Add):
            self._add(message)
        elif isinstance(message, _Abort):
            stream = message.stream
            if self._streams.get(stream.request_id) is stream:  # not a later request of the same name
                self._abort([stream.request_id])
        elif message.answer.set_running_or_notify_cancel():
            try:
                message.answer.set_result(message.function(self._engine))
            except Exception as error:  # noqa: BLE001  the caller's function, the caller's error
                message.answer.set_exception(error)

    def _add(self, message: _Add) -> None:
        stream = message.stream
        try:
            if stream.request_id in self._streams:
                raise ValueError(
                    f"request_id {stream.request_id!r} is in use by a request that is still running"
                )
            self._engine.add_request(
                stream.request_id, message.prompt, message.sampling_params, **message.options
            )
        except Exception as error:  # noqa: BLE001  handed to the caller, whose request it concerns
            self._outbox[stream.loop].append((stream, error))
            return
        self._streams[stream.request_id] = stream
        self._outbox[stream.loop].append((stream, None))

    def _abort(self, request_ids: Sequence[str]) -> None:
        if request_ids:
            self._engine.abort_request(request_ids)
            self._stats = self._engine.stats()
        for request_id in request_ids:
            del self._streams[request_id]
            if self.observer is not None:
                self.observer.on_abort(request_id)

    def _hand_over(self, outputs: Sequence[EngineOutput]) -> None:
        """Send every loop what is new for it, in one call."""
        for output in outputs:
            stream = self._streams.get(output.request_id)
            if stream is None:
                continue
            self._outbox[stream.loop].append((stream, output))
            if output.finished:
                del self._streams[output.request_id]
        outbox, self._outbox = self._outbox, defaultdict(list)
        for loop, events in outbox.items():
            try:
                loop.call_soon_threadsafe(_deliver, events)
            except RuntimeError:  # the loop was closed with its requests still running: nobody waits for them
                self._abort([stream.request_id for stream in self._streams.values() if stream.loop is loop])

    def _end(self, error: EngineDeadError) -> None:
        """Refuse what comes, tell those who wait, and empty the engine if it can still be asked."""
        with self._condition:
            self._error = error
            messages, self._inbox = self._inbox, []
        streams = list(self._streams.values()) + [m.stream for m in messages if isinstance(m, _Add)]
        if error.__cause__ is None:
            self._abort(list(self._streams))
        self._engine.shutdown()
        self._streams.clear()
        for message in messages:
            if isinstance(message, _Call) and message.answer.set_running_or_notify_cancel():
                message.answer.set_exception(error)
        for stream in streams:
            # one exception each: raising the same object in several tasks would mix their tracebacks
            own = EngineDeadError(str(error))
            own.__cause__ = error.__cause__
            self._outbox[stream.loop].append((stream, own))
        self._hand_over([])


def _deliver(events: Sequence[tuple[RequestStream, StreamEvent]]) -> None:
    for stream, event in events:
        stream.receive(event)
