"""Counts tokens instead of blocks, and asks before each step whether one more block may be hit."""


def find_longest_cache_hit(block_hashes, num_tokens, block_size, get_cached_block):
    found = []
    hashes = iter(block_hashes)
    while (len(found) + 1) * block_size < num_tokens:
        block_hash = next(hashes, None)
        block = None if block_hash is None else get_cached_block(block_hash)
        if block is None:
            return found
        found.append(block)
    return found
