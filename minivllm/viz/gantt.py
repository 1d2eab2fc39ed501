"""Requests against steps: who computes how many tokens in which step, and how much of the step's budget that takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from minivllm.events import Add, Event, EventLog, Finish, Preempt, Schedule
from minivllm.viz.drawing import Drawing, group, label, rect
from minivllm.viz.frames import caption_of, steps
from minivllm.viz.palette import BLACK, REQUEST_STYLES, VERMILION, ink_on
from minivllm.viz.stepper import Frame, Stepper

LEFT, MARGIN, ROW, BAR = 110, 16, 30, 90
MAX_WIDTH = 840


@dataclass
class Chart:
    """What has happened so far: a column for each step."""

    requests: dict[str, int]  # request id -> tokens of its prompt, in order of arrival
    columns: list[dict[str, str]] = field(default_factory=list)  # request id -> "P 8", "d", "." or "x"
    loads: list[tuple[int, int]] = field(default_factory=list)  # (tokens, budget)
    state: dict[str, str] = field(default_factory=dict)  # request id -> what it does between steps

    def take_in(self, events: Sequence[Event]) -> None:
        """One more step."""
        column: dict[str, str] = {}
        for event in events:
            match event:
                case Add():
                    self.state[event.request_id] = "."
                case Preempt():
                    column[event.request_id] = "x"
                    self.state[event.request_id] = "."
                case Schedule():
                    self._schedule(event, column)
        self.columns.append(column)
        for event in events:
            if isinstance(event, Finish):
                self.state.pop(event.request_id, None)

    def _schedule(self, event: Schedule, column: dict[str, str]) -> None:
        for request_id, count in event.num_scheduled_tokens.items():
            is_prompt = event.num_computed_tokens[request_id] < self.requests.get(request_id, 0) or count > 1
            column[request_id] = f"P {count}" if is_prompt else "d"
            self.state[request_id] = ""
        for request_id, what in self.state.items():
            column.setdefault(request_id, what)
        self.loads.append((sum(event.num_scheduled_tokens.values()), event.budget))


def gantt_stepper(
    log: EventLog,
    title: str = "Requests and steps",
    *,
    start: int = 0,
    caption: Callable[[int, Sequence[Event]], str] = caption_of,
) -> Stepper:
    """One frame for each step, in which the chart grows by a column. `caption(step, events)` stands below it."""
    frames = [
        Frame(draw_gantt(chart, num_steps), caption(step, events))
        for chart, num_steps, step, events in _charts(log)
    ]
    return Stepper(frames, title, start)


def token_caption(step: int, events: Sequence[Event]) -> str:
    """Who computes how many tokens in a step, who has to make way, and who is done."""
    told = []
    for event in events:
        match event:
            case Preempt():
                told.append(f"{event.request_id} is preempted")
            case Schedule():
                counts = event.num_scheduled_tokens
                each = ", ".join(f"{request_id} {count}" for request_id, count in counts.items())
                told.append(f"{each}: {sum(counts.values())} of {event.budget} tokens")
            case Finish():
                told.append(f"{event.request_id} is done")
    return f"Step {step}: {'; '.join(told)}."


def gantt(log: EventLog) -> Drawing:
    """The whole chart at once."""
    *_, (chart, num_steps, _, _) = _charts(log)
    return draw_gantt(chart, num_steps)


def _charts(log: EventLog) -> list[tuple[Chart, int, int, Sequence[Event]]]:
    """The chart after each step that scheduled something, the number of steps in all, the step and its events."""
    requests = {event.request_id: event.num_tokens for event in log if isinstance(event, Add)}
    num_steps = sum(isinstance(event, Schedule) for event in log)
    chart = Chart(requests)
    charts: list[tuple[Chart, int, int, Sequence[Event]]] = []
    arrived: list[Event] = []
    for step, events, _ in steps(log):
        if not any(isinstance(event, Schedule) for event in events):
            arrived += events
            continue
        chart.take_in([*arrived, *events])
        arrived = []
        snapshot = Chart(requests, list(chart.columns), list(chart.loads))
        charts.append((snapshot, num_steps, step, events))
    return charts


def draw_gantt(chart: Chart, num_steps: int) -> Drawing:
    """The steps of `chart` in a frame that has room for `num_steps`."""
    cell = max(9, min(34, (MAX_WIDTH - LEFT - MARGIN) // max(1, num_steps)))
    bottom = MARGIN + len(chart.requests) * ROW
    shapes = [label(MARGIN, MARGIN + row * ROW + 19, name[:13]) for row, name in enumerate(chart.requests)]
    for step, column in enumerate(chart.columns):
        for row, request_id in enumerate(chart.requests):
            if column.get(request_id):
                shapes.append(_cell(LEFT + step * cell, MARGIN + row * ROW, cell, column[request_id]))
    shapes += _budget(chart, bottom + 14, cell)
    shapes += _legend(bottom + BAR + 34)
    width = max(MAX_WIDTH, LEFT + num_steps * cell + MARGIN)
    return Drawing(width, bottom + BAR + 60, tuple(shapes), describe(chart), to_text(chart))


def describe(chart: Chart) -> str:
    """One sentence with the numbers of the picture."""
    tokens = sum(load for load, _ in chart.loads)
    room = sum(budget for _, budget in chart.loads)
    preemptions = sum(what == "x" for column in chart.columns for what in column.values())
    share = f"{tokens / room:.0%} of the budget" if room else "nothing"
    return (
        f"{len(chart.requests)} requests over {len(chart.columns)} steps: {tokens} tokens computed, {share}, "
        f"{preemptions} preemptions"
    )


def to_text(chart: Chart) -> str:
    """A line for each request, a character for each step: P = prompt, d = decode, . = waits, x = preempted."""
    width = max(map(len, chart.requests), default=0)
    lines = [
        f"{request_id.ljust(width)} {''.join((column.get(request_id) or ' ')[0] for column in chart.columns)}".rstrip()
        for request_id in chart.requests
    ]
    loads = " ".join(str(load) for load, _ in chart.loads)
    return "\n".join([*lines, f"tokens per step: {loads}", describe(chart)])


def _cell(x: float, y: float, width: int, what: str) -> str:
    if what == "x":
        name, color = "x", VERMILION
    else:
        style = REQUEST_STYLES[{"P": "prefill", "d": "decode", ".": "waiting"}[what[0]]]
        name, color = what[2:] if what[0] == "P" else style.letter, style.color
    shapes = [rect(x, y, width - 1, ROW - 4, f'fill="{color}"', radius=2)]
    if width >= 8 * len(name) + 2:
        ink = f'fill="{ink_on(color)}"'
        shapes.append(label(x + (width - 1) / 2, y + 18, name, ink, size=11, anchor="middle"))
    return group(shapes)


def _budget(chart: Chart, y: float, cell: int) -> list[str]:
    """A bar for each step, as high as the share of the budget that is used."""
    shapes = [label(MARGIN, y + BAR / 2, "tokens of"), label(MARGIN, y + BAR / 2 + 16, "the budget")]
    for step, (load, budget) in enumerate(chart.loads):
        x, height = LEFT + step * cell, (BAR - 14) * load / budget
        color = REQUEST_STYLES["decode"].color
        bar = [
            rect(
                x, y + BAR - height, cell - 1, height, f'fill="{color}" stroke="{BLACK}" stroke-opacity=".4"'
            )
        ]
        bar.append(rect(x, y + 14, cell - 1, BAR - 14, 'class="mv-line" stroke-opacity=".35"'))
        if cell >= 18:
            bar.append(label(x + cell / 2, y + BAR - height - 3, str(load), size=10, anchor="middle"))
        shapes.append(group(bar))
    return shapes


def _legend(y: float) -> list[str]:
    waits, prompt, decode = REQUEST_STYLES.values()
    entries = [
        (".: waits", waits.color, 85),
        (f"number: tokens of a {prompt.label}", prompt.color, 265),
        (f"d: {decode.label}", decode.color, 205),
        ("x: preempted", VERMILION, 110),
    ]
    shapes, x = [], LEFT
    for content, color, width in entries:
        shapes.append(
            group([rect(x, y, 14, 14, f'fill="{color}"', radius=2), label(x + 20, y + 12, content, size=12)])
        )
        x += width
    return shapes
