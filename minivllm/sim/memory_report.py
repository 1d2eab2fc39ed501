"""What a memory simulation comes to: averages by class, and a series thin enough to draw."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from minivllm.sim.memory import Frame, KeepLayout, MemorySimulator
from minivllm.sim.policies.base import MemoryPolicy
from minivllm.sim.trace import Trace
from minivllm.sim.usage import CLASSES

MAX_POINTS = 400  # of a series: more than a picture has columns is noise


@dataclass(frozen=True)
class MemorySummary:
    """Averages over time, each step counting the same.

    `shares` and the means are over the steps in which somebody waited, as a queue is what shows how much a policy can
    hold; if nobody ever waited, over all steps.
    """

    policy: str
    capacity: int  # token slots
    is_under_load: bool  # did anybody wait?
    shares: dict[str, float]  # class -> share of the capacity, 0..1; they add up to 1
    rounding_share: float  # of the capacity, and part of shares["internal"]
    waste_of_allocated: float  # allocated but unwritten slots / allocated slots, over all steps
    mean_running: float
    mean_live_tokens: float  # written tokens per running request, over all steps
    peak_running: int
    num_steps: int
    num_preemptions: int
    num_recomputed_tokens: int
    num_copied_tokens: int


@dataclass(frozen=True)
class MemoryResult:
    """A summary, a thinned series of `step` frames, and the frames that carry a layout."""

    summary: MemorySummary
    series: tuple[Frame, ...]
    snapshots: tuple[Frame, ...]

    def to_json(self) -> dict[str, Any]:
        """Everything but the snapshots: {"summary": ..., "series": {"step": [...], "used": [...], ...}}."""
        series: dict[str, list[int]] = {"step": [frame.step for frame in self.series]}
        for name in CLASSES:
            series[name] = [getattr(frame.usage, name) for frame in self.series]
        series["num_running"] = [frame.num_running for frame in self.series]
        series["num_waiting"] = [frame.num_waiting for frame in self.series]
        return {"summary": asdict(self.summary), "series": series}


class Thinned:
    """Keeps at most `limit` of the items it is shown, evenly spread: when full, it drops every other one."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._stride = 1
        self._num_seen = 0
        self.items: list[Frame] = []

    def add(self, item: Frame) -> None:
        """Show one more item."""
        if self._num_seen % self._stride == 0:
            self.items.append(item)
        self._num_seen += 1
        if len(self.items) >= self._limit:
            self.items = self.items[::2]
            self._stride *= 2


@dataclass
class _Totals:
    """Sums over steps."""

    num_steps: int = 0
    running: int = 0
    rounding: int = 0
    classes: tuple[int, ...] = (0,) * len(CLASSES)

    def add(self, frame: Frame) -> None:
        self.num_steps += 1
        self.running += frame.num_running
        self.rounding += frame.usage.rounding
        self.classes = tuple(a + b for a, b in zip(self.classes, frame.usage[: len(CLASSES)], strict=True))


def run_memory(
    trace: Trace,
    policy: MemoryPolicy,
    *,
    step_time: float = 0.05,
    max_num_seqs: int | None = None,
    keep_layout: KeepLayout | None = None,
) -> MemoryResult:
    """Play `trace` against an empty `policy`, and sum up.

    Arguments and errors as in `simulate_memory`, except that `keep_layout` is asked about `step` frames only.
    """
    simulator = MemorySimulator(
        trace,
        policy,
        step_time=step_time,
        max_num_seqs=max_num_seqs,
        events=("step",),
        keep_layout=keep_layout,
    )
    series, snapshots = Thinned(MAX_POINTS), []
    all_steps, loaded, peak = _Totals(), _Totals(), 0
    for frame in simulator.frames():
        if frame.layout is not None:
            snapshots.append(frame)
        series.add(frame)
        peak = max(peak, frame.num_running)
        for totals in (all_steps, loaded) if frame.num_waiting else (all_steps,):
            totals.add(frame)
    return MemoryResult(_summary(simulator, all_steps, loaded, peak), tuple(series.items), tuple(snapshots))


def _summary(simulator: MemorySimulator, all_steps: _Totals, loaded: _Totals, peak: int) -> MemorySummary:
    policy = simulator.policy
    totals = loaded if loaded.num_steps else all_steps
    scale = 1 / (totals.num_steps * policy.capacity)
    used, reserved, internal = all_steps.classes[:3]
    return MemorySummary(
        policy=policy.name,
        capacity=policy.capacity,
        is_under_load=bool(loaded.num_steps),
        shares={name: count * scale for name, count in zip(CLASSES, totals.classes, strict=True)},
        rounding_share=totals.rounding * scale,
        waste_of_allocated=(reserved + internal) / (used + reserved + internal),
        mean_running=totals.running / totals.num_steps,
        mean_live_tokens=used / all_steps.running,
        peak_running=peak,
        num_steps=all_steps.num_steps,
        num_preemptions=simulator.num_preemptions,
        num_recomputed_tokens=simulator.num_recomputed_tokens,
        num_copied_tokens=policy.num_copied_tokens,
    )


def expected_paged_waste(mean_live_tokens: float, block_size: int) -> float:
    """The share of a paged request's memory that is unwritten, if its length is spread evenly over its last block.

    (B - 1) / 2 slots are empty on average, beside L written ones: (B - 1) / 2 / (L + (B - 1) / 2).
    """
    empty = (block_size - 1) / 2
    return empty / (mean_live_tokens + empty)
