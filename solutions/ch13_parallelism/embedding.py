"""Exercise 13.3: A vocabulary over several ranks."""

import torch.nn.functional as F
from torch import Tensor, nn

from minivllm.layers.context import LayerContext
from minivllm.layers.weights import CheckpointTensor, WeightSlot


def _vocab_parameter(vocab_size: int, hidden_size: int, context: LayerContext) -> nn.Parameter:
    weight = context.empty(-(-vocab_size // context.tp.size), hidden_size)
    weight.data.zero_()
    return weight


def _vocab_slot(weight: nn.Parameter, vocab_size: int, rank: int) -> WeightSlot:
    def load(tensor: CheckpointTensor) -> None:
        rows = tensor[rank * len(weight) : (rank + 1) * len(weight)]
        weight.data[: len(rows)].copy_(rows)

    return WeightSlot((vocab_size, weight.shape[1]), load)


class VocabParallelEmbedding(nn.Module):
    """One row per token id."""

    def __init__(self, vocab_size: int, hidden_size: int, context: LayerContext) -> None:
        super().__init__()
        self.vocab_size, self.tp = vocab_size, context.tp
        self.weight = _vocab_parameter(vocab_size, hidden_size, context)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Token ids [T] -> [T, hidden]."""
        if self.tp.size == 1:
            return F.embedding(input_ids, self.weight)
        local = input_ids - self.tp.rank * len(self.weight)
        elsewhere = (local < 0) | (local >= len(self.weight))
        rows = F.embedding(local.masked_fill(elsewhere, 0), self.weight)
        return self.tp.all_reduce(rows.masked_fill(elsewhere[:, None], 0))

    def slots(self, name: str) -> dict[str, WeightSlot]:
        """The one checkpoint tensor of this layer, [V, hidden]."""
        return {f"{name}.weight": _vocab_slot(self.weight, self.vocab_size, self.tp.rank)}


class ParallelLMHead(nn.Module):
    """From hidden states to logits. The matrix is shaped like an embedding's, and often (`tied`) is that one."""

    def __init__(
        self, vocab_size: int, hidden_size: int, context: LayerContext, tied: VocabParallelEmbedding | None
    ) -> None:
        super().__init__()
        self.vocab_size, self.tp, self.is_tied = vocab_size, context.tp, tied is not None
        self.weight = tied.weight if tied is not None else _vocab_parameter(vocab_size, hidden_size, context)

    def forward(self, hidden: Tensor) -> Tensor:
        """[n, hidden] -> [n, V], on every rank."""
        return self.tp.all_gather(F.linear(hidden, self.weight))[:, : self.vocab_size]

    def slots(self, name: str) -> dict[str, WeightSlot]:
        """The one checkpoint tensor of this layer, [V, hidden]; none when it is the embedding's."""
        if self.is_tied:
            return {}
        return {f"{name}.weight": _vocab_slot(self.weight, self.vocab_size, self.tp.rank)}
