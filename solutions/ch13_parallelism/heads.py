"""Exercise 13.4: Heads over several ranks."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class HeadShare:
    """The heads of one tensor parallel rank: consecutive ones."""

    first_head: int
    num_heads: int
    first_kv_head: int
    num_kv_heads: int


def share_heads(num_heads: int, num_kv_heads: int, rank: int, size: int) -> HeadShare:
    """Which query and kv heads one of `size` ranks holds.

    Query heads are split evenly. So are kv heads, as long as there is one for each rank; of fewer, each is held by
    neighbouring ranks, so that every query head finds its kv head on its own rank.

    Raises:
        ValueError: the heads do not divide by the number of ranks, nor the ranks by the number of kv heads.
    """
    if num_heads % size:
        raise ValueError(
            f"tensor_parallel_size: num_attention_heads ({num_heads}) does not divide by {size}."
        )
    heads = num_heads // size
    if size % num_kv_heads == 0:
        return HeadShare(rank * heads, heads, rank * num_kv_heads // size, 1)
    if num_kv_heads % size:
        raise ValueError(
            f"tensor_parallel_size: num_key_value_heads ({num_kv_heads}) does not divide by {size}."
        )
    kv_heads = num_kv_heads // size
    return HeadShare(rank * heads, heads, rank * kv_heads, kv_heads)
