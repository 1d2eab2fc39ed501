"""By looking: which kv heads do this rank's query heads read?"""

from types import SimpleNamespace


def share_heads(num_heads, num_kv_heads, rank, size):
    fits = num_heads % size == 0 and 0 in (num_kv_heads % size, size % num_kv_heads)
    if not fits:
        raise ValueError(f"{num_heads} and {num_kv_heads} heads do not divide by {size}")
    mine = [head for head in range(num_heads) if head * size // num_heads == rank]
    read = sorted({head * num_kv_heads // num_heads for head in mine})
    return SimpleNamespace(
        first_head=mine[0], num_heads=len(mine), first_kv_head=read[0], num_kv_heads=len(read)
    )


HeadShare = SimpleNamespace
