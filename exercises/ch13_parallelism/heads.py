"""Exercise 13.4: Heads over several ranks. (implement, about 15 minutes)

A rank that computes some of the query heads needs the keys and values that these heads read, and it
should not have to ask for them. With grouped-query attention, H query heads read K kv heads: query
head h reads kv head h // (H / K).

Write which heads rank `rank` of `size` holds. Query heads are split evenly, in order. As long as
there are enough kv heads they are split as well. With fewer kv heads than ranks a kv head is held
by several neighbouring ranks.

What cannot be divided like that is refused with a ValueError: query heads that do not divide by the
ranks, and kv heads that neither divide by the ranks nor divide them.

Check: python -m minivllm.course check 13.4     (or: python -m pytest exercises/ch13_parallelism/heads.py)
Stuck: python -m minivllm.course hint 13.4
"""

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
    raise NotImplementedError("exercise 13.4: share_heads")
