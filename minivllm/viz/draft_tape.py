"""Speculative decoding as a tape: what was drafted, what the model says to it, what counts, which blocks go back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from minivllm.events import Draft, EventLog, Sample, Schedule, Trim
from minivllm.viz.drawing import Drawing, group, label, rect
from minivllm.viz.palette import BLUE, GREEN, GREY, ORANGE, SKY_BLUE, VERMILION, ink_on
from minivllm.viz.stepper import Frame, Stepper

WIDTH, LEFT, MARGIN, CELL, HEIGHT, ROW = 840, 120, 16, 68, 30, 44
TAIL = 3  # tokens that are shown of the text so far
BLOCK, COLUMN, UNIT = 30, 16, 10  # a block; a step's column in the record below, and a token in it
COLORS = {"known": SKY_BLUE, "draft": ORANGE, "kept": GREEN, "own": BLUE, "wrong": VERMILION, "void": GREY}

Names = Callable[[int], str]


@dataclass(frozen=True)
class Round:
    """One step of a request, with or without drafts."""

    step: int
    known: tuple[int, ...]  # tokens before it
    drafts: tuple[int, ...]
    said: tuple[int, ...]  # the drafts that were kept, and one token of the model's own
    blocks: tuple[int, ...]  # held while the drafts were verified
    given_back: tuple[int, ...]

    @property
    def num_kept(self) -> int:
        return len(self.said) - 1


def rounds(log: EventLog, request_id: str, prompt_token_ids: Sequence[int]) -> list[Round]:
    """The steps in which a request got tokens, from a recording that begins before it."""
    known, found = list(prompt_token_ids), []
    drafts: tuple[int, ...] = ()
    blocks: tuple[int, ...] = ()
    for event, state in log.replay():
        match event:
            case Draft() if event.request_id == request_id:
                drafts = event.token_ids
            case Schedule():
                blocks = tuple(state.tables.get(request_id, ()))
            case Sample() if event.request_id == request_id:
                found.append(Round(event.step, tuple(known), drafts, event.token_ids, blocks, ()))
                known += event.token_ids
                drafts = ()
            case Trim() if event.request_id == request_id and found:
                last = found.pop()
                found.append(
                    Round(last.step, last.known, last.drafts, last.said, last.blocks, event.block_ids)
                )
    return found


def tape_stepper(
    log: EventLog,
    request_id: str,
    prompt_token_ids: Sequence[int],
    names: Names,
    title: str = "Draft, verify, keep or reject",
    *,
    start: int = 0,
) -> Stepper:
    """Two frames for each step with drafts: before the model has spoken, and after. One for a step without."""
    done = rounds(log, request_id, prompt_token_ids)
    most = max((len(one.drafts) for one in done), default=0)
    frames = []
    for index, one in enumerate(done):
        if one.drafts:
            drawing = draw_round(one, done[:index], names, most, is_verified=False)
            frames.append(Frame(drawing, f"Step {one.step}: {len(one.drafts)} tokens are drafted."))
        drawing = draw_round(one, done[: index + 1], names, most, is_verified=True)
        frames.append(Frame(drawing, verdict(one)))
    return Stepper(frames, title, start)


def verdict(one: Round) -> str:
    """What came of a step, in a sentence."""
    if not one.drafts:
        return f"Step {one.step}: no drafts, one token."
    tokens = f"{len(one.said)} token{'s' * (len(one.said) > 1)}"
    told = f"Step {one.step}: {one.num_kept} of {len(one.drafts)} drafts kept, {tokens} said"
    if one.given_back:
        ids = ", ".join(map(str, sorted(one.given_back)))
        told += f"; block{'s' * (len(one.given_back) > 1)} {ids} given back"
    return told + "."


def draw_round(one: Round, record: Sequence[Round], names: Names, most: int, *, is_verified: bool) -> Drawing:
    """The end of the text, the drafts behind it, the model's answer below, the blocks, and the record so far.

    Args:
        one: the step.
        record: the steps whose outcome is known.
        names: token id -> what it says.
        most: drafts of a step, at most: each frame has room for so many.
        is_verified: False = the model has not spoken yet.
    """
    tail = one.known[-TAIL:]
    rows = [("text so far", 0), ("drafted", 1), ("the model says", 2), ("blocks", 3), ("each step", 4)]
    shapes = [label(MARGIN, MARGIN + row * ROW + 20, name) for name, row in rows]
    shapes += [_token(i, 0, names(token), "known") for i, token in enumerate(tail)]
    shapes += [_token(TAIL + i, 1, names(t), _fate(one, i, is_verified)) for i, t in enumerate(one.drafts)]
    if is_verified:
        kinds = ["kept"] * one.num_kept + ["own"]
        said = zip(kinds, one.said, strict=True)
        shapes += [_token(TAIL + i, 2, names(token), kind) for i, (kind, token) in enumerate(said)]
    shapes += _blocks(one, is_verified)
    shapes += _record(record, most)
    bottom = MARGIN + 4 * ROW + (most + 1) * UNIT * 2 + 14
    shapes += _legend(bottom)
    return Drawing(
        WIDTH,
        bottom + 30,
        tuple(shapes),
        describe(one, record, is_verified),
        to_text(one, names, is_verified),
    )


def describe(one: Round, record: Sequence[Round], is_verified: bool) -> str:
    """One sentence with the numbers of the picture."""
    said, drafted = sum(len(r.said) for r in record), sum(len(r.drafts) for r in record)
    kept = sum(r.num_kept for r in record if r.drafts)
    now = verdict(one) if is_verified else f"Step {one.step}: {len(one.drafts)} drafts wait for the model."
    return f"{now} So far {len(record)} steps, {drafted} drafts, {kept} kept, {said} tokens said."


def to_text(one: Round, names: Names, is_verified: bool) -> str:
    """Three lines: the end of the text, the drafts, and what the model says; + = kept, x = wrong, - = void."""
    marks = {"draft": "?", "kept": "+", "wrong": "x", "void": "-"}
    drafts = " ".join(f"[{names(t)}]{marks[_fate(one, i, is_verified)]}" for i, t in enumerate(one.drafts))
    lines = [
        f"text so far: ...{' '.join(names(t) for t in one.known[-TAIL:])}",
        f"drafted:     {drafts or 'nothing'}",
    ]
    if is_verified:
        lines.append(f"said:        {' '.join(f'[{names(t)}]' for t in one.said)}")
        lines.append(f"blocks:      {list(one.blocks)}, given back {sorted(one.given_back)}")
    return "\n".join(lines)


def _fate(one: Round, index: int, is_verified: bool) -> str:
    if not is_verified:
        return "draft"
    return "kept" if index < one.num_kept else "wrong" if index == one.num_kept else "void"


def _token(column: int, row: int, name: str, kind: str) -> str:
    x, y, color = LEFT + column * CELL, MARGIN + row * ROW, COLORS[kind]
    sign = {"kept": "✓", "wrong": "✗", "own": "+"}.get(kind, "")
    ink = f'fill="{ink_on(color)}"'
    shown = name if len(name) <= 8 else name[:7] + "…"
    shapes = [rect(x, y, CELL - 4, HEIGHT, f'fill="{color}"', radius=4)]
    shapes.append(label(x + (CELL - 4) / 2, y + 20, shown, ink, size=12, anchor="middle"))
    if sign:
        shapes.append(label(x + CELL - 6, y + 11, sign, ink, size=11, anchor="end"))
    return group(shapes)


def _blocks(one: Round, is_verified: bool) -> list[str]:
    shapes = []
    for i, block_id in enumerate(one.blocks):
        x, y = LEFT + i * (BLOCK + 4), MARGIN + 3 * ROW
        is_gone = is_verified and block_id in one.given_back
        color = VERMILION if is_gone else SKY_BLUE
        name = f"✗{block_id}" if is_gone else str(block_id)
        parts = [rect(x, y, BLOCK, HEIGHT, f'fill="{color}"', radius=4)]
        parts.append(label(x + BLOCK / 2, y + 20, name, f'fill="{ink_on(color)}"', size=12, anchor="middle"))
        shapes.append(group(parts))
    return shapes


def _record(record: Sequence[Round], most: int) -> list[str]:
    """A column for each step: what it said above the line, drafts in vain below it."""
    if not record:
        return []
    middle = MARGIN + 4 * ROW + (most + 1) * UNIT
    shapes = []
    for i, one in enumerate(record):
        x = LEFT + i * COLUMN
        cells = [("own", middle - UNIT)]
        cells += [("kept", middle - (2 + n) * UNIT) for n in range(one.num_kept)]
        cells += [("wrong", middle + 3 + n * UNIT) for n in range(len(one.drafts) - one.num_kept)]
        shapes.append(
            group([rect(x, y, COLUMN - 4, UNIT - 1, f'fill="{COLORS[kind]}"') for kind, y in cells])
        )
    shapes.append(rect(LEFT, middle + 0.5, len(record) * COLUMN - 4, 1, 'class="mv-ink"'))
    return shapes


def _legend(y: float) -> list[str]:
    entries = [("draft", "drafted", 75), ("kept", "✓ kept", 75), ("wrong", "✗ the first wrong one", 160)]
    entries += [("void", "void, whatever it is", 150), ("own", "+ the model's own", 130)]
    shapes, x = [], LEFT
    for kind, text, width in entries:
        shapes.append(
            group(
                [rect(x, y, 14, 14, f'fill="{COLORS[kind]}"', radius=2), label(x + 19, y + 12, text, size=12)]
            )
        )
        x += width
    return shapes
