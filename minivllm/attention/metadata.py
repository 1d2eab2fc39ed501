"""What attention must know about one step: where each token's key and value go, and where each request's lie.

The batch is flat. Its T tokens belong to R requests, one after the other; nothing in it says "prefill" or
"decode", a request simply brings as many tokens as it was given:

    request          |------ 0 ------|1|-- 2 --|        query_start_loc = [0, 5, 6, 9]
    its whole context (this step's tokens included)      seq_lens        = [5, 40, 12]

These are values. The tensors are filled by the model runner, and no layer changes them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class LayerKVCache(NamedTuple):
    """The cache of one layer: N blocks of B slots each."""

    key: Tensor  # [N, B, K, D]
    value: Tensor  # [N, B, K, D]


@dataclass(frozen=True)
class AttentionMetadata:
    """The batch of one step as attention sees it. slot = block_id * B + offset; block 0 is the null block."""

    slot_mapping: (
        Tensor  # [T] int64: where each token's key and value are written; padding tokens go to slot 0
    )
    query_start_loc: (
        Tensor  # [R + 1] int32: tokens query_start_loc[r] to query_start_loc[r + 1] belong to request r
    )
    seq_lens: Tensor  # [R] int32: context length including this step's tokens
    block_tables: Tensor  # [R, max_blocks] int32: physical block of each logical block
    max_query_len: int
    max_seq_len: int
    block_size: int
    plan: object | None = None  # what a backend derived from the above, once for all layers

    @classmethod
    def from_lists(
        cls,
        query_lens: Sequence[int],
        seq_lens: Sequence[int],
        block_tables: Sequence[Sequence[int]],
        block_size: int,
        device: torch.device | str = "cpu",
    ) -> "AttentionMetadata":
        """Build it from plain lists, one entry per request. For tests and notebooks: the runner fills buffers.

        Raises:
            ValueError: lists of different lengths, or a context shorter than its queries or too long for its table.
        """
        if not len(query_lens) == len(seq_lens) == len(block_tables) or not query_lens:
            raise ValueError(
                "query_lens, seq_lens and block_tables need one entry per request, and at least one."
            )
        slots: list[int] = []
        starts = [0]
        for query_len, seq_len, table in zip(query_lens, seq_lens, block_tables, strict=True):
            if not 1 <= query_len <= seq_len <= len(table) * block_size:
                raise ValueError(
                    f"a request needs 1 <= query_len <= seq_len <= blocks * block_size, "
                    f"got {query_len}, {seq_len}, {len(table)} * {block_size}."
                )
            positions = range(seq_len - query_len, seq_len)
            slots += [table[p // block_size] * block_size + p % block_size for p in positions]
            starts.append(starts[-1] + query_len)
        width = max(map(len, block_tables))
        rows = [[*table, *[0] * (width - len(table))] for table in block_tables]

        def int32(values: list[int] | list[list[int]]) -> Tensor:
            return torch.tensor(values, dtype=torch.int32, device=device)

        return cls(
            slot_mapping=torch.tensor(slots, dtype=torch.int64, device=device),
            query_start_loc=int32(starts),
            seq_lens=int32(list(seq_lens)),
            block_tables=int32(rows),
            max_query_len=max(query_lens),
            max_seq_len=max(seq_lens),
            block_size=block_size,
        )
