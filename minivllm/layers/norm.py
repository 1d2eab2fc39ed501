"""RMS normalization, with the residual stream beside it. The arithmetic is in ops.rms_norm."""

from torch import Tensor, nn

from minivllm import ops
from minivllm.layers.context import LayerContext
from minivllm.layers.weights import WeightSlot, plain_slots


class RMSNorm(nn.Module):
    """Root mean square normalization over the last dimension, with a learned weight [size]."""

    def __init__(self, size: int, eps: float, context: LayerContext) -> None:
        super().__init__()
        self.eps = eps
        self.weight = context.empty(size)

    def forward(self, x: Tensor) -> Tensor:
        """[..., size] -> [..., size]."""
        return ops.rms_norm(x, self.weight, self.eps)

    def add(self, x: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
        """Add a branch's output x to the residual stream and normalize: (what the next branch reads, the new stream).

        The two steps stand together because a kernel does them in one pass. residual None: x starts the stream.
        """
        stream = x if residual is None else x + residual
        return ops.rms_norm(stream, self.weight, self.eps), stream

    def slots(self, name: str) -> dict[str, WeightSlot]:
        """The one checkpoint tensor of this layer."""
        return plain_slots(name, self)
