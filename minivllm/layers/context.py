"""What all layers of one model share, handed to each at construction."""

from dataclasses import dataclass

import torch

from minivllm.layers.linear_method import LinearMethod, UnquantizedLinear
from minivllm.parallel.group import ONE_STAGE, SINGLE, PipelineParallel, TensorParallel


@dataclass(frozen=True)
class LayerContext:
    """Dtype and device of parameters, how linear layers store theirs, and whose share of the model they hold."""

    params_dtype: torch.dtype = torch.float32
    device: torch.device = torch.device("cpu")
    method: LinearMethod = UnquantizedLinear()
    tp: TensorParallel = SINGLE
    pp: PipelineParallel = ONE_STAGE

    def empty(self, *shape: int) -> torch.nn.Parameter:
        """A parameter to be filled by the loader."""
        tensor = torch.empty(*shape, dtype=self.params_dtype, device=self.device)
        return torch.nn.Parameter(tensor, requires_grad=False)
