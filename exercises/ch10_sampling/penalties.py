"""Exercise 10.2: Penalties. (implement, about 20 minutes)

A small model likes to say the same thing again. Three penalties make what was said less likely, or
with negative values more likely. P of the R rows ask for some, and `penalties.rows` says which rows
these are.

    repetition   a token of prompt or output: its logit is divided by it if positive, multiplied by it if not
    frequency    subtracted once for each time that the token occurs in the output
    presence     subtracted once if the token occurs in the output at all

In this order. The tokens come as `token_ids` [P, L], prompt and output of a row, padded to equal
length; `is_prompt` and `is_output` say which is which, and padding is neither.

`_count` is written. It may help, and you may do without it. The logits that come in are left as
they are.

Yours can serve: python -m minivllm.serve --mine apply_penalties

Check: python -m minivllm.course check 10.2     (or: python -m pytest exercises/ch10_sampling/penalties.py)
Stuck: python -m minivllm.course hint 10.2
"""

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
    raise NotImplementedError("exercise 10.2: apply_penalties")


def _count(token_ids: torch.Tensor, counted: torch.Tensor, vocab_size: int) -> torch.Tensor:
    """How often each token occurs where `counted`: [P, L] -> [P, V] float32."""
    counts = torch.zeros(token_ids.shape[0], vocab_size, device=token_ids.device)
    return counts.scatter_add_(1, token_ids, counted.float())
