"""Exercise 10.2: Penalties."""

from __future__ import annotations

import torch
from dataclasses import dataclass


@dataclass(frozen=True)
class Penalties:
    """Penalties of P of the R rows, with the tokens they punish."""

    rows: torch.Tensor  # [P] which rows
    repetition: torch.Tensor  # [P] > 0, 1 = off
    frequency: torch.Tensor  # [P] 0 = off
    presence: torch.Tensor  # [P] 0 = off
    token_ids: torch.Tensor  # [P, L] prompt and output, padded
    is_prompt: torch.Tensor  # [P, L] bool
    is_output: torch.Tensor  # [P, L] bool; neither = padding


def apply_penalties(logits: torch.Tensor, penalties: Penalties) -> torch.Tensor:
    """Repetition (CTRL, Keskar et al. 2019), then frequency and presence (OpenAI's). logits [R, V] -> [R, V].

    The repetition penalty looks at prompt and output, the other two at the output alone.
    """
    selected = logits[penalties.rows]  # [P, V]
    prompt_counts = _count(penalties.token_ids, penalties.is_prompt, logits.shape[-1])
    output_counts = _count(penalties.token_ids, penalties.is_output, logits.shape[-1])
    factor = torch.where(prompt_counts + output_counts > 0, penalties.repetition[:, None], 1.0)
    selected = torch.where(selected > 0, selected / factor, selected * factor)
    selected = selected - penalties.frequency[:, None] * output_counts
    selected = selected - penalties.presence[:, None] * (output_counts > 0)
    return logits.index_copy(0, penalties.rows, selected)


def _count(token_ids: torch.Tensor, counted: torch.Tensor, vocab_size: int) -> torch.Tensor:
    """How often each token occurs where `counted`: [P, L] -> [P, V] float32."""
    counts = torch.zeros(token_ids.shape[0], vocab_size, device=token_ids.device)
    return counts.scatter_add_(1, token_ids, counted.float())
