"""From the timings of requests to the figures of `bench serve`: throughput, latency by percentile, goodput."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from minivllm.bench.serve_client import Timing

LATENCIES = {
    "ttft": "Time to first token",
    "tpot": "Time per output token",
    "itl": "Inter-token latency",
    "e2el": "End-to-end latency",
}


def summarize(
    timings: Sequence[Timing], seconds: float, percentiles: Sequence[float], goodput: Mapping[str, float]
) -> dict[str, Any]:
    """The figures; latencies in milliseconds.

    Args:
        timings: of all requests. seconds: that all of them took.
        percentiles: such as 50, 90, 99. goodput: latency -> the most milliseconds it may take to count as good.
    """
    done = [timing for timing in timings if timing.error is None]
    num_out = sum(timing.num_output_tokens for timing in done)
    num_in = sum(timing.num_prompt_tokens for timing in done)
    result: dict[str, Any] = {
        "completed": len(done),
        "failed": len(timings) - len(done),
        "errors": sorted({timing.error for timing in timings if timing.error})[:5],
        "duration_s": seconds,
        "total_input_tokens": num_in,
        "total_output_tokens": num_out,
        "request_throughput": len(done) / seconds,
        "output_throughput": num_out / seconds,
        "total_token_throughput": (num_in + num_out) / seconds,
    }
    for name in LATENCIES:
        result |= _latency(
            name, [1000 * value for timing in done for value in _values(timing, name)], percentiles
        )
    if goodput:
        good = sum(all(1000 * v <= limit for n, limit in goodput.items() for v in _whole(t, n)) for t in done)
        result |= {"goodput_limits_ms": dict(goodput), "request_goodput": good / seconds}
    return result


def _values(timing: Timing, name: str) -> list[float]:
    if name == "itl":
        return timing.itl
    value = getattr(timing, name)
    return [] if value is None else [value]


def _whole(timing: Timing, name: str) -> list[float]:
    """One value for a request: of the times between tokens, the longest."""
    return [max(timing.itl)] if name == "itl" and timing.itl else _values(timing, name)


def _latency(name: str, values: Sequence[float], percentiles: Sequence[float]) -> dict[str, float]:
    if not values:
        return {}
    figures = {f"mean_{name}_ms": sum(values) / len(values)}
    ordered = sorted(values)
    for percentile in percentiles:
        figures[f"p{percentile:g}_{name}_ms"] = percentile_of(ordered, percentile)
    return figures


def percentile_of(ordered: Sequence[float], percentile: float) -> float:
    """By linear interpolation between the two nearest of the ordered values."""
    place = (len(ordered) - 1) * percentile / 100
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def parse_goodput(words: Sequence[str]) -> dict[str, float]:
    """["ttft:200", "tpot:50"] -> {"ttft": 200.0, "tpot": 50.0}, milliseconds.

    Raises:
        ValueError: a word is not of this form.
    """
    limits = {}
    for word in words:
        name, _, limit = word.partition(":")
        if name not in LATENCIES or not limit.replace(".", "", 1).isdigit():
            raise ValueError(
                f"goodput must be like ttft:200, with one of {', '.join(LATENCIES)}, not {word!r}"
            )
        limits[name] = float(limit)
    return limits


def describe(result: Mapping[str, Any], percentiles: Sequence[float]) -> str:
    """The figures as a table for the terminal."""
    lines = [
        f"{result['completed']} requests done, {result['failed']} failed, in {result['duration_s']:.2f} s",
        f"{result['request_throughput']:.2f} requests/s, {result['output_throughput']:.1f} output tokens/s, "
        f"{result['total_token_throughput']:.1f} tokens/s in all",
    ]
    lines += [f"error: {error}" for error in result["errors"]]
    columns = ["mean", *(f"p{percentile:g}" for percentile in percentiles)]
    lines.append(f"{'milliseconds':24}" + "".join(f"{column:>10}" for column in columns))
    for name, title in LATENCIES.items():
        if f"mean_{name}_ms" in result:
            values = [result[f"{column}_{name}_ms"] for column in columns]
            lines.append(f"{title:24}" + "".join(f"{value:10.2f}" for value in values))
    if "request_goodput" in result:
        lines.append(
            f"goodput: {result['request_goodput']:.2f} requests/s within {result['goodput_limits_ms']}"
        )
    return "\n".join(lines)
