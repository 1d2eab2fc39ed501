"""ServerMetrics: vLLM's Prometheus metrics, fed by the engine's statistics and by every output it makes.

Gauges and counters are read from EngineStats when they are scraped; histograms are filled on the engine
thread, step by step, so that a slow client cannot distort a latency. All live in a registry of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from minivllm.outputs import EngineStats, RequestMetrics, RequestOutput
from minivllm.sampling_params import SamplingParams

LABELS = ("model_name", "engine")
FINISH_REASONS = ("stop", "length", "abort", "error")
_TTFT = (
    0.001,
    0.005,
    0.01,
    0.02,
    0.04,
    0.06,
    0.08,
    0.1,
    0.25,
    0.5,
    0.75,
    1,
    2.5,
    5,
    7.5,
    10,
    20,
    40,
    80,
    160,
    640,
)
_PER_TOKEN = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.075,
    0.1,
    0.15,
    0.2,
    0.3,
    0.4,
    0.5,
    0.75,
    1,
    2.5,
    5,
    10,
    40,
)
_REQUEST = (
    *(
        0.01,
        0.03,
        0.1,
        0.3,
        0.5,
        0.8,
        1,
        1.5,
        2,
        2.5,
        5,
        10,
        15,
        20,
        30,
        40,
        50,
        60,
        120,
        240,
        480,
        960,
        1920,
    ),
    7680,
)
# name, help, buckets in seconds (None: a count of tokens)
HISTOGRAMS = (
    ("time_to_first_token_seconds", "Arrival to the first token.", _TTFT),
    ("inter_token_latency_seconds", "From one token of a request to its next.", _PER_TOKEN),
    (
        "request_time_per_output_token_seconds",
        "Mean time per token after the first, of a request.",
        _PER_TOKEN,
    ),
    ("e2e_request_latency_seconds", "Arrival to the last token.", _REQUEST),
    ("request_queue_time_seconds", "Arrival to the first schedule.", _REQUEST),
    ("request_prefill_time_seconds", "First schedule to the first token.", _REQUEST),
    ("request_decode_time_seconds", "First to last token.", _REQUEST),
    ("request_inference_time_seconds", "First schedule to the last token.", _REQUEST),
    ("request_prompt_tokens", "Prompt tokens of a request.", None),
    ("request_generation_tokens", "Generated tokens of a request.", None),
    ("request_params_max_tokens", "max_tokens of a request.", None),
    ("request_params_n", "n of a request.", (1, 2, 5, 10, 20)),
)
GAUGES: tuple[tuple[str, str, Callable[[EngineStats], float]], ...] = (
    ("num_requests_running", "Requests in the running batch.", lambda s: s.num_running_reqs),
    ("num_requests_waiting", "Requests that wait to be scheduled.", lambda s: s.num_waiting_reqs),
    ("kv_cache_usage_perc", "Share of KV cache blocks in use, 0 to 1.", lambda s: s.kv_cache_usage),
)
COUNTERS: tuple[tuple[str, str, Callable[[EngineStats], float]], ...] = (
    ("prefix_cache_queries", "Tokens looked up in the prefix cache.", lambda s: s.prefix_cache_queries),
    ("prefix_cache_hits", "Tokens found in the prefix cache.", lambda s: s.prefix_cache_hits),
    ("num_preemptions", "Requests put back because blocks ran out.", lambda s: s.num_preemptions),
    ("prompt_tokens", "Prompt tokens processed.", lambda s: s.num_prompt_tokens),
    ("generation_tokens", "Tokens generated.", lambda s: s.num_generation_tokens),
)


@dataclass
class _Progress:
    """A request that streams: when its latest token came, and how many there were."""

    last_token_time: float
    num_tokens: int


class ServerMetrics:
    """The metrics of one server; a StepObserver of its engine."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(
        self,
        model_name: str,
        max_model_len: int,
        stats: Callable[[], EngineStats],
        cache_config: Mapping[str, object],
    ) -> None:
        self._registry = CollectorRegistry()
        self._labels = (model_name, "0")
        self._progress: dict[str, _Progress] = {}  # only the engine thread touches it
        self._histograms = {
            name: Histogram(
                f"vllm:{name}",
                text,
                LABELS,
                registry=self._registry,
                buckets=buckets or _token_buckets(max_model_len),
            ).labels(*self._labels)
            for name, text, buckets in HISTOGRAMS
        }
        self._registry.register(_StatsCollector(self._labels, stats, cache_config))
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        GCCollector(registry=self._registry)

    def render(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self._registry)

    def on_start(self, params: Sequence[SamplingParams]) -> None:
        """Requests were admitted."""
        for one in params:
            self._observe("request_params_n", one.n)
            if one.max_tokens is not None:
                self._observe("request_params_max_tokens", one.max_tokens)

    def on_step(self, outputs: Sequence[RequestOutput], stats: EngineStats, now: float) -> None:
        """Fill the histograms; see StepObserver."""
        for output in outputs:
            self._count_tokens(output, now)
            if output.finished:
                self._finish(output, self._progress.pop(output.request_id, None))

    def on_abort(self, request_id: str) -> None:
        """Forget the request; see StepObserver."""
        self._progress.pop(request_id, None)

    def _observe(self, name: str, value: float) -> None:
        self._histograms[name].observe(value)

    def _count_tokens(self, output: RequestOutput, now: float) -> None:
        num_new = sum(len(one.token_ids) for one in output.outputs)
        if not num_new:
            return
        progress = self._progress.get(output.request_id)
        if progress is not None:
            self._observe("inter_token_latency_seconds", now - progress.last_token_time)
            progress.last_token_time = now
            progress.num_tokens += num_new
            return
        self._progress[output.request_id] = _Progress(now, num_new)
        times = output.metrics
        if times is not None and times.first_token_time is not None:
            self._observe("time_to_first_token_seconds", times.first_token_time - times.arrival_time)
            if output.finished and num_new > 1:  # it came in one piece: only the mean of its pace is known
                for _ in range(num_new - 1):
                    self._observe(
                        "inter_token_latency_seconds", (now - times.first_token_time) / (num_new - 1)
                    )

    def _finish(self, output: RequestOutput, progress: _Progress | None) -> None:
        num_tokens = progress.num_tokens if progress else 0
        self._observe("request_prompt_tokens", len(output.prompt_token_ids))
        self._observe("request_generation_tokens", num_tokens)
        if output.metrics is not None:
            self._observe_times(output.metrics, num_tokens)

    def _observe_times(self, times: RequestMetrics, num_tokens: int) -> None:
        arrival, scheduled = times.arrival_time, times.first_scheduled_time
        first, end = times.first_token_time, times.finished_time
        if scheduled is None or first is None or end is None:
            return
        self._observe("e2e_request_latency_seconds", end - arrival)
        self._observe("request_queue_time_seconds", scheduled - arrival)
        self._observe("request_prefill_time_seconds", first - scheduled)
        self._observe("request_decode_time_seconds", end - first)
        self._observe("request_inference_time_seconds", end - scheduled)
        if num_tokens > 1:
            self._observe("request_time_per_output_token_seconds", (end - first) / (num_tokens - 1))


class _StatsCollector(Collector):
    """Gauges and counters, made from the engine's statistics at the moment they are asked for."""

    def __init__(
        self, labels: Sequence[str], stats: Callable[[], EngineStats], cache_config: Mapping[str, object]
    ) -> None:
        self._labels = labels
        self._stats = stats
        self._cache_config = {name: str(value) for name, value in cache_config.items()}

    def collect(self) -> Iterator[Metric]:
        """One metric family after another."""
        stats = self._stats()
        for name, text, read in GAUGES:
            gauge = GaugeMetricFamily(f"vllm:{name}", text, labels=LABELS)
            gauge.add_metric(self._labels, read(stats))
            yield gauge
        for name, text, read in COUNTERS:
            counter = CounterMetricFamily(f"vllm:{name}", text, labels=LABELS)
            counter.add_metric(self._labels, read(stats))
            yield counter
        ends = CounterMetricFamily(
            "vllm:request_success", "Requests that ended, by reason.", labels=(*LABELS, "finished_reason")
        )
        for reason in sorted({*FINISH_REASONS, *stats.finished}):
            ends.add_metric((*self._labels, reason), stats.finished.get(reason, 0))
        yield ends
        info = GaugeMetricFamily(
            "vllm:cache_config_info", "How the KV cache is set up.", labels=("engine", *self._cache_config)
        )
        info.add_metric((self._labels[1], *self._cache_config.values()), 1)
        yield info


def _token_buckets(max_model_len: int) -> tuple[int, ...]:
    """1, 2, 5, 10, 20, 50 ... up to the length of the context."""
    buckets = [step * 10**power for power in range(9) for step in (1, 2, 5)]
    return tuple(bucket for bucket in buckets if bucket <= max_model_len) or (1,)
