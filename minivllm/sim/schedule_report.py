"""What a schedule comes to: throughput, utilization and latencies; and the log of its rounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from minivllm.sim.schedule import RequestRecord, ScheduleResult, StepRecord
from minivllm.sim.stats import Distribution


@dataclass(frozen=True)
class ScheduleSummary:
    """Figures of one run. Times in seconds of the simulated clock.

    Utilization is an average over the time in which steps ran: `slots` counts the requests in a step against
    `max_num_seqs`, `kv` the blocks in use.
    """

    label: str
    num_steps: int
    num_computed_tokens: int
    tokens_per_step: float
    makespan: float  # from the first arrival to the last token
    output_tokens_per_second: float
    requests_per_second: float
    slot_utilization: float
    kv_utilization: float
    num_preemptions: int
    ttft: Distribution | None
    ttft_by_priority: dict[int, Distribution | None]  # the most urgent first
    tpot: Distribution | None
    gap: Distribution | None  # between two tokens of one request
    e2e: Distribution | None


def summarize_schedule(result: ScheduleResult) -> ScheduleSummary:
    """Sum up a run."""
    records = list(result.requests.values())
    makespan = result.steps[-1].end - min(record.request.arrival for record in records)
    num_tokens = sum(len(record.token_times) for record in records)
    num_computed = sum(sum(step.num_tokens.values()) for step in result.steps)
    num_seats = result.config.max_num_seqs
    return ScheduleSummary(
        label=result.config.label,
        num_steps=len(result.steps),
        num_computed_tokens=num_computed,
        tokens_per_step=num_computed / len(result.steps),
        makespan=makespan,
        output_tokens_per_second=num_tokens / makespan,
        requests_per_second=len(records) / makespan,
        slot_utilization=_over_time(
            result.steps, [len(step.num_tokens) / num_seats for step in result.steps]
        ),
        kv_utilization=_over_time(result.steps, [step.kv_usage for step in result.steps]),
        num_preemptions=sum(record.num_preemptions for record in records),
        ttft=Distribution.of([record.ttft for record in records]),
        ttft_by_priority=_ttft_by_priority(records),
        tpot=Distribution.of([record.tpot for record in records if record.tpot is not None]),
        gap=Distribution.of([gap for record in records for gap in record.gaps]),
        e2e=Distribution.of([record.e2e for record in records]),
    )


def _ttft_by_priority(records: Sequence[RequestRecord]) -> dict[int, Distribution | None]:
    priorities = sorted({record.request.priority for record in records})
    return {p: Distribution.of([r.ttft for r in records if r.request.priority == p]) for p in priorities}


def _over_time(steps: Sequence[StepRecord], values: Sequence[float]) -> float:
    return sum(s.duration * v for s, v in zip(steps, values, strict=True)) / sum(s.duration for s in steps)


def schedule_json(result: ScheduleResult) -> dict[str, Any]:
    """{"summary": ..., "steps": [...], "requests": [...]}: enough to draw the Gantt chart from."""
    return {
        "summary": asdict(summarize_schedule(result)),
        "steps": [_step_json(step) for step in result.steps],
        "requests": [
            {
                **asdict(record.request),
                "first_scheduled": record.first_scheduled,
                "first_token": record.token_times[0],
                "finished": record.token_times[-1],
                "num_preemptions": record.num_preemptions,
            }
            for record in result.requests.values()
        ],
    }


def _step_json(step: StepRecord) -> dict[str, Any]:
    return {**asdict(step), "prefill": sorted(step.prefill)}


def round_log(result: ScheduleResult) -> str:
    """One line per step: who joined, who computed how many tokens, who left, how many still wait."""
    lines = []
    for number, step in enumerate(result.steps, start=1):
        batch = " ".join(f"{request_id}:{tokens}" for request_id, tokens in step.num_tokens.items())
        parts = [f"round {number}", f"batch of {len(step.num_tokens)} [{batch}]"]
        for word, ids in (
            ("joined", step.admitted),
            ("preempted", step.preempted),
            ("finished", step.finished),
        ):
            if ids:
                parts.append(f"{word} {' '.join(ids)}")
        lines.append(" | ".join([*parts, f"waiting {step.num_waiting}"]))
    return "\n".join(lines)
