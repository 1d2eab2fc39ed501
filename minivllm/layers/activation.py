"""The gated activation of the feed-forward block. The arithmetic is in ops.silu_and_mul."""

from torch import Tensor, nn

from minivllm import ops


class SiluAndMul(nn.Module):
    """silu(gate) * up, where gate and up lie side by side: [T, 2 n] -> [T, n]."""

    def forward(self, x: Tensor) -> Tensor:
        """[T, 2 n] -> [T, n]."""
        return ops.silu_and_mul(x)
