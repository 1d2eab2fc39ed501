"""Plain text tables for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from minivllm.sim.memory_report import MemorySummary, expected_paged_waste
from minivllm.sim.paper import PAPER, REGROUPED, regroup
from minivllm.sim.schedule_report import ScheduleSummary
from minivllm.sim.stats import Distribution
from minivllm.sim.trace import Trace
from minivllm.sim.usage import CLASSES


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell; the first is set flush left, the others flush right."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        padded = [cell.rjust(width) for cell, width in zip(cells, widths, strict=True)]
        return "  ".join([cells[0].ljust(widths[0]), *padded[1:]]).rstrip()

    return "\n".join([line(header), line(["-" * width for width in widths]), *map(line, rows)])


def describe(trace: Trace) -> str:
    """A trace in one line."""
    return (
        f"{trace.name}: {len(trace.requests)} requests, on average {trace.mean_prompt_len:.0f} tokens in and "
        f"{trace.mean_output_len:.0f} out"
    )


def memory_text(trace: Trace, summaries: Sequence[MemorySummary], block_size: int, with_paper: bool) -> str:
    """All that the command line says of memory policies; `with_paper`: beside the PagedAttention paper's figures."""
    parts = [describe(trace), memory_table(summaries)]
    if with_paper and (compared := paper_table(summaries)):
        parts.append(
            "In the classes of the PagedAttention paper, figure 2 (requests: figure 13a). The paper measured a real\n"
            "system on the real lengths; these lengths are drawn, with the same means (see minivllm/sim/paper.py)."
        )
        parts.append(compared)
    parts += [_paged_waste(summary, block_size) for summary in summaries if summary.policy == "paged"]
    return "\n\n".join(parts)


def memory_table(summaries: Sequence[MemorySummary]) -> str:
    """One row per policy: shares of the capacity in percent, requests in memory, preemptions."""
    rows = []
    for summary in summaries:
        shares = [f"{100 * summary.shares[name]:.1f}" for name in CLASSES]
        name = summary.policy if summary.is_under_load else f"{summary.policy} *"
        rows.append([name, *shares, f"{summary.mean_running:.1f}", str(summary.num_preemptions)])
    table = text_table(["policy", *(f"{name} %" for name in CLASSES), "requests", "preempted"], rows)
    lines = [f"Shares of the {summaries[0].capacity:,} token slots, averaged while requests waited.", table]
    if not all(summary.is_under_load for summary in summaries):
        lines.append("* nobody ever waited: averaged over the whole run")
    return "\n".join(lines)


def _paged_waste(summary: MemorySummary, block_size: int) -> str:
    live, waste = summary.mean_live_tokens, 100 * summary.waste_of_allocated
    expected = 100 * expected_paged_waste(live, block_size)
    return (
        f"paged: {waste:.2f} % of the allocated slots are unwritten. A request has L = {live:.0f} tokens on average,\n"
        f"and (B - 1) / 2 / (L + (B - 1) / 2) with B = {block_size} gives {expected:.2f} %."
    )


def paper_table(summaries: Sequence[MemorySummary]) -> str:
    """Ours / the paper's, for the policies that the paper has; "" if there are none."""
    rows = []
    for summary in summaries:
        if (bar := PAPER.get(summary.policy)) is None:
            continue
        ours = regroup(summary)
        theirs = {name: getattr(bar, name) for name in REGROUPED}
        cells = [f"{ours[name]:.1f} / {'-' if theirs[name] is None else theirs[name]}" for name in REGROUPED]
        rows.append(
            [f"{summary.policy} / {bar.name}", *cells, f"{summary.mean_running:.1f} / {bar.batch:.1f}"]
        )
    header = ["ours / paper's", "used %", "reserved %", "internal %", "external and others %", "requests"]
    return text_table(header, rows) if rows else ""


def schedule_table(summaries: Sequence[ScheduleSummary]) -> str:
    """One column per set-up, one row per figure: there are more figures than set-ups."""
    first = summaries[0]
    rows = [
        ["output tokens per second", *(f"{s.output_tokens_per_second:.0f}" for s in summaries)],
        [
            "  against the first",
            *(f"{s.output_tokens_per_second / first.output_tokens_per_second:.2f}x" for s in summaries),
        ],
        ["time for all, s", *(f"{s.makespan:.1f}" for s in summaries)],
        ["steps", *(str(s.num_steps) for s in summaries)],
        ["tokens computed", *(f"{s.num_computed_tokens:,}" for s in summaries)],
        ["tokens per step", *(f"{s.tokens_per_step:.1f}" for s in summaries)],
        ["slots in use, %", *(f"{100 * s.slot_utilization:.1f}" for s in summaries)],
        ["KV cache in use, %", *(f"{100 * s.kv_utilization:.1f}" for s in summaries)],
        ["preemptions", *(str(s.num_preemptions) for s in summaries)],
        ["to first token, s (p50 / p99)", *(_pair(s.ttft, 1, 2) for s in summaries)],
        *_by_priority(summaries),
        ["per output token, ms (p50 / p99)", *(_pair(s.tpot, 1000, 1) for s in summaries)],
        ["between tokens, ms (p99 / max)", *(_worst(s.gap) for s in summaries)],
        ["end to end, s (p50 / p99)", *(_pair(s.e2e, 1, 2) for s in summaries)],
    ]
    return text_table(["", *(s.label for s in summaries)], rows)


def _by_priority(summaries: Sequence[ScheduleSummary]) -> list[list[str]]:
    """Nothing, if all requests are equally urgent."""
    priorities = list(summaries[0].ttft_by_priority)
    if len(priorities) == 1:
        return []
    return [
        [f"  of priority {p}", *(_pair(s.ttft_by_priority[p], 1, 2) for s in summaries)] for p in priorities
    ]


def _pair(values: Distribution | None, scale: float, digits: int) -> str:
    return "-" if values is None else f"{values.p50 * scale:.{digits}f} / {values.p99 * scale:.{digits}f}"


def _worst(values: Distribution | None) -> str:
    return "-" if values is None else f"{1000 * values.p99:.1f} / {1000 * values.max:.1f}"
