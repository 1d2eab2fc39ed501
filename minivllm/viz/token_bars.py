"""Probabilities of tokens as bars: pale what the model said, full what is left, and the ruler that is drawn from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate

from minivllm.viz.drawing import Drawing, group, label, line, number, rect
from minivllm.viz.palette import BLACK, BLUE, GREEN, GREY, ORANGE, SKY_BLUE, VERMILION, YELLOW, ink_on
from minivllm.viz.stepper import Frame, Stepper

WIDTH, MARGIN, ROW = 840, 16, 22
LEFT, BARS = 130, 460  # where the bars begin, and how long the longest may be
TOP = 34  # below the column heads
RULER = 26  # its height
COLORS = (
    BLUE,
    ORANGE,
    GREEN,
    YELLOW,
    VERMILION,
    SKY_BLUE,
)  # of the ruler's pieces, in turns, each with its name
REST = "all others"
Probs = Sequence[float]  # [V]


def bars_frame(
    names: Mapping[int, str],
    before: Probs,
    now: Probs,
    told: str,
    *,
    random: float | None = None,
    longest: float | None = None,
) -> Frame:
    """One picture with what is said about it, and how many tokens can still be drawn."""
    left = sum(1 for p in now if p > 0)
    likeliest = max(range(len(now)), key=lambda token: now[token])
    name = repr(names[likeliest]) if likeliest in names else f"token {likeliest}"
    told = f"{told} {left:,} of {len(now):,} tokens can be drawn; the likeliest is {name} with {now[likeliest]:.1%}."
    if random is not None:
        drawn = token_at(now, random)
        told += f" The random number {random:.3f} draws {names.get(drawn, f'token {drawn}')!r}."
    return Frame(draw_token_bars(names, before, now, random=random, longest=longest, alt=told), told)


def bars_stepper(
    names: Mapping[int, str], stages: Mapping[str, Probs], title: str, *, random: float | None = None
) -> Stepper:
    """A frame for each stage of the sampler, `told -> probabilities`; with `random`, one more for the draw.

    The first stage is what the model says; it stays in pale behind all others.
    """
    before = next(iter(stages.values()))
    longest = max(max(probs) for probs in stages.values())
    frames = [bars_frame(names, before, now, told, longest=longest) for told, now in stages.items()]
    if random is not None:
        last = list(stages.values())[-1]
        frames.append(
            bars_frame(
                names, before, last, "The draw: one place on the ruler.", random=random, longest=longest
            )
        )
    return Stepper(frames, title)


def token_at(probs: Probs, random: float) -> int:
    """The token whose share of the ruler holds `random`, in the order of ids."""
    place = random * sum(probs)
    ends = list(accumulate(probs))
    return next(token for token, end in enumerate(ends) if end > place)


def draw_token_bars(
    names: Mapping[int, str],
    before: Probs,
    now: Probs,
    *,
    random: float | None = None,
    longest: float | None = None,
    alt: str = "",
) -> Drawing:
    """Bars of the tokens in `names`, in its order, a last one for all others together, and the ruler.

    Args:
        names: token id -> its text.
        before, now: probabilities [V]; a token with now = 0 was dropped.
        random: a place on the ruler, in [0, 1).
        longest: the probability of a bar that fills the width; default: the largest there is.
        alt: the picture in a sentence.
    """
    others = [token for token in range(len(now)) if token not in names]
    rows = [(name, before[token], now[token]) for token, name in names.items()]
    rows.append((REST, sum(before[token] for token in others), sum(now[token] for token in others)))
    longest = longest or max(max(b, n) for _, b, n in rows[:-1])
    shapes = _heads()
    for index, row in enumerate(rows):
        shapes += _row(TOP + index * ROW, *row, longest)
    bottom = TOP + len(rows) * ROW + 26
    shapes += _ruler(bottom, names, now, random)
    lines = [f"{'token':>12} {'model':>7} {'now':>7}"]
    lines += [_line(*row) for row in rows]
    shown = ", ".join(f"{name!r} {n:.1%}" if n else f"{name!r} dropped" for name, _, n in rows)
    return Drawing(WIDTH, bottom + RULER + 40, tuple(shapes), f"{alt} {shown}.".strip(), "\n".join(lines))


def _line(name: str, before: float, now: float) -> str:
    bar = "#" * round(40 * now) if now else "x dropped" if before else ""
    return f"{name!r:>12} {before:7.1%} {now:7.1%} {bar}".rstrip()


def _heads() -> list[str]:
    right = LEFT + BARS + 70
    soft = 'class="mv-soft"'
    return [
        label(MARGIN, 22, "token", soft, size=12),
        label(LEFT, 22, "pale: the model; full: now", soft, size=12),
        label(right, 22, "the model", soft, size=12, anchor="end"),
        label(right + 90, 22, "now", soft, size=12, anchor="end"),
    ]


def _row(y: float, name: str, before: float, now: float, longest: float) -> list[str]:
    """A pale bar with a full one in it. The bar of all others may be too long: then it is cut, with a mark."""
    shapes = [label(LEFT - 10, y + 15, name if name == REST else repr(name), anchor="end")]
    for share, top, height, color in ((before, 1, ROW - 4, GREY), (now, 5, ROW - 12, BLUE)):
        if share > 0:
            width = min(BARS, max(1, round(BARS * share / longest)))
            shapes.append(rect(LEFT, y + top, width, height, f'fill="{color}"'))
    if max(before, now) > longest * 1.001:
        shapes.append(label(LEFT + BARS + 4, y + 15, "...", 'class="mv-soft"'))
    right = LEFT + BARS + 70
    shapes.append(label(right, y + 15, f"{before:.1%}", 'class="mv-soft"', anchor="end"))
    if now > 0 or before == 0:
        shapes.append(label(right + 90, y + 15, f"{now:.1%}", anchor="end"))
    else:
        shapes.append(label(right + 90, y + 15, "x dropped", 'class="mv-soft"', anchor="end"))
    return shapes


def _ruler(y: float, names: Mapping[int, str], now: Probs, random: float | None) -> list[str]:
    """All tokens side by side in the order of their ids; those without a name of their own in grey."""
    pieces: list[tuple[int | None, float]] = []
    for token, share in enumerate(now):
        key = token if token in names else None
        if key is None and pieces and pieces[-1][0] is None:
            pieces[-1] = (None, pieces[-1][1] + share)
        else:
            pieces.append((key, share))
    length, x = WIDTH - 2 * MARGIN, float(MARGIN)
    paths: dict[str, str] = {}  # colour -> the outlines of its pieces
    texts = []
    for place, (key, share) in enumerate(pieces):
        width = share * length / sum(now)
        if width >= 0.5:
            color = GREY if key is None else COLORS[place % len(COLORS)]
            outline = f"M{number(x)} {number(y)}h{number(width)}v{RULER}h-{number(width)}z"
            paths[color] = paths.get(color, "") + outline
            if key is not None and width >= 12 + 7 * len(names[key]):
                ink = f'fill="{ink_on(color)}"'
                texts.append(label(x + width / 2, y + 18, names[key], ink, anchor="middle"))
        x += width
    edge = f'stroke="{BLACK}" stroke-width="0.5"'
    shapes = [f'<path d="{path}" fill="{color}" {edge}/>' for color, path in paths.items()] + texts
    shapes.append(label(MARGIN, y - 6, "the ruler, by token id: 0", 'class="mv-soft"', size=12))
    shapes.append(label(WIDTH - MARGIN, y - 6, "1", 'class="mv-soft"', size=12, anchor="end"))
    if random is not None:
        place_x = MARGIN + random * length
        mark = [line(place_x, y - 4, place_x, y + RULER + 8, 'class="mv-line" stroke-width="3"')]
        side = "end" if random > 0.9 else "start" if random < 0.1 else "middle"
        mark.append(label(place_x, y + RULER + 24, f"{random:.3f}", anchor=side))
        shapes.append(group(mark))
    return shapes
