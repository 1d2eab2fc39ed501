"""Block by block, as long as a block begins before the last shared token."""

from minivllm.core.block_table import BlockTable


def fork_table(pool, parent, num_tokens):
    child = BlockTable(parent.block_size)
    for index, block in enumerate(parent):
        if index * parent.block_size >= num_tokens:
            break
        pool.touch([block])
        child.append([block])
    return child
