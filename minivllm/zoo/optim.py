"""Muon in the precision of the weights, and the optimizer that uses it for matrices and AdamW for the rest.

`torch.optim.Muon` orthogonalizes in bfloat16, which a CPU without bfloat16 units does hundreds of times slower than
float32. Here matrices of one shape are also orthogonalized in one batched product, which small ones need to be fast.
Source: Keller Jordan, "Muon: An optimizer for hidden layers in neural networks", 2024.
"""

from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import Executor

import torch
from torch import Tensor, nn

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # quintic iteration of the source


def orthogonalize(matrices: Tensor, steps: int = 5) -> Tensor:
    """Replace the singular values of each matrix by about 1. Shapes: [..., m, n] -> [..., m, n]."""
    a, b, c = _COEFFICIENTS
    tall = matrices.size(-2) > matrices.size(-1)
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Momentum whose update is orthogonalized, for two-dimensional weights."""

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float,
        pool: Executor,
        momentum: float = 0.95,
        weight_decay: float = 0.01,
        dtype: torch.dtype = torch.float32,
    ):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self.pool, self.dtype = pool, dtype

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of every weight that has a gradient."""
        assert closure is None
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[nn.Parameter]] = defaultdict(list)
            for weight in group["params"]:
                if weight.grad is not None:
                    by_shape[weight.shape].append(weight)
            for job in [self.pool.submit(self._update, weights, group) for weights in by_shape.values()]:
                job.result()

    @torch.no_grad()
    def _update(self, weights: list[nn.Parameter], group: dict) -> None:
        directions = []
        for weight in weights:
            state, gradient = self.state[weight], weight.grad
            assert gradient is not None
            if not state:
                state["momentum"] = torch.zeros_like(weight)
            state["momentum"].lerp_(gradient, 1 - group["momentum"])
            directions.append(torch.lerp(gradient, state["momentum"], group["momentum"]))
        rows, columns = weights[0].shape
        scale = group["lr"] * max(1.0, rows / columns) ** 0.5
        for weight, update in zip(
            weights, orthogonalize(torch.stack(directions).to(self.dtype)), strict=True
        ):
            weight.mul_(1 - group["lr"] * group["weight_decay"])
            weight.add_(update, alpha=-scale)


def make_optimizers(
    model: nn.Module, matrix_lr: float, other_lr: float, pool: Executor, is_mixed: bool = False
) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, AdamW for embeddings and norms."""
    named = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
    matrices = [
        weight for name, weight in named if weight.ndim == 2 and "embed" not in name and "lm_head" not in name
    ]
    chosen = {id(weight) for weight in matrices}
    others = [weight for _, weight in named if id(weight) not in chosen]
    return [
        Muon(matrices, lr=matrix_lr, pool=pool, dtype=torch.bfloat16 if is_mixed else torch.float32),
        torch.optim.AdamW(others, lr=other_lr, betas=(0.9, 0.95), weight_decay=0.0, fused=False),
    ]
