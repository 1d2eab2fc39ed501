"""StepBuffers: the tensors a step reads, allocated once and filled again each step.

Their addresses never change, which is what CUDA graphs and compiled steps need; and a step allocates nothing.
"""

from __future__ import annotations

import numpy as np
import torch

from minivllm.core.block_table import cdiv


class StepBuffers:
    """Room for T <= max_num_batched_tokens tokens of R <= max_num_seqs requests."""

    def __init__(
        self,
        max_num_batched_tokens: int,
        max_num_seqs: int,
        max_model_len: int,
        block_size: int,
        device: torch.device,
    ) -> None:
        max_blocks = cdiv(max_model_len, block_size)

        def zeros(*shape: int, dtype: torch.dtype) -> torch.Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        self.input_ids = zeros(max_num_batched_tokens, dtype=torch.int64)  # [T]
        self.positions = zeros(max_num_batched_tokens, dtype=torch.int64)  # [T]
        self.slot_mapping = zeros(max_num_batched_tokens, dtype=torch.int64)  # [T]
        self.query_start_loc = zeros(max_num_seqs + 1, dtype=torch.int32)  # [R + 1]
        self.seq_lens = zeros(max_num_seqs, dtype=torch.int32)  # [R]
        self.block_tables = zeros(max_num_seqs, max_blocks, dtype=torch.int32)  # [R, max_blocks]
        self._views: dict[str, torch.Tensor] = {}  # those of the last step: the next one often has its shape
        self._arrays: dict[
            str, np.ndarray
        ] = {}  # on a CPU the same memory, which numpy fills with fewer calls
        if device.type == "cpu":
            self._arrays = {name: tensor.numpy() for name, tensor in vars(self).items() if name[0] != "_"}

    def view(self, name: str, *shape: int) -> torch.Tensor:
        """The start of a buffer."""
        view = self._views.get(name)
        if view is None or view.shape != shape:
            buffer: torch.Tensor = getattr(self, name)
            view = self._views[name] = buffer[tuple(map(slice, shape))]
        return view

    def fill(self, name: str, values: np.ndarray) -> None:
        """Copy `values` to the start of a buffer, converting their type."""
        part = slice(values.shape[0]) if values.ndim == 1 else tuple(map(slice, values.shape))
        if name in self._arrays:
            self._arrays[name][part] = values
            return
        buffer: torch.Tensor = getattr(self, name)
        buffer[part].copy_(torch.from_numpy(values))
