"""RMS normalization: over the residual stream, and over single heads. The arithmetic is in ops.rms_norm."""

from torch import Tensor, nn

from minivllm import ops
from minivllm.layers.context import LayerContext
from minivllm.layers.weights import WeightSlot, whole


class RMSNorm(nn.Module):
    """Root mean square normalization over the last dimension, with a learned weight [size]."""

    def __init__(self, size: int, eps: float, context: LayerContext) -> None:
        super().__init__()
        self.eps = eps
        self.weight = context.empty(size)

    def forward(self, x: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
        """Add a branch's output x to the residual stream and normalize: [T, size] each -> (normed, stream).

        The two steps stand together because a kernel does them in one pass. None: x starts the stream.
        """
        if residual is None:
            return ops.rms_norm(x, self.weight, self.eps), x
        return ops.add_rms_norm(x, residual, self.weight, self.eps)

    def slots(self, name: str) -> dict[str, WeightSlot]:
        """The one checkpoint tensor of this layer."""
        return {f"{name}.weight": whole(self.weight.data)}


class QKNorm(nn.Module):
    """Qwen3's norm of every query and key head by itself. q and k lie side by side, so one pass does both."""

    def __init__(
        self, num_heads: int, num_kv_heads: int, head_dim: int, eps: float, context: LayerContext
    ) -> None:
        super().__init__()
        self.eps, self.num_heads = eps, num_heads
        self.weight = context.empty(num_heads + num_kv_heads, head_dim)

    def forward(self, x: Tensor) -> Tensor:
        """[T, H + K, D] -> the same."""
        return ops.rms_norm(x, self.weight, self.eps)

    def slots(self, name: str) -> dict[str, WeightSlot]:
        """q_norm and k_norm, [D] each: a head's row for all query heads, another for all kv heads."""
        parent = name.rpartition(".")[0]
        q, k = self.weight.data[: self.num_heads], self.weight.data[self.num_heads :]
        shape = (self.weight.shape[1],)
        return {
            f"{parent}.q_norm.weight": WeightSlot(shape, lambda tensor: q.copy_(tensor[:])),
            f"{parent}.k_norm.weight": WeightSlot(shape, lambda tensor: k.copy_(tensor[:])),
        }
