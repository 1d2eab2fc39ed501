"""A request trace as a value: who arrives when, with how long a prompt, and how long the answer will be.

A simulator needs no words, only lengths. The answer's length is known to the trace, and hidden from every policy but
the oracle's. Traces are written by hand (`fixed_trace`), drawn with a seed (`generate_trace`, `dataset_trace`), or read
from JSON.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields, replace
from pathlib import Path
from random import Random
from typing import Any

from minivllm.sim.lengths import Exponential, Lengths, LogNormal, Uniform

# Bounds on what a typing error could cost, not limits of the method.
MAX_REQUESTS = 100_000
MAX_LEN = 1_000_000

# Mean prompt and answer lengths in tokens. Source: PagedAttention (SOSP 2023), section 6.1 and figure 11.
PUBLISHED_MEANS = {"sharegpt": (161, 338), "alpaca": (19, 58)}
DATASETS = (*PUBLISHED_MEANS, "short-chats", "long-prompts", "system-prompt", "two-tiers")
SHAPES = ("exponential", "lognormal")


@dataclass(frozen=True, slots=True)
class TraceRequest:
    """One request.

    Raises:
        ValueError: a length out of [1, 1000000], an arrival that is not a finite time of at least 0, a shared_len out
            of [0, prompt_len], or a priority that is no integer.
    """

    request_id: str
    arrival: float  # seconds since the start
    prompt_len: int  # tokens
    output_len: int  # tokens it will generate: at least one
    shared_len: int = 0  # leading prompt tokens that are the same in all requests, as far as each has them
    priority: int = 0  # smaller is more urgent

    def __post_init__(self) -> None:
        if not isinstance(self.request_id, str) or not self.request_id:
            raise ValueError(f"request_id must be a non-empty string, not {self.request_id!r}")
        for name in ("prompt_len", "output_len"):
            value = getattr(self, name)
            if not _is_integer(value) or not 1 <= value <= MAX_LEN:
                where = f"{name} of request {self.request_id!r}"
                raise ValueError(f"{where} must be an integer in [1, {MAX_LEN}], not {value!r}")
        if not _is_integer(self.shared_len) or not 0 <= self.shared_len <= self.prompt_len:
            where = f"shared_len of request {self.request_id!r}"
            raise ValueError(f"{where} must be an integer in [0, prompt_len], not {self.shared_len!r}")
        if not _is_integer(self.priority):
            raise ValueError(
                f"priority of request {self.request_id!r} must be an integer, not {self.priority!r}"
            )
        arrival = self.arrival
        if isinstance(arrival, bool) or not isinstance(arrival, (int, float)) or not 0 <= arrival < math.inf:
            raise ValueError(
                f"arrival of request {self.request_id!r} must be finite seconds from 0 on, not {arrival!r}"
            )

    @property
    def num_kv_tokens(self) -> int:
        """Tokens in the KV cache when it finishes. The last token is sampled but never written: nothing reads it."""
        return self.prompt_len + self.output_len - 1


@dataclass(frozen=True)
class Trace:
    """Requests in order of arrival; equal arrivals keep the order they were given in.

    Raises:
        ValueError: no requests, too many, or two with one id.
    """

    name: str
    requests: tuple[TraceRequest, ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.requests) <= MAX_REQUESTS:
            raise ValueError(f"a trace must hold 1 to {MAX_REQUESTS} requests, not {len(self.requests)}")
        if len({request.request_id for request in self.requests}) != len(self.requests):
            raise ValueError(f"trace {self.name!r} holds two requests with the same request_id")
        object.__setattr__(
            self, "requests", tuple(sorted(self.requests, key=lambda request: request.arrival))
        )

    @property
    def mean_prompt_len(self) -> float:
        return sum(request.prompt_len for request in self.requests) / len(self.requests)

    @property
    def mean_output_len(self) -> float:
        return sum(request.output_len for request in self.requests) / len(self.requests)

    def to_json(self) -> dict[str, Any]:
        """{"name": ..., "requests": [...]}, each request with the fields of TraceRequest."""
        return {"name": self.name, "requests": [asdict(request) for request in self.requests]}

    @classmethod
    def from_json(cls, data: Any) -> Trace:
        """The inverse of `to_json`. Raises ValueError, with a sentence that says where it stopped."""
        if not isinstance(data, Mapping) or not isinstance(data.get("requests"), Sequence):
            raise ValueError('a trace must be a JSON object with a list under "requests"')
        requests = tuple(_request_from_json(i, item) for i, item in enumerate(data["requests"]))
        return cls(str(data.get("name", "trace")), requests)

    def save(self, path: str | Path) -> None:
        """Write the trace as JSON."""
        Path(path).write_text(json.dumps(self.to_json(), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Trace:
        """Read what `save` wrote.

        Raises:
            OSError: the file cannot be read.
            ValueError: it holds no trace.
        """
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
        except ValueError as error:  # not UTF-8, or not JSON
            raise ValueError(f"{path} is not JSON: {error}") from error
        return cls.from_json(data)


def _request_from_json(index: int, item: Any) -> TraceRequest:
    needed = [field.name for field in fields(TraceRequest) if field.default is MISSING]
    optional = [field.name for field in fields(TraceRequest) if field.default is not MISSING]
    if not isinstance(item, Mapping) or not {*needed} <= {*item} <= {*needed, *optional}:
        raise ValueError(
            f"requests[{index}] must be an object with these fields: {', '.join(needed)}; and perhaps: "
            f"{', '.join(optional)}"
        )
    return TraceRequest(**item)


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


# -- making traces --------------------------------------------------------------------------------------------------


def fixed_trace(
    lengths: Iterable[tuple[int, int]], arrivals: Sequence[float] | None = None, name: str = "fixed"
) -> Trace:
    """A trace written by hand: (prompt, output) lengths, named r1, r2, ...; arriving at 0, or as `arrivals` says."""
    pairs = list(lengths)
    times = [0.0] * len(pairs) if arrivals is None else arrivals
    if len(times) != len(pairs):
        raise ValueError(f"arrivals holds {len(times)} times for {len(pairs)} requests: give one for each")
    rows = zip(times, pairs, strict=True)
    return Trace(name, tuple(TraceRequest(f"r{i}", t, p, o) for i, (t, (p, o)) in enumerate(rows, start=1)))


def generate_trace(
    num_requests: int,
    prompts: Lengths,
    outputs: Lengths,
    *,
    rate: float = math.inf,
    seed: int = 0,
    max_model_len: int = 2048,
    name: str = "generated",
) -> Trace:
    """Draw a trace.

    Args:
        num_requests: how many.
        prompts: prompt lengths; at most half the context, so that there is room for an answer.
        outputs: answer lengths; at most the rest of the context.
        rate: Poisson arrivals per second; infinite = all wait at the start (a backlog).
        seed: of everything that is drawn. Lengths and arrivals have separate streams: another rate, same requests.
        max_model_len: prompt + output of one request, in tokens.
        name: the trace's name.

    Raises:
        ValueError: a number out of range, or lengths that do not fit `max_model_len`.
    """
    if not 1 <= num_requests <= MAX_REQUESTS:
        raise ValueError(f"num_requests must be in [1, {MAX_REQUESTS}], not {num_requests}")
    if not max_model_len >= 2:
        raise ValueError(
            f"max_model_len must be at least 2 (one token of prompt, one of answer), not {max_model_len}"
        )
    prompt_lens = prompts.sample(Random(f"{seed}/prompts"), [max_model_len // 2] * num_requests)
    output_lens = outputs.sample(Random(f"{seed}/outputs"), [max_model_len - n for n in prompt_lens])
    arrivals = poisson_arrivals(num_requests, rate, Random(f"{seed}/arrivals"))
    return fixed_trace(zip(prompt_lens, output_lens, strict=True), arrivals, name)


def poisson_arrivals(num_requests: int, rate: float, rng: Random) -> list[float]:
    """Arrival times in seconds, independent of one another, `rate` a second on average; infinite = all at 0."""
    if not rate > 0:
        raise ValueError(
            f"rate must be a number of requests per second above 0 (inf = all at once), not {rate!r}"
        )
    times, now = [], 0.0
    for _ in range(num_requests):
        now += 0.0 if math.isinf(rate) else -math.log1p(-rng.random()) / rate
        times.append(now)
    return times


def dataset_trace(
    dataset: str,
    num_requests: int,
    *,
    shape: str = "exponential",
    rate: float = math.inf,
    seed: int = 0,
    max_model_len: int = 2048,
) -> Trace:
    """A trace like a known workload: `sharegpt` and `alpaca` by their published means, and four of our own.

    short-chats: prompts 16-256 and answers 8-128, each equally likely. long-prompts: one prompt in eight is 1,024
    tokens with an answer of 64, among chats with means of 64 and 128: what makes whole prefills stall everybody else.
    system-prompt: such chats behind 512 tokens (a quarter of the context, if that is less) that all have in common.
    two-tiers: such chats, and every fourth is urgent: priority 0, the others 1.
    """
    if dataset not in DATASETS:
        raise ValueError(f"dataset must be one of {', '.join(DATASETS)}, not {dataset!r}")
    if shape not in SHAPES:
        raise ValueError(f"shape must be one of {', '.join(SHAPES)}, not {shape!r}")
    distribution = Exponential if shape == "exponential" else LogNormal
    prompts: Lengths
    outputs: Lengths
    if dataset == "short-chats":
        prompts, outputs = Uniform(16, 256), Uniform(8, 128)
    else:
        prompt_mean, output_mean = PUBLISHED_MEANS.get(dataset, (64, 128))
        prompts, outputs = distribution(prompt_mean), distribution(output_mean)
    shared = min(512, max_model_len // 4) if dataset == "system-prompt" else 0
    trace = generate_trace(
        num_requests,
        prompts,
        outputs,
        rate=rate,
        seed=seed,
        max_model_len=max_model_len - shared,
        name=dataset,
    )
    if dataset == "long-prompts":
        return _with_long_prompts(trace, max_model_len)
    if dataset == "system-prompt":
        return _changed(trace, lambda i, r: replace(r, prompt_len=shared + r.prompt_len, shared_len=shared))
    if dataset == "two-tiers":
        return _changed(trace, lambda i, r: replace(r, priority=int(i % 4 > 0)))
    return trace


def _changed(trace: Trace, change: Callable[[int, TraceRequest], TraceRequest]) -> Trace:
    return Trace(trace.name, tuple(change(i, request) for i, request in enumerate(trace.requests)))


def _with_long_prompts(trace: Trace, max_model_len: int) -> Trace:
    """Every eighth request gets a prompt of 1,024 tokens (half the context, if that is less) and a short answer."""
    prompt = min(1024, max_model_len // 2)
    output = min(64, max_model_len - prompt)
    return _changed(trace, lambda i, r: replace(r, prompt_len=prompt, output_len=output) if i % 8 == 4 else r)
