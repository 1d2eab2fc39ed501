"""The block map: every physical block of the KV cache as a cell, coloured and lettered by the request that holds it.

Two renderings of one `BlockMap`: SVG for pages, and plain text for terminals and screen readers.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from minivllm.outputs import BlockMap
from minivllm.viz.drawing import Drawing, group, label, rect
from minivllm.viz.palette import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, SKY_BLUE, VERMILION, YELLOW

COLORS = (BLUE, ORANGE, GREEN, PURPLE, SKY_BLUE, VERMILION, YELLOW)
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
SHARED = "*"
CELL, GAP, MARGIN, LEGEND = 44, 6, 16, 26
INK = f'fill="{BLACK}"'  # on a coloured cell, on light and dark pages alike


def letters(order: Collection[str]) -> dict[str, str]:
    """Request id -> the letter that stands for it, in the order of arrival."""
    return {request_id: LETTERS[i % len(LETTERS)] for i, request_id in enumerate(order)}


def colors(order: Collection[str]) -> dict[str, str]:
    """Request id -> its colour, in the order of arrival."""
    return {request_id: COLORS[i % len(COLORS)] for i, request_id in enumerate(order)}


def describe(block_map: BlockMap) -> str:
    """One sentence with the numbers of the picture, for alt text."""
    owners = block_map.owners()
    shared = sum(len(names) > 1 for names in owners.values())
    kept = len(block_map.cached - owners.keys())
    return (
        f"KV cache of {block_map.num_blocks} blocks of {block_map.block_size} tokens: {len(owners)} held by "
        f"{len(block_map.holders)} requests ({shared} of them shared), {kept} free but kept for the prefix cache, "
        f"{block_map.num_blocks - 1 - len(owners) - kept} free, and the null block"
    )


def to_text(block_map: BlockMap, columns: int = 16, order: Collection[str] = ()) -> str:
    """One character a block: a letter = its holder, * = shared, + = free but cached, . = free, 0 = null block."""
    names, owners = letters(order or block_map.holders), block_map.owners()

    def character(block_id: int) -> str:
        if block_id == 0:
            return "0"
        if block_id in owners:
            return SHARED if len(owners[block_id]) > 1 else names[owners[block_id][0]]
        return "+" if block_id in block_map.cached else "."

    cells = [character(block_id) for block_id in range(block_map.num_blocks)]
    rows = [" ".join(cells[start : start + columns]) for start in range(0, len(cells), columns)]
    legend = [
        f"{names[i]} = {i}: {block_map.num_computed_tokens[i]} tokens in {list(blocks)}"
        for i, blocks in block_map.holders.items()
    ]
    return "\n".join([*rows, *legend, describe(block_map)])


def to_svg(block_map: BlockMap, labels: Mapping[str, str] | None = None, columns: int = 16) -> str:
    """`draw` as a standalone SVG document."""
    return draw(block_map, labels=labels, columns=columns).to_svg()


def draw(
    block_map: BlockMap,
    *,
    labels: Mapping[str, str] | None = None,
    columns: int = 16,
    order: Sequence[str] = (),
    touched: Collection[int] = (),
    num_legend_lines: int = 0,
) -> Drawing:
    """A cell for each block, filled from below as far as tokens are written.

    Args:
        block_map: what to draw.
        labels: request id -> text of the legend; default the id.
        columns: cells in a row.
        order: all requests of the story, so that each keeps its colour and letter from frame to frame.
        touched: blocks to mark, as something has just happened to them.
        num_legend_lines: leave room for so many requests, so that all frames have one size.
    """
    order = order or list(block_map.holders)
    names, hues, owners, filled = letters(order), colors(order), block_map.owners(), block_map.filled()
    columns = min(columns, block_map.num_blocks)
    num_rows = -(-block_map.num_blocks // columns)
    shapes = []
    for block_id in range(block_map.num_blocks):
        row, column = divmod(block_id, columns)
        holders = owners.get(block_id, [])
        cell = _cell(
            MARGIN + column * (CELL + GAP),
            MARGIN + row * (CELL + GAP),
            block_id,
            filled.get(block_id, 0) / block_map.block_size,
            {names[holder]: hues[holder] for holder in holders},
        )
        shapes.append(group(cell + _marks(row, column, block_id in block_map.cached, block_id in touched)))
    top = 2 * MARGIN + num_rows * (CELL + GAP)
    legend = _legend(block_map, labels or {}, hues, names, top)
    num_lines = max(len(legend), num_legend_lines + 1)
    return Drawing(
        width=max(640, 2 * MARGIN + columns * (CELL + GAP) - GAP),
        height=top + num_lines * LEGEND + MARGIN // 2,
        shapes=(*shapes, *legend),
        alt=describe(block_map),
        text=to_text(block_map, columns, order),
    )


def _cell(x: int, y: int, block_id: int, share: float, holders: Mapping[str, str]) -> list[str]:
    """A block: its number above, its holders' letters in the middle, and a level of colour for its tokens."""
    parts = [rect(x, y, CELL, CELL, f'fill="{GREY}"', radius=5)]
    if block_id == 0:
        parts.append(
            f'<path d="M{x + 8} {y + 8}l{CELL - 16} {CELL - 16}m0 {16 - CELL}l{16 - CELL} {CELL - 16}" '
            f'stroke="{BLACK}" stroke-opacity=".45" stroke-width="2"/>'
        )
    stripe, level = CELL / max(1, len(holders)), CELL * share
    for i, color in enumerate(holders.values()):  # a shared block has a stripe for each holder
        parts.append(
            rect(x + i * stripe, y + CELL - level, stripe, level, f'fill="{color}" fill-opacity=".75"')
        )
    if holders:
        outline = f'fill="none" stroke="{BLACK}" stroke-opacity=".6"'
        parts.append(rect(x, y, CELL, CELL, outline, radius=5))
    parts.append(label(x + 4, y + 12, str(block_id), INK, size=10))
    names = list(holders)
    content = "".join(names) if len(names) <= 3 else f"{names[0]}-{names[-1]}"
    if content:
        bold = f'font-weight="700" {INK}'
        parts.append(label(x + CELL / 2, y + CELL / 2 + 8, content, bold, anchor="middle"))
    return parts


def _marks(row: int, column: int, is_cached: bool, is_touched: bool) -> list[str]:
    x, y = MARGIN + column * (CELL + GAP), MARGIN + row * (CELL + GAP)
    parts = [f'<circle cx="{x + CELL - 7}" cy="{y + 7}" r="3.5" {INK}/>'] if is_cached else []
    if is_touched:
        parts.append(rect(x - 2, y - 2, CELL + 4, CELL + 4, 'class="mv-line" stroke-width="3"', radius=7))
    return parts


def _legend(
    block_map: BlockMap,
    labels: Mapping[str, str],
    hues: Mapping[str, str],
    names: Mapping[str, str],
    top: int,
) -> list[str]:
    dot = f'<circle cx="{MARGIN + 8}" cy="{top + 11}" r="3.5" class="mv-ink"/>'
    note = (
        "a full block that the prefix cache can find; colour rises as tokens are written; 0 is the null block"
    )
    lines = [group([dot, label(MARGIN + 26, top + 16, note)])]
    for i, (request_id, blocks) in enumerate(block_map.holders.items(), start=1):
        y = top + i * LEGEND
        swatch = f'fill="{hues[request_id]}" fill-opacity=".75" stroke="{BLACK}" stroke-opacity=".6"'
        content = (
            f"{names[request_id]}: {labels.get(request_id, request_id)}, "
            f"{block_map.num_computed_tokens[request_id]} tokens in blocks {', '.join(map(str, blocks))}"
        )
        lines.append(
            group([rect(MARGIN, y + 3, 16, 16, swatch, radius=3), label(MARGIN + 26, y + 16, content)])
        )
    return lines
