"""Exercise 13.3: A vocabulary over several ranks. (implement, about 20 minutes)

The embedding has a row for each token id, the output head has one, too, and in a small model they
are a good part of all weights. Rank r holds rows [r * n, (r + 1) * n) of both, where n is
len(self.weight). When the vocabulary does not divide, the last ranks' ranges reach beyond it: these
rows are zero and no id names them.

- The embedding: a rank looks up the ids that are its own. For all others it has nothing to say.
- The head: a rank's rows give the logits of its ids. Everybody needs all of them, and nothing else.

`self.tp` has rank, size, `all_reduce` (sum over ranks) and `all_gather` (the ranks' tensors side by
side).

Check: python -m minivllm.course check 13.3     (or: python -m pytest exercises/ch13_parallelism/embedding.py)
Stuck: python -m minivllm.course hint 13.3
"""

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
        raise NotImplementedError("exercise 13.3: VocabParallelEmbedding.forward")

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
        raise NotImplementedError("exercise 13.3: ParallelLMHead.forward")

    def slots(self, name: str) -> dict[str, WeightSlot]:
        """The one checkpoint tensor of this layer, [V, hidden]; none when it is the embedding's."""
        if self.is_tied:
            return {}
        return {f"{name}.weight": _vocab_slot(self.weight, self.vocab_size, self.tp.rank)}
