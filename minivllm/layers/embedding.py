"""Token embedding and output head, both split over ranks by vocabulary."""

import torch.nn.functional as F
from torch import Tensor, nn

from minivllm.layers.context import LayerContext
from minivllm.layers.weights import WeightSlot


class VocabParallelEmbedding(nn.Module):
    """One row per token id. Every rank holds an equal range of ids (the last one padded with zero rows)."""

    def __init__(self, vocab_size: int, hidden_size: int, context: LayerContext) -> None:
        super().__init__()
        tp = context.tp
        self.vocab_size, self.tp = vocab_size, tp
        size = -(-vocab_size // tp.size)
        self.start = tp.rank * size
        self.weight = context.empty(size, hidden_size)
        self.weight.data.zero_()

    def forward(self, input_ids: Tensor) -> Tensor:
        """[T] -> [T, hidden]."""
        if self.tp.size == 1:
            return F.embedding(input_ids, self.weight)
        local = input_ids - self.start
        elsewhere = (local < 0) | (local >= self.weight.shape[0])
        rows = F.embedding(local.masked_fill(elsewhere, 0), self.weight)
        return self.tp.all_reduce(rows.masked_fill(elsewhere[:, None], 0))

    def slots(self, name: str) -> dict[str, WeightSlot]:
        """The one checkpoint tensor of this layer, [V, hidden]."""
        return {f"{name}.weight": WeightSlot((self.vocab_size, self.weight.shape[1]), self._load)}

    def _load(self, tensor: Tensor) -> None:
        piece = tensor[self.start : self.start + self.weight.shape[0]]
        self.weight.data[: len(piece)].copy_(piece)


class ParallelLMHead(VocabParallelEmbedding):
    """From hidden states to logits: the transpose of an embedding, and often (`tie`) the embedding itself."""

    def tie(self, embedding: VocabParallelEmbedding) -> None:
        """Share the embedding's weight from now on."""
        self.weight = embedding.weight

    def forward(self, hidden: Tensor) -> Tensor:
        """[n, hidden] -> [n, V]."""
        return self.tp.all_gather(F.linear(hidden, self.weight))[:, : self.vocab_size]
