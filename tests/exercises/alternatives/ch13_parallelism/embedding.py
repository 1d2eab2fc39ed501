"""By products with one-hot vectors; the head's padding is taken out of each rank's piece of the gathered logits."""

import torch
from torch import nn

from minivllm.layers.embedding import _vocab_parameter, _vocab_slot


class VocabParallelEmbedding(nn.Module):
    def __init__(self, vocab_size, hidden_size, context):
        super().__init__()
        self.vocab_size, self.tp = vocab_size, context.tp
        self.weight = _vocab_parameter(vocab_size, hidden_size, context)

    def forward(self, input_ids):
        n = len(self.weight)
        mine = torch.arange(self.tp.rank * n, (self.tp.rank + 1) * n)
        return self.tp.all_reduce((input_ids[:, None] == mine).float() @ self.weight)

    def slots(self, name):
        return {f"{name}.weight": _vocab_slot(self.weight, self.vocab_size, self.tp.rank)}


class ParallelLMHead(nn.Module):
    def __init__(self, vocab_size, hidden_size, context, tied):
        super().__init__()
        self.vocab_size, self.tp, self.is_tied = vocab_size, context.tp, tied is not None
        self.weight = tied.weight if tied is not None else _vocab_parameter(vocab_size, hidden_size, context)

    def forward(self, hidden):
        n = len(self.weight)
        gathered = self.tp.all_gather(hidden @ self.weight.T)
        keep = [max(0, min(n, self.vocab_size - rank * n)) for rank in range(self.tp.size)]
        pieces = [gathered[:, rank * n : rank * n + count] for rank, count in enumerate(keep)]
        return torch.cat(pieces, dim=-1)

    def slots(self, name):
        return (
            {}
            if self.is_tied
            else {f"{name}.weight": _vocab_slot(self.weight, self.vocab_size, self.tp.rank)}
        )
