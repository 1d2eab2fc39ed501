"""The sizes of the two models and the plan of their training."""

from dataclasses import dataclass, field
from typing import Any

from minivllm.zoo.tokenizer import END_ID, END_OF_TEXT_ID, VOCAB_SIZE

MAX_LEN = 2048


@dataclass(frozen=True)
class Recipe:
    """One model's sizes and training plan."""

    hidden_size: int
    num_layers: int
    head_dim: int
    intermediate_size: int
    tokens: int  # how long to train
    tokens_per_step: int = 4096
    matrix_lr: float = 0.008
    other_lr: float = 0.002
    num_heads: int = 8
    num_kv_heads: int = 4
    vocab_size: int = VOCAB_SIZE
    max_len: int = MAX_LEN
    # (from this share of the training on, {row length: share of the tokens})
    lengths: tuple[tuple[float, dict[int, float]], ...] = field(
        default=(
            (0.0, {256: 1.0}),
            (0.45, {256: 0.6, 768: 0.4}),
            (0.62, {256: 0.40, 768: 0.25, 2048: 0.35}),
        )
    )

    def hf_config(self) -> dict[str, Any]:
        """Arguments of transformers' Qwen3Config."""
        return {
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.num_layers,
            "num_attention_heads": self.num_heads,
            "num_key_value_heads": self.num_kv_heads,
            "head_dim": self.head_dim,
            "max_position_embeddings": self.max_len,
            "rope_theta": 10000.0,
            "tie_word_embeddings": True,
            "attention_bias": False,
            "bos_token_id": None,
            "eos_token_id": END_ID,
            "pad_token_id": END_OF_TEXT_ID,
            "use_cache": True,
        }


RECIPES = {
    "tutor": Recipe(hidden_size=256, num_layers=6, head_dim=32, intermediate_size=512, tokens=30_000_000),
    "tutor-draft": Recipe(
        hidden_size=128, num_layers=2, head_dim=16, intermediate_size=128, tokens=12_000_000
    ),
}


def learning_rate(step: int, progress: float, warmup: int = 50, decay: float = 0.45) -> float:
    """Factor on the learning rates: warm-up over `warmup` steps, constant, linear decay over the last share `decay`."""
    return min(1.0, (step + 1) / warmup, max(0.0, 1.0 - progress) / decay)
