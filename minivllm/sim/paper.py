"""What the PagedAttention paper measured (Kwon et al., SOSP 2023), to be put beside what we simulate.

Figure 2: average share of the KV cache by class, for Orca with three reservations and for vLLM. Figure 13a: average
number of batched requests, OPT-13B on ShareGPT at 2 requests a second. All numbers below are printed on the figures'
bars, none is read off an axis. Both were measured. Ours is simulated and differs:

- lengths: the paper publishes the means (161 in, 338 out), not the lengths; ours are exponential with these means
- load: ours waits as a backlog from the start, so that the queue is never empty; the paper's arrives at a rate
- time: every step of ours writes one token per running request; a prompt takes one step, whatever its length
- classes: the paper counts what its buddy allocator rounds up as "external fragmentation and others", together with all
  that is not allocated; `regroup` does so too. Its vLLM bar has one number, as the rest is too thin to label
- preemption: ours is by recompute and costs no time
"""

from __future__ import annotations

from dataclasses import dataclass

from minivllm.sim.memory_report import MemorySummary

REGROUPED = ("used", "reserved", "internal", "others")


@dataclass(frozen=True)
class PaperBar:
    """One bar of figure 2, in percent (None: not labelled there), and the batch of figure 13a."""

    name: str
    used: float
    reserved: float | None
    internal: float | None
    others: float | None  # "external fragmentation and others"
    batch: float


PAPER = {
    "max": PaperBar("Orca (Max)", 20.4, 13.3, 57.3, 8.9, 7.00),
    "pow2": PaperBar("Orca (Pow2)", 26.8, 17.9, 13.6, 41.6, 9.81),
    "oracle": PaperBar("Orca (Oracle)", 38.2, 25.2, 0.0, 36.6, 13.62),
    "paged": PaperBar("vLLM", 96.3, None, None, None, 30.42),
}


def regroup(summary: MemorySummary) -> dict[str, float]:
    """Our averages in the paper's four classes, in percent of the capacity."""
    shares, rounding = summary.shares, summary.rounding_share
    grouped = {
        "used": shares["used"],
        "reserved": shares["reserved"],
        "internal": shares["internal"] - rounding,
        "others": shares["external"] + shares["free"] + rounding,
    }
    return {name: 100 * share for name, share in grouped.items()}
