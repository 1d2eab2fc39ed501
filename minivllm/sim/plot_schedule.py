"""Pictures of schedules: requests over time (Gantt), slots in use, latencies. Needs matplotlib, only when called."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from minivllm.sim.schedule import ScheduleResult
from minivllm.sim.schedule_report import summarize_schedule
from minivllm.sim.stats import Distribution
from minivllm.viz.palette import BLUE, MEMORY_STYLES, REQUEST_STYLES, SKY_BLUE, VERMILION, WHITE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_ROWS = 256  # requests in a Gantt chart: more lines than that cannot be told apart


class Bar(NamedTuple):
    """A stretch of one request's time, in seconds."""

    request_id: str
    kind: str  # a key of REQUEST_STYLES
    start: float
    end: float


def gantt_bars(result: ScheduleResult) -> list[Bar]:
    """Every request's life as bars without gaps, from arrival to last token. Touching bars of one kind are one."""
    now = {request_id: record.request.arrival for request_id, record in result.requests.items()}
    bars: dict[str, list[Bar]] = {request_id: [] for request_id in result.requests}

    def add(request_id: str, kind: str, end: float) -> None:
        start, mine = now[request_id], bars[request_id]
        now[request_id] = end
        if mine and mine[-1].kind == kind:
            start = mine.pop().start
        mine.append(Bar(request_id, kind, start, end))

    for step in result.steps:
        for request_id in step.num_tokens:
            if now[request_id] < step.start:
                add(request_id, "waiting", step.start)
            add(request_id, "prefill" if request_id in step.prefill else "decode", step.end)
    return [bar for mine in bars.values() for bar in mine]


def plot_schedule(results: Sequence[ScheduleResult], path: str | Path, title: str) -> None:
    """Draw requests over time and slots in use, a column per set-up; the latencies of all below; write the picture."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = len(results)
    figure = Figure(figsize=(max(9.0, 4.6 * columns), 10.0), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(2, 1, height_ratios=[3.1, 0.9])
    figure.suptitle(title, fontsize=13)
    charts = grid[0].subgridspec(2, columns, height_ratios=[3, 1])
    end = 1.01 * max(result.steps[-1].end for result in results)
    for column, result in enumerate(results):
        _draw_gantt(figure.add_subplot(charts[0, column]), result, end, is_first=column == 0)
        _draw_slots(figure.add_subplot(charts[1, column]), result, end, is_first=column == 0)
    _draw_latencies(figure, grid[1].subgridspec(1, 3), results)
    _add_legend(figure)
    figure.savefig(path, dpi=130)


def _draw_gantt(axes: Axes, result: ScheduleResult, end: float, is_first: bool) -> None:
    rows = {request_id: row for row, request_id in enumerate(list(result.requests)[:MAX_ROWS])}
    bars = [bar for bar in gantt_bars(result) if bar.request_id in rows]
    for kind, style in REQUEST_STYLES.items():
        height = 0.3 if kind == "waiting" else 0.86
        for bar in bars:
            if bar.kind == kind:
                low, span = rows[bar.request_id] - height / 2, [(bar.start, bar.end - bar.start)]
                axes.broken_barh(span, (low, height), facecolors=style.color, linewidth=0, snap=False)
    lost = [(step.start, rows[i]) for step in result.steps for i in step.preempted if i in rows]
    axes.plot(
        [x for x, _ in lost], [y for _, y in lost], "x", color=VERMILION, markersize=4, markeredgewidth=1.2
    )
    rate = summarize_schedule(result).output_tokens_per_second
    axes.set_title(f"{result.config.label}\n{rate:.0f} tokens/s", fontsize=11)
    axes.set_xlim(0, end)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.tick_params(labelbottom=False, labelleft=is_first)
    if is_first:
        shown = (
            f", the first {len(rows)} of {len(result.requests)}" if len(rows) < len(result.requests) else ""
        )
        axes.set_ylabel(f"request, in order of arrival{shown}")


def _draw_slots(axes: Axes, result: ScheduleResult, end: float, is_first: bool) -> None:
    times = [step.start for step in result.steps] + [result.steps[-1].end]
    counts = [len(step.num_tokens) for step in result.steps]
    seats = result.config.max_num_seqs
    axes.stairs([seats] * len(counts), times, fill=True, color=MEMORY_STYLES["free"].color)
    axes.stairs(counts, times, fill=True, color=BLUE)
    axes.set_xlim(0, end)
    axes.set_ylim(0, seats)
    axes.set_xlabel(f"seconds; {100 * summarize_schedule(result).slot_utilization:.0f} % of the slots in use")
    axes.tick_params(labelleft=is_first)
    if is_first:
        axes.set_ylabel("slots in use")


def _draw_latencies(figure: Figure, grid: Any, results: Sequence[ScheduleResult]) -> None:
    summaries = [summarize_schedule(result) for result in results]
    groups: list[tuple[str, float, list[Distribution | None]]] = [
        ("arrival to first token, s", 1, [s.ttft for s in summaries]),
        ("between two tokens, ms", 1000, [s.gap for s in summaries]),
        ("arrival to last token, s", 1, [s.e2e for s in summaries]),
    ]
    for column, (name, scale, distributions) in enumerate(groups):
        axes = figure.add_subplot(grid[0, column])
        for row, values in enumerate(distributions):
            if values is not None:
                _draw_latency(axes, row, scale * values.p50, scale * values.p99, scale * values.max)
        axes.margins(x=0.75)
        axes.set_xlim(left=0)
        axes.set_ylim(len(results) - 0.4, -0.6)
        axes.set_yticks(range(len(results)), [s.label if column == 0 else "" for s in summaries])
        axes.set_title(name, fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)


def _draw_latency(axes: Axes, row: int, p50: float, p99: float, most: float) -> None:
    """Two bars, one over the other, and three numbers; the largest may be far away, so it is only written."""
    axes.barh(row, p99, 0.62, color=SKY_BLUE, hatch="//", edgecolor=WHITE)
    axes.barh(row, p50, 0.62, color=BLUE)
    axes.text(
        p99, row, " " + " / ".join(_short(value) for value in (p50, p99, most)), va="center", fontsize=9
    )


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _add_legend(figure: Figure) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = [
        Patch(facecolor=style.color, label=style.label) for style in REQUEST_STYLES.values()
    ]
    handles.append(Line2D([], [], color=VERMILION, marker="x", linestyle="", label="preempted"))
    handles.append(Patch(facecolor=BLUE, label="median (first number)"))
    handles.append(
        Patch(
            facecolor=SKY_BLUE, hatch="//", edgecolor=WHITE, label="99th percentile (second; third: the most)"
        )
    )
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=10)
