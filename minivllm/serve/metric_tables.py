"""What is measured, as tables: vLLM's names, one line each, and the buckets of the histograms."""

from __future__ import annotations

from collections.abc import Callable

from minivllm.outputs import EngineStats

LABELS = ("model_name", "engine")
FINISH_REASONS = ("stop", "length", "abort", "error")
# fmt: off
_TTFT = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640)
_PER_TOKEN = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 10, 40)
_REQUEST = (0.01, 0.03, 0.1, 0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 960, 1920, 7680)
# fmt: on
_STEP = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
_SMALL = (1, 2, 5, 10, 20)

# name, help, buckets (None: counts of tokens, up to the length of the context)
HISTOGRAMS: tuple[tuple[str, str, tuple[float, ...] | None], ...] = (
    ("time_to_first_token_seconds", "Arrival to the first token.", _TTFT),
    ("inter_token_latency_seconds", "From one token of a choice to its next.", _PER_TOKEN),
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
    ("request_max_num_generation_tokens", "Tokens of the longest choice of a request.", None),
    ("request_prefill_kv_computed_tokens", "Prompt tokens that no cache hit spared.", None),
    ("request_params_max_tokens", "max_tokens of a request.", None),
    ("request_params_n", "n of a request.", _SMALL),
    ("iteration_tokens_total", "Tokens that a step computed.", _STEP),
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
    ("spec_decode_num_drafts", "Times that drafts of a request were verified.", lambda s: s.num_drafts),
    ("spec_decode_num_draft_tokens", "Tokens drafted and verified.", lambda s: s.num_draft_tokens),
    ("spec_decode_num_accepted_tokens", "Drafts that were kept.", lambda s: s.num_accepted_tokens),
)


def token_buckets(max_model_len: int) -> tuple[int, ...]:
    """1, 2, 5, 10, 20, 50 ... up to the length of the context."""
    buckets = [step * 10**power for power in range(9) for step in (1, 2, 5)]
    return tuple(bucket for bucket in buckets if bucket <= max_model_len) or (1,)
