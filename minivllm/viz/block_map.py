"""The block map: every physical block of the KV cache as a cell, coloured and lettered by the request that holds it.

Two renderings of one `BlockMap`: SVG for pages, and plain text for terminals and screen readers.
"""

from __future__ import annotations

from xml.sax.saxutils import escape

from minivllm.outputs import BlockMap
from minivllm.viz.palette import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, SKY_BLUE, VERMILION, WHITE, YELLOW

COLORS = (BLUE, ORANGE, GREEN, PURPLE, SKY_BLUE, VERMILION, YELLOW)
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
SHARED = "*"
CELL, GAP, MARGIN, LEGEND = 44, 6, 16, 26


def letters(block_map: BlockMap) -> dict[str, str]:
    """Request id -> the letter that stands for it, in the order of arrival."""
    return {request_id: LETTERS[i % len(LETTERS)] for i, request_id in enumerate(block_map.holders)}


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


def to_text(block_map: BlockMap, columns: int = 16) -> str:
    """One character a block: a letter = its holder, * = shared, + = free but cached, . = free, 0 = null block."""
    names, owners = letters(block_map), block_map.owners()

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


def to_svg(block_map: BlockMap, labels: dict[str, str] | None = None, columns: int = 16) -> str:
    """A standalone SVG: a cell for each block, filled from below as far as tokens are written.

    Args:
        block_map: what to draw.
        labels: request id -> text of the legend; default the id.
        columns: cells in a row.
    """
    names, owners, filled = letters(block_map), block_map.owners(), block_map.filled()
    color = {request_id: COLORS[i % len(COLORS)] for i, request_id in enumerate(block_map.holders)}
    num_rows = -(-block_map.num_blocks // columns)
    width = 2 * MARGIN + columns * (CELL + GAP) - GAP
    top = 2 * MARGIN + num_rows * (CELL + GAP)
    legend = _legend(block_map, labels or {}, color, names)
    height = top + len(legend) * LEGEND + MARGIN // 2
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" role="img" '
        f'font-family="system-ui, sans-serif" font-size="13">',
        f"<title>{escape(describe(block_map))}</title>",
        f'<rect width="{width}" height="{height}" rx="8" fill="{WHITE}"/>',
    ]
    for block_id in range(block_map.num_blocks):
        row, column = divmod(block_id, columns)
        x, y = MARGIN + column * (CELL + GAP), MARGIN + row * (CELL + GAP)
        holders = owners.get(block_id, [])
        share = filled.get(block_id, 0) / block_map.block_size
        parts += _cell(x, y, block_id, share, [color[h] for h in holders], [names[h] for h in holders])
        if block_id in block_map.cached:
            parts.append(f'<circle cx="{x + CELL - 7}" cy="{y + 7}" r="3.5" fill="{BLACK}"/>')
    for i, line in enumerate(legend):
        parts.append(f'<g transform="translate({MARGIN} {top + i * LEGEND})">{line}</g>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _cell(x: int, y: int, block_id: int, share: float, colors: list[str], names: list[str]) -> list[str]:
    """A block: its number above, its holders' letters in the middle, and a level of colour for its tokens."""
    parts = [f'<rect x="{x}" y="{y}" width="{CELL}" height="{CELL}" rx="5" fill="{GREY}"/>']
    if block_id == 0:
        parts.append(
            f'<path d="M{x + 8} {y + 8}l{CELL - 16} {CELL - 16}m0 {16 - CELL}l{16 - CELL} {CELL - 16}" '
            f'stroke="{BLACK}" stroke-opacity=".45" stroke-width="2"/>'
        )
    stripe = CELL / max(1, len(colors))
    for i, color in enumerate(colors):  # a shared block has a stripe for each holder
        level = round(CELL * share, 1)
        parts.append(
            f'<rect x="{x + i * stripe:.1f}" y="{y + CELL - level:.1f}" width="{stripe:.1f}" height="{level}" '
            f'fill="{color}" fill-opacity=".75"/>'
        )
    if colors:
        parts.append(
            f'<rect x="{x}" y="{y}" width="{CELL}" height="{CELL}" rx="5" fill="none" stroke="{BLACK}" '
            f'stroke-opacity=".6"/>'
        )
    parts.append(f'<text x="{x + 4}" y="{y + 12}" font-size="10" fill="{BLACK}">{block_id}</text>')
    text = "".join(names) if len(names) <= 3 else f"{names[0]}-{names[-1]}"
    parts.append(
        f'<text x="{x + CELL / 2}" y="{y + CELL / 2 + 8}" text-anchor="middle" font-weight="700" '
        f'fill="{BLACK}">{text}</text>'
    )
    return parts


def _legend(
    block_map: BlockMap, labels: dict[str, str], color: dict[str, str], names: dict[str, str]
) -> list[str]:
    lines = [
        f'<rect y="3" width="16" height="16" rx="3" fill="{color[i]}" fill-opacity=".75" stroke="{BLACK}" '
        f'stroke-opacity=".6"/><text x="26" y="16" fill="{BLACK}">{names[i]}: {escape(labels.get(i, i))}, '
        f"{block_map.num_computed_tokens[i]} tokens in blocks {', '.join(map(str, blocks))}</text>"
        for i, blocks in block_map.holders.items()
    ]
    lines.append(
        f'<circle cx="8" cy="11" r="3.5" fill="{BLACK}"/><text x="26" y="16" fill="{BLACK}">a full block that the '
        "prefix cache can find; colour rises as tokens are written; 0 is the null block</text>"
    )
    return lines
