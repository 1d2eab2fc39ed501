"""The dashboard: what an operator watches, step by step, drawn from the event log and nothing else.

The same log that shows blocks and batches says how many run and wait, how full the cache and the budget are, who left,
and how many steps a first token took. Wall-clock times are not in it: the log counts steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean

from minivllm.events import Add, Event, EventLog, Finish, Preempt, Sample, Schedule
from minivllm.viz.drawing import Drawing, group, label, line, number, rect
from minivllm.viz.frames import caption_of, steps
from minivllm.viz.palette import BLUE, GREEN, GREY, ORANGE, PURPLE, VERMILION, ink_on
from minivllm.viz.stepper import Frame, Stepper

WIDTH, MARGIN, GAP = 840, 16, 10
TILE, STRIP, ROW, LEFT = 58, 52, 22, 146
STATES = {  # what a request does -> letter, colour
    "waits": ("w", GREY),
    "runs": ("r", BLUE),
    "preempted": ("x", VERMILION),
    "done": ("d", GREEN),
    "left": ("l", PURPLE),
}


@dataclass(frozen=True)
class Reading:
    """What the dashboard shows after a step."""

    step: int
    states: dict[str, str]  # request id -> one of STATES, in order of arrival
    num_blocks: dict[str, int]  # request id -> blocks in its table
    num_blocks_used: int  # different blocks in all tables
    num_tokens: int  # computed in this step
    budget: int
    num_generated: int  # tokens so far
    first_tokens: tuple[int, ...] = ()  # steps from arrival to first token, of all that have one

    def count(self, state: str) -> int:
        """Requests in a state."""
        return sum(what == state for what in self.states.values())

    @property
    def num_waiting(self) -> int:
        return self.count("waits") + self.count("preempted")


@dataclass
class _Watch:
    """Takes events in and says how things stand."""

    states: dict[str, str] = field(default_factory=dict)
    arrivals: dict[str, int] = field(default_factory=dict)
    first: dict[str, int] = field(default_factory=dict)
    num_generated: int = 0
    load: tuple[int, int] = (0, 1)

    def take_in(self, event: Event) -> None:
        match event:
            case Add():
                self.states[event.request_id] = "waits"
                self.arrivals[event.request_id] = event.step
            case Preempt():
                self.states[event.request_id] = "preempted"
            case Schedule():
                self.states.update(dict.fromkeys(event.num_scheduled_tokens, "runs"))
                self.load = (sum(event.num_scheduled_tokens.values()), event.budget)
            case Sample():
                self.num_generated += len(event.token_ids)
                arrival = self.arrivals.get(event.request_id, event.step)
                self.first.setdefault(event.request_id, event.step - arrival)
            case Finish():
                self.states[event.request_id] = "left" if event.reason == "abort" else "done"


def readings(log: EventLog) -> list[tuple[Reading, str]]:
    """A reading for each step, and a sentence on what has happened in it."""
    budget = next((event.budget for event in log if isinstance(event, Schedule)), 1)
    watch, found = _Watch(load=(0, budget)), []
    for step, events, state in steps(log):
        watch.load = (0, watch.load[1])
        for event in events:
            watch.take_in(event)
        tables = {name: [block for block in blocks if block] for name, blocks in state.tables.items()}
        reading = Reading(
            step,
            dict(watch.states),
            {name: len(blocks) for name, blocks in tables.items()},
            len({block for blocks in tables.values() for block in blocks}),
            *watch.load,
            watch.num_generated,
            tuple(watch.first.values()),
        )
        found.append((reading, caption_of(step, events)))
    return found or [(Reading(0, {}, {}, 0, 0, 1, 0), "Nothing has happened yet.")]


def dashboard_stepper(log: EventLog, title: str = "Dashboard", start: int = 0) -> Stepper:
    """One frame for each step."""
    told = readings(log)
    history = [reading for reading, _ in told]
    frames = [
        Frame(draw_dashboard(history[: i + 1], log.num_blocks - 1, history[-1]), caption)
        for i, (_, caption) in enumerate(told)
    ]
    return Stepper(frames, title, start)


def dashboard(log: EventLog) -> Drawing:
    """How things stand at the end of the log. Of a live engine: draw it again, whenever you look."""
    history = [reading for reading, _ in readings(log)]
    return draw_dashboard(history, log.num_blocks - 1, history[-1])


def draw_dashboard(history: Sequence[Reading], num_blocks: int, last: Reading) -> Drawing:
    """The latest of `history`, and what came before it as strips, with room for all until `last`."""
    now = history[-1]
    most = max(1, len(last.states))
    strips = [
        ("tokens of a step", [one.num_tokens for one in history], now.budget, ORANGE),
        ("requests that run", [one.count("runs") for one in history], most, BLUE),
        ("requests that wait", [one.num_waiting for one in history], most, GREY),
        ("blocks in use", [one.num_blocks_used for one in history], num_blocks, GREEN),
    ]
    shapes = _tiles(now, num_blocks)
    y = MARGIN + TILE + GAP
    for name, values, top, color in strips:
        shapes += _strip(y, name, values, top, color, last.step + 1)
        y += STRIP + GAP
    shapes += _requests(y, now, last)
    height = y + ROW * (len(last.states) + 1) + MARGIN
    return Drawing(WIDTH, height, tuple(shapes), describe(now, num_blocks), to_text(history, num_blocks))


def describe(now: Reading, num_blocks: int) -> str:
    """One sentence with the numbers of the tiles."""
    return (
        f"Step {now.step}: {now.count('runs')} running, {now.num_waiting} waiting, {now.count('done')} done, "
        f"{now.count('left')} left; {now.num_tokens} of {now.budget} tokens; {now.num_blocks_used} of {num_blocks} "
        f"blocks in use; {now.num_generated} tokens generated"
    )


def to_text(history: Sequence[Reading], num_blocks: int) -> str:
    """The sentence, and a line for each request: what it has done in every step, and its blocks."""
    now = history[-1]
    width = max(map(len, now.states), default=0)
    lines = [describe(now, num_blocks)]
    for name in now.states:
        marks = "".join(STATES[one.states[name]][0] if name in one.states else " " for one in history)
        lines.append(f"{name.ljust(width)} |{marks}| {'#' * now.num_blocks.get(name, 0)}".rstrip())
    lines.append(", ".join(f"{letter} = {what}" for what, (letter, _) in STATES.items()) + ", # = a block")
    return "\n".join(lines)


def _tiles(now: Reading, num_blocks: int) -> list[str]:
    first = number(fmean(now.first_tokens)) if now.first_tokens else "-"
    tiles = [
        ("running", str(now.count("runs"))),
        ("waiting", str(now.num_waiting)),
        ("done / left", f"{now.count('done')} / {now.count('left')}"),
        ("blocks in use", f"{now.num_blocks_used} of {num_blocks}"),
        ("tokens generated", str(now.num_generated)),
        ("steps to first token", first),
    ]
    width = (WIDTH - 2 * MARGIN - GAP * (len(tiles) - 1)) / len(tiles)
    shapes = []
    for index, (name, value) in enumerate(tiles):
        x = MARGIN + index * (width + GAP)
        box = rect(x, MARGIN, width, TILE, 'class="mv-line" stroke-opacity=".4"', radius=6)
        name_shape = label(x + 8, MARGIN + 18, name, 'class="mv-soft"', size=11)
        shapes.append(group([box, name_shape, label(x + 8, MARGIN + 45, value, size=20)]))
    return shapes


def _strip(y: float, name: str, values: Sequence[int], top: int, color: str, num_steps: int) -> list[str]:
    """A bar for each step, below the line of the limit."""
    cell = min(48.0, (WIDTH - LEFT - MARGIN - 40) / num_steps)
    shapes = [
        label(MARGIN, y + 20, name),
        label(MARGIN, y + 36, f"at most {top}", 'class="mv-soft"', size=11),
        line(LEFT, y, LEFT + cell * num_steps, y, 'class="mv-line" stroke-opacity=".35"'),
        line(LEFT, y + STRIP, LEFT + cell * num_steps, y + STRIP, 'class="mv-line" stroke-opacity=".35"'),
    ]
    for step, value in enumerate(values):
        height = STRIP * value / top
        if not height:
            continue
        x = LEFT + step * cell
        bar = [rect(x, y + STRIP - height, max(1, cell - 1), height, f'fill="{color}"')]
        if cell >= 16:
            is_tall = height >= 14
            ink, base = (f'fill="{ink_on(color)}"', STRIP) if is_tall else ('class="mv-ink"', STRIP - height)
            bar.append(label(x + (cell - 1) / 2, y + base - 3, str(value), ink, size=10, anchor="middle"))
        shapes.append(group(bar))
    return shapes


def _requests(y: float, now: Reading, last: Reading) -> list[str]:
    """A row for each request: what it does, and a square for each block that it holds."""
    shapes = [label(MARGIN, y + 16, "request", 'class="mv-soft"', size=11)]
    shapes.append(label(LEFT + 90, y + 16, "its blocks", 'class="mv-soft"', size=11))
    for row, name in enumerate(last.states, start=1):
        if name not in now.states:
            continue
        top, what = y + row * ROW, now.states[name]
        _, color = STATES[what]
        pill = [
            rect(LEFT, top, 78, ROW - 4, f'fill="{color}"', radius=4),
            label(LEFT + 39, top + 13, what, f'fill="{ink_on(color)}"', size=11, anchor="middle"),
        ]
        shapes += [label(MARGIN, top + 14, name[:14]), group(pill)]
        size = min(14.0, (WIDTH - LEFT - 110 - MARGIN) / max(1, now.num_blocks.get(name, 0)))
        squares = [
            rect(LEFT + 90 + i * size, top + 2, max(1, size - 2), 14, f'fill="{GREEN}"')
            for i in range(now.num_blocks.get(name, 0))
        ]
        if squares:
            shapes.append(group(squares))
    return shapes
