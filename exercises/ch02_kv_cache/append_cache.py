"""Exercise 2.2: The append cache. (implement, about 15 minutes)

The simplest KV cache. When a request begins, its longest text gets room in every layer, in one
piece. Each step writes the keys and values of its new tokens behind those that are there, and reads
all of them:

    rows      0    1    2    3    4    5    6    7
    key     | k0 | k1 | k2 | k3 | k4 |    |    |    |      num_tokens = 5, max_tokens = 8
                                       ^ the next goes here

`__init__` is written. Write `append`, and the two functions that say how many bytes the cache takes
and how many of them hold a token. If the new tokens do not fit, refuse with an AssertionError and
change nothing.

Check: python -m minivllm.course check 2.2     (or: python -m pytest exercises/ch02_kv_cache/append_cache.py)
Stuck: python -m minivllm.course hint 2.2
"""

from __future__ import annotations

import torch
from torch import Tensor


class AppendCache:
    """Keys and values of one request in one layer.

    Args:
        max_tokens: how many tokens the request may have at its longest.
        num_kv_heads: K.
        head_dim: D.
        dtype: of the numbers.
    """

    def __init__(
        self, max_tokens: int, num_kv_heads: int, head_dim: int, dtype: torch.dtype = torch.float32
    ) -> None:
        self.key = torch.zeros(max_tokens, num_kv_heads, head_dim, dtype=dtype)  # [max_tokens, K, D]
        self.value = torch.zeros_like(self.key)  # likewise
        self.num_tokens = 0  # how many of the rows, from the front, are written

    def append(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Write the next tokens' keys and values behind those that are there.

        Args:
            key: [T, K, D].
            value: [T, K, D].

        Returns:
            Keys and values of all tokens so far, [S, K, D] each: views of the cache, not copies.

        Raises:
            AssertionError: they do not fit any more; then nothing is changed.
        """
        raise NotImplementedError("exercise 2.2: AppendCache.append")

    def num_bytes(self) -> int:
        """The memory that the cache takes, written or not."""
        raise NotImplementedError("exercise 2.2: AppendCache.num_bytes")

    def num_bytes_written(self) -> int:
        """The memory of the rows that hold a token."""
        raise NotImplementedError("exercise 2.2: AppendCache.num_bytes_written")
