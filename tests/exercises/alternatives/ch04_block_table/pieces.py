"""Walks along the run, from one boundary to the next."""


def pieces(start, stop, block_size):
    parts = []
    while start < stop:
        logical, first = divmod(start, block_size)
        length = min(block_size - first, stop - start)
        parts.append((logical, first, first + length))
        start += length
    return parts
