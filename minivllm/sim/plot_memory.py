"""Pictures of memory simulations: bars by policy, and maps of who lies where. Needs matplotlib when called."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minivllm.sim.memory import Frame
from minivllm.sim.memory_report import MemoryResult
from minivllm.sim.paper import PAPER
from minivllm.sim.usage import CLASSES
from minivllm.viz.palette import BLACK, MEMORY_STYLES, WHITE, ink_on

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAP_STEPS = 900  # how much of the run the maps show
MAP_STRIDE = 3
_MAP_ROWS = 393  # addresses are drawn in so many groups
_MIN_LABEL = 4  # percent: a thinner segment has no room for its number


def wants_layout(step: int, event: str) -> bool:
    """The frames that the maps are drawn from, as `keep_layout` of a simulation."""
    return event == "step" and step < MAP_STEPS and step % MAP_STRIDE == 0


def plot_memory(
    results: Sequence[MemoryResult], path: str | Path, title: str, with_paper: bool = False
) -> None:
    """Draw bars above, maps below, and write the picture.

    Args:
        results: one for each policy; the maps need runs with `keep_layout=wants_layout`.
        path: where to; the ending chooses the format (.png, .svg, .pdf).
        title: what was simulated.
        with_paper: mark the paper's share of used memory beside ours (for its own workload only).
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(max(9.0, 1.9 * len(results) + 1.5), 9.0), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(2, len(results), height_ratios=[1, 1.15])
    figure.suptitle(title, fontsize=13)
    _draw_bars(figure.add_subplot(grid[0, :]), results, with_paper)
    first = None
    for column, result in enumerate(results):
        axes = figure.add_subplot(grid[1, column], sharey=first)
        first = first or axes
        _draw_map(axes, result.snapshots, result.summary.capacity)
        axes.set_title(result.summary.policy, fontsize=11)
        axes.set_xlabel("step")
        axes.yaxis.set_major_formatter("{x:,.0f}")
        axes.tick_params(labelleft=column == 0)
    if first is not None:
        first.set_ylabel("address, in tokens")
    _add_legend(figure, with_paper)
    figure.savefig(path, dpi=130)


def _draw_bars(axes: Axes, results: Sequence[MemoryResult], with_paper: bool) -> None:
    for x, result in enumerate(results):
        bottom = 0.0
        for name in CLASSES:
            height, style = 100 * result.summary.shares[name], MEMORY_STYLES[name]
            axes.bar(
                x, height, 0.62, bottom, color=style.color, hatch=style.hatch, edgecolor=WHITE, linewidth=0.6
            )
            if height >= _MIN_LABEL:
                _label(axes, x, bottom + height / 2, f"{height:.1f}", style.color)
            bottom += height
        bar = PAPER.get(result.summary.policy) if with_paper else None
        if bar is not None:
            axes.plot([x - 0.42, x - 0.33], [bar.used] * 2, color=BLACK, linewidth=2.5, solid_capstyle="butt")
            axes.text(x - 0.43, bar.used, f"{bar.used}", ha="right", va="center", fontsize=10)
    axes.set_xticks(range(len(results)), [_tick(result) for result in results], fontsize=10)
    axes.set_xlim(-0.75, len(results) - 0.5)
    axes.set_ylim(0, 100)
    axes.set_ylabel("share of the KV cache, %\naverage while requests wait")
    axes.spines[["top", "right"]].set_visible(False)


def _tick(result: MemoryResult) -> str:
    more = "" if result.summary.is_under_load else ", nobody waited"
    return f"{result.summary.policy}\n{result.summary.mean_running:.1f} requests{more}"


def _label(axes: Axes, x: float, y: float, text: str, background: str) -> None:
    box = {"facecolor": background, "edgecolor": "none", "pad": 1.5}  # keeps the pattern out of the digits
    axes.text(x, y, text, ha="center", va="center", fontsize=10, color=ink_on(background), bbox=box)


def _draw_map(axes: Axes, snapshots: Sequence[Frame], capacity: int) -> None:
    from matplotlib.colors import ListedColormap

    if not snapshots:
        axes.text(0.5, 0.5, "no layout kept", ha="center", va="center", transform=axes.transAxes)
        return
    colors = ListedColormap([MEMORY_STYLES[name].color for name in CLASSES])
    axes.imshow(
        address_map(snapshots, capacity),
        aspect="auto",
        origin="lower",
        interpolation="nearest",
        cmap=colors,
        vmin=-0.5,
        vmax=len(CLASSES) - 0.5,
        extent=(snapshots[0].step, snapshots[-1].step + MAP_STRIDE, 0, capacity),
    )


def address_map(snapshots: Sequence[Frame], capacity: int) -> Any:
    """What each group of addresses mostly holds at each snapshot.

    Returns:
        numpy int array [groups of addresses, snapshots], indices into `CLASSES`.
    """
    import numpy as np

    edges = np.linspace(0, capacity, min(_MAP_ROWS, capacity) + 1).astype(int)
    columns = []
    for frame in snapshots:
        cells = np.full(
            capacity, CLASSES.index("external" if frame.usage.external > frame.usage.free else "free")
        )
        for piece in frame.layout or ():
            written, promised = piece.start + piece.used, piece.start + piece.used + piece.reserved
            cells[piece.start : written] = CLASSES.index("used")
            cells[written:promised] = CLASSES.index("reserved")
            cells[promised : piece.start + piece.size] = CLASSES.index("internal")
        counts = [np.add.reduceat(cells == index, edges[:-1]) for index in range(len(CLASSES))]
        columns.append(np.argmax(counts, axis=0))
    return np.stack(columns, axis=1)


def _add_legend(figure: Figure, with_paper: bool) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = [
        Patch(facecolor=style.color, hatch=style.hatch, edgecolor=WHITE, label=style.label)
        for style in MEMORY_STYLES.values()
    ]
    if with_paper:
        handles.append(
            Line2D([], [], color=BLACK, linewidth=2.5, label="used, as the paper's figure 2 has it")
        )
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=10)
