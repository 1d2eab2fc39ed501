"""Data parallelism: several copies of the model behind one front door.

    add_request --> Router --> replica 0: scheduler, KV cache, worker processes
                           \\-> replica 1: the same again

Each replica is a whole LLMEngine whose model runs in processes of its own. Their schedulers share this thread: it
starts a step on every replica that is free and waits for whichever returns first: a slow step holds up nobody else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import fields
from itertools import zip_longest
from typing import Any, cast

from minivllm.config import EngineConfig
from minivllm.core.kv_cache_manager import KVCacheManager
from minivllm.core.router import Router
from minivllm.core.scheduler import Scheduler
from minivllm.engine import LLMEngine
from minivllm.input_processor import Prompt
from minivllm.outputs import BlockMap, EmbeddingRequestOutput, EngineStats, RequestOutput
from minivllm.parts import REFERENCE, Parts
from minivllm.sampling_params import SamplingParams


def make_engine(config: EngineConfig, parts: Parts = REFERENCE) -> LLMEngine:
    """The engine that `config` asks for: one, or several that answer as one (then not all of its attributes are there).

    Raises:
        ValueError: the configuration contradicts itself or the model.
    """
    if config.data_parallel_size == 1:
        return LLMEngine(config, parts)
    return cast(LLMEngine, DataParallelEngine(config, parts))


class DataParallelEngine:
    """`data_parallel_size` engines that answer as one; it has the methods of LLMEngine that its callers use."""

    def __init__(self, config: EngineConfig, parts: Parts = REFERENCE) -> None:
        self.config, self.parts = config, parts
        self.replicas = _start_replicas(config, parts)
        first = self.replicas[0]
        self.model_config, self.tokenizer = first.model_config, first.tokenizer
        self.max_model_len = min(replica.max_model_len for replica in self.replicas)
        self.router = Router(len(self.replicas), config.block_size, first.executor.num_blocks)
        self._home: dict[str, LLMEngine] = {}  # request id -> the replica that has it

    def add_request(
        self,
        request_id: str,
        prompt: Prompt,
        sampling_params: Any = None,
        *,
        cache_salt: str | None = None,
        **options: Any,
    ) -> None:
        """Queue a request where it costs least. Arguments and errors as in `LLMEngine.add_request`."""
        if request_id in self._home:
            raise ValueError(f"request_id {request_id!r} is in use by a request that has not finished")
        _, token_ids = self.replicas[0].input_processor.tokenize(prompt, SamplingParams())
        owed = [replica.scheduler.num_tokens_owed for replica in self.replicas]
        replica = self.replicas[self.router.choose(token_ids, owed, cache_salt)]
        replica.add_request(request_id, prompt, sampling_params, cache_salt=cache_salt, **options)
        self._home[request_id] = replica

    def abort_request(self, request_ids: str | Iterable[str]) -> list[RequestOutput]:
        """End requests at once, wherever they are; unknown ids are ignored."""
        ids = [request_ids] if isinstance(request_ids, str) else list(request_ids)
        outputs = []
        for request_id in ids:
            replica = self._home.pop(request_id, None)
            if replica is not None:
                outputs += replica.abort_request(request_id)
        return outputs

    def step(self) -> list[RequestOutput | EmbeddingRequestOutput]:
        """Start a step wherever none is under way, and take in those that return first."""
        outputs: list[RequestOutput | EmbeddingRequestOutput] = []
        for replica in self.replicas:
            outputs += replica.start_steps()
        under_way = {
            replica.oldest_step: replica for replica in self.replicas if replica.oldest_step is not None
        }
        if under_way:
            returned, _ = wait(under_way, return_when=FIRST_COMPLETED)
            for future, replica in under_way.items():
                if future in returned:
                    outputs += replica.finish_step()
        for output in outputs:
            if output.finished:
                self._home.pop(output.request_id, None)
        return outputs

    def has_unfinished_requests(self) -> bool:
        return any(replica.has_unfinished_requests() for replica in self.replicas)

    def reset_prefix_cache(self) -> bool:
        """Forget cached blocks everywhere; False if a replica has blocks in use."""
        return all(replica.reset_prefix_cache() for replica in self.replicas)

    def check_health(self) -> None:
        """Raise WorkerError if a rank of any replica has failed."""
        for replica in self.replicas:
            replica.check_health()

    def check_integrity(self) -> None:
        """As `LLMEngine.check_integrity`, of every replica."""
        for replica in self.replicas:
            replica.check_integrity()

    def shutdown(self) -> None:
        """End every replica's processes."""
        for replica in self.replicas:
            replica.shutdown()

    def stats(self) -> EngineStats:
        """Sums over the replicas; the cache usage is their mean."""
        return add_stats([replica.stats() for replica in self.replicas])

    @property
    def kv_cache_manager(self) -> KVCacheManager:
        """The first replica's, as are the next two: what a picture of the engine shows."""
        return self.replicas[0].kv_cache_manager

    @property
    def scheduler(self) -> Scheduler:
        return self.replicas[0].scheduler

    def block_map(self) -> BlockMap:
        return self.replicas[0].block_map()

    def describe_kv_cache(self) -> str:
        """One line."""
        return f"{len(self.replicas)} replicas, each with a {self.replicas[0].describe_kv_cache()}"


def add_stats(stats: Sequence[EngineStats]) -> EngineStats:
    """One snapshot of several engines."""
    special = ("finished", "kv_cache_usage", "num_accepted_tokens_per_pos")
    names = [field.name for field in fields(EngineStats) if field.name not in special]
    totals: dict[str, Any] = {name: sum(getattr(one, name) for one in stats) for name in names}
    finished: Counter[str] = Counter()
    for one in stats:
        finished.update(one.finished)
    usage = sum(one.kv_cache_usage for one in stats) / len(stats)
    per_pos = zip_longest(*(one.num_accepted_tokens_per_pos for one in stats), fillvalue=0)
    return EngineStats(
        **totals,
        kv_cache_usage=usage,
        finished=dict(finished),
        num_accepted_tokens_per_pos=tuple(map(sum, per_pos)),
    )


def _start_replicas(config: EngineConfig, parts: Parts) -> list[LLMEngine]:
    """All at once, as each spends its time waiting for its own processes. One that fails takes the others with it."""
    with ThreadPoolExecutor(config.data_parallel_size) as pool:
        starts = [
            pool.submit(LLMEngine, config, parts, replica) for replica in range(config.data_parallel_size)
        ]
    if any(start.exception() for start in starts):
        for start in starts:
            with suppress(Exception):
                start.result().shutdown()
    return [start.result() for start in starts]
