"""Exercise 2.2: The append cache."""

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
        stop = self.num_tokens + len(key)
        assert stop <= len(self.key), f"{stop} tokens do not fit into a cache for {len(self.key)}"
        self.key[self.num_tokens : stop] = key
        self.value[self.num_tokens : stop] = value
        self.num_tokens = stop
        return self.key[:stop], self.value[:stop]

    def num_bytes(self) -> int:
        """The memory that the cache takes, written or not."""
        return self.key.nbytes + self.value.nbytes

    def num_bytes_written(self) -> int:
        """The memory of the rows that hold a token."""
        return self.key[: self.num_tokens].nbytes + self.value[: self.num_tokens].nbytes
