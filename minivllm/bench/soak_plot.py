"""The minutes of `bench soak` as a picture: blocks, latency, memory, and how fast the machine was."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from minivllm.viz.drawing import Drawing
from minivllm.viz.panels import Line, Panel, draw_panels


def draw(result: Mapping[str, Any]) -> Drawing:
    """From a result of `bench soak`, live or read from its file."""
    rows = result["rows"]

    def of(name: str, title: str) -> Line:
        return Line(title, [row[name] for row in rows])

    panels = [
        Panel(
            f"Blocks in use, of {result['blocks']}",
            [of("most_blocks_in_use", "most under load"), of("idle_blocks_in_use", "after the load")],
        ),
        Panel("Memory of the server when idle", [of("idle_rss_mib", "resident")], "MiB"),
        Panel("One request alone", [of("alone_e2el_ms", "start to end")], "ms"),
        Panel("The machine: one fixed computation", [of("yardstick_ms", "yardstick")], "ms"),
        Panel("One request alone, in yardsticks", [of("alone_in_yardsticks", "quotient")]),
        Panel(
            "Time to first token under load", [of("p50_ttft_ms", "median"), of("p99_ttft_ms", "p99")], "ms"
        ),
        Panel("Between tokens under load", [of("p50_itl_ms", "median"), of("p99_itl_ms", "p99")], "ms"),
    ]
    return draw_panels(panels, "minute", [row["minute"] for row in rows])
