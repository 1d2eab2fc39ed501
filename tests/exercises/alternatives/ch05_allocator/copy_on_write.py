"""Every position that will be written is looked at by itself."""


def shared_blocks(table, start, stop):
    hit = {position // table.block_size for position in range(start, stop)}
    return sorted(i for i in hit if i < len(table) and table[i].ref_cnt >= 2)


def copy_on_write(pool, table, index, target):
    source = table[index]
    pool.free_blocks([source])
    table.replace(index, target)
    return (source.block_id, target.block_id)
