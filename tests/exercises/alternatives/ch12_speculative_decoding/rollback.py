"""Block by block, from the end."""

from minivllm.core.block_table import BlockTable


def num_rejected(num_drafts, num_sampled):
    num_kept = num_sampled - 1
    return num_drafts - num_kept


def trim_table(pool, table, num_tokens):
    blocks = list(table)
    while blocks and (len(blocks) - 1) * table.block_size >= num_tokens:
        pool.free_blocks([blocks.pop()])
    trimmed = BlockTable(table.block_size)
    trimmed.append(blocks)
    return trimmed
