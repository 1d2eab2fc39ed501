"""How many arithmetic operations a model needs for some tokens: counted from its shape, not measured.

A multiplication and the addition behind it are two operations. Counted are the matrices and attention; norms, rotations
and the softmax itself are left out, far below 1 % in models of a usual size.
"""

from __future__ import annotations

from dataclasses import dataclass

from minivllm.model_config import ModelConfig


@dataclass(frozen=True)
class Flops:
    """Operations of one run of the model."""

    matrices: int  # every token times every weight
    attention: int  # every query times the keys and values that it sees
    head: int  # logits, for the rows that need them

    @property
    def total(self) -> int:
        return self.matrices + self.attention + self.head


def forward_flops(config: ModelConfig, start: int, stop: int, num_logits: int = 1) -> Flops:
    """Operations for the tokens at positions [start, stop), which see all positions up to their own.

    Args:
        config: the model.
        start: the first position; the keys and values of those before it are known already.
        stop: the position behind the last.
        num_logits: rows of logits that are computed.
    """
    heads, kv_heads, head_dim = config.num_attention_heads, config.num_key_value_heads, config.head_dim
    projections = config.hidden_size * head_dim * (2 * heads + 2 * kv_heads)  # q and o; k and v
    weights = config.num_hidden_layers * (projections + 3 * config.hidden_size * config.intermediate_size)
    seen = sum(range(start + 1, stop + 1))  # pairs of a token and one that it sees
    return Flops(
        matrices=2 * weights * (stop - start),
        attention=config.num_hidden_layers * 4 * heads * head_dim * seen,  # scores, then the sum of values
        head=2 * config.vocab_size * config.hidden_size * num_logits,
    )
