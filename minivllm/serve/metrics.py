"""ServerMetrics: vLLM's Prometheus metrics, fed by the engine's statistics and by every output it makes.

Gauges and counters are read from EngineStats when they are scraped; histograms are filled on the engine
thread, step by step, so that a slow client cannot distort a latency. All live in a registry of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from minivllm.outputs import CompletionOutput, EngineStats, RequestMetrics, RequestOutput
from minivllm.pooling_params import PoolingParams
from minivllm.request_stream import EngineOutput
from minivllm.sampling_params import BeamSearchParams, SamplingParams
from minivllm.serve.http_metrics import HttpMetrics
from minivllm.serve.metric_tables import COUNTERS, FINISH_REASONS, GAUGES, HISTOGRAMS, LABELS, token_buckets


@dataclass
class _Progress:
    """A request under way: when the latest token of each choice came, and how many there were."""

    last_token_times: dict[int, float] = field(default_factory=dict)
    num_tokens: dict[int, int] = field(default_factory=dict)


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
                buckets=buckets or token_buckets(max_model_len),
            ).labels(*self._labels)
            for name, text, buckets in HISTOGRAMS
        }
        self._cached = Counter(
            "vllm:prompt_tokens_cached", "Prompt tokens from the cache.", LABELS, registry=self._registry
        ).labels(*self._labels)
        self._rejections = Counter(
            "vllm:admission_rejections",
            "Requests that were refused.",
            (*LABELS, "reason"),
            registry=self._registry,
        )
        self._rejections.labels(*self._labels, "queue_full")
        self._registry.register(_StatsCollector(self._labels, stats, cache_config))
        self.http = HttpMetrics(self._registry)
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        GCCollector(registry=self._registry)

    def render(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self._registry)

    def on_start(self, params: Sequence[SamplingParams | BeamSearchParams | PoolingParams]) -> None:
        """Requests were admitted."""
        for one in params:
            if isinstance(one, PoolingParams):
                continue
            self._observe("request_params_n", one.n if isinstance(one, SamplingParams) else one.beam_width)
            if one.max_tokens is not None:
                self._observe("request_params_max_tokens", one.max_tokens)

    def on_queue_full(self) -> None:
        """A request was refused, because too many wait."""
        self._rejections.labels(*self._labels, "queue_full").inc()

    def on_step(self, outputs: Sequence[EngineOutput], stats: EngineStats, now: float) -> None:
        """Fill the histograms; see StepObserver."""
        if stats.num_step_tokens:
            self._observe("iteration_tokens_total", stats.num_step_tokens)
        for output in outputs:
            if not isinstance(output, RequestOutput):
                self._observe("request_prompt_tokens", len(output.prompt_token_ids))
                continue
            progress = self._progress.setdefault(output.request_id, _Progress())
            self._count_tokens(output, progress, now)
            if output.finished:
                self._finish(output, self._progress.pop(output.request_id))

    def on_abort(self, request_id: str) -> None:
        """Forget the request; see StepObserver."""
        self._progress.pop(request_id, None)

    def _observe(self, name: str, value: float) -> None:
        self._histograms[name].observe(value)

    def _count_tokens(self, output: RequestOutput, progress: _Progress, now: float) -> None:
        times = output.metrics
        first = times.first_token_time if times else None
        is_first = not progress.num_tokens
        for one in filter(lambda one: one.token_ids, output.outputs):
            self._count_intervals(one, progress, first, now)
            progress.last_token_times[one.index] = now
            progress.num_tokens[one.index] = progress.num_tokens.get(one.index, 0) + len(one.token_ids)
        if is_first and progress.num_tokens and times is not None and first is not None:
            self._observe("time_to_first_token_seconds", first - times.arrival_time)

    def _count_intervals(
        self, one: CompletionOutput, progress: _Progress, first: float | None, now: float
    ) -> None:
        """One interval for each token after a choice's first. Of tokens that come together only the mean is known."""
        last = progress.last_token_times.get(one.index)
        num_intervals = len(one.token_ids) - (last is None)
        since = first if last is None else last
        for _ in range(num_intervals if since is not None else 0):
            self._observe("inter_token_latency_seconds", (now - (since or now)) / num_intervals)

    def _finish(self, output: RequestOutput, progress: _Progress) -> None:
        num_tokens, num_prompt = sum(progress.num_tokens.values()), len(output.prompt_token_ids)
        self._observe("request_prompt_tokens", num_prompt)
        self._observe("request_generation_tokens", num_tokens)
        self._observe("request_max_num_generation_tokens", max(progress.num_tokens.values(), default=0))
        self._observe("request_prefill_kv_computed_tokens", num_prompt - output.num_cached_tokens)
        self._cached.inc(output.num_cached_tokens)
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
        kept = CounterMetricFamily(
            "vllm:spec_decode_num_accepted_tokens_per_pos",
            "Drafts that were kept, by their place in the draft.",
            labels=(*LABELS, "position"),
        )
        for position, count in enumerate(stats.num_accepted_tokens_per_pos):
            kept.add_metric((*self._labels, str(position)), count)
        yield kept
        info = GaugeMetricFamily(
            "vllm:cache_config_info", "How the KV cache is set up.", labels=("engine", *self._cache_config)
        )
        info.add_metric((self._labels[1], *self._cache_config.values()), 1)
        yield info
