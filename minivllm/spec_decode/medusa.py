"""Heads that draft from the model's own hidden states: no second model, no cache, and all drafts in one go.

The state that a token is drawn from knows more than that one token. A head reads from it what comes behind: the first
head the next token, the second the one after that. First, one block that all heads share mixes in the token that was
drawn, which the state could not know; then each head has one residual block, and the model's own output matrix makes
logits of what it says. So k drafts cost two small products and one large.

The drafts are the heads' favourite tokens, also where the model draws by chance. Sources: Cai et al., "Medusa" (ICML
2024), section 2.1; the drawn token as an input: Li et al., "EAGLE" (ICML 2024), and Ankner et al., "Hydra" (2024).
vLLM's method `medusa` has no shared block and may have an output matrix for each head: its checkpoints are other ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from minivllm.attention.metadata import LayerKVCache
from minivllm.config import ModelConfig, resolve_model
from minivllm.model_config import KVCacheSpec, resolve_model_path
from minivllm.model_files import read_json_object, short, whole_number
from minivllm.models.decoder import DecoderModel
from minivllm.models.loader import read_weights
from minivllm.spec_decode.proposer import Draft, DraftStep


@dataclass(frozen=True)
class MedusaConfig:
    """config.json of a folder with heads; the names are those of vLLM's MedusaConfig."""

    hidden_size: int
    vocab_size: int
    num_heads: int

    @classmethod
    def from_pretrained(cls, folder: Path) -> MedusaConfig:
        """Read it.

        Raises:
            ValueError: a number is missing, or out of range.
        """
        file = folder / "config.json"
        raw = read_json_object(file)
        names = ("hidden_size", "vocab_size", "num_heads")
        return cls(*(whole_number(f"{file}: {name}", raw.get(name)) for name in names))


class MedusaHeads(nn.Module):
    """k heads behind one shared block. As they begin, all weights are 0, and each says what the model itself would."""

    def __init__(self, num_heads: int, hidden_size: int) -> None:
        super().__init__()
        self.mix_hidden = nn.Parameter(torch.zeros(hidden_size, hidden_size))
        self.mix_token = nn.Parameter(torch.zeros(hidden_size, hidden_size))
        self.blocks = nn.Parameter(torch.zeros(num_heads, hidden_size, hidden_size))

    def forward(self, hidden: torch.Tensor, embedded: torch.Tensor, num_heads: int) -> torch.Tensor:
        """What the first heads say, for the model's output matrix to read.

        Args:
            hidden: [m, hidden] the states that tokens were drawn from.
            embedded: [m, hidden] these tokens, as the model embeds them.
            num_heads: how many heads are asked.

        Returns:
            [num_heads, m, hidden].
        """
        token = F.rms_norm(embedded, embedded.shape[-1:])
        x = hidden + F.silu(hidden @ self.mix_hidden + token @ self.mix_token)
        x = x.expand(num_heads, *x.shape)
        return x + F.silu(x @ self.blocks[:num_heads])

    def load(self, folder: Path) -> None:
        """Fill the weights from the folder's safetensors.

        Raises:
            ValueError: a tensor is missing, has another shape, or is one too many.
        """
        slots = dict(self.named_parameters())
        for name, tensor in read_weights(folder):
            if name not in slots:
                raise ValueError(f"{folder}: the heads have no place for the tensor {short(name)}.")
            slot = slots.pop(name)
            if tuple(tensor.shape) != tuple(slot.shape):
                raise ValueError(
                    f"{folder}: the tensor {name} must have shape {list(slot.shape)}, got {list(tensor.shape)}."
                )
            slot.data.copy_(tensor[:])
        if slots:
            raise ValueError(f"{folder}: the tensor {next(iter(slots))} is missing.")


def is_medusa(name: str) -> bool:
    """Whether a folder, or what ships under a name, holds heads and no model. Nobody asks the hub: that is no."""
    file = Path(resolve_model(name)) / "config.json"
    return file.is_file() and read_json_object(file).get("model_type") == "medusa"


def load_medusa(
    name: str,
    num_drafts: int,
    model: DecoderModel,
    model_config: ModelConfig,
    dtype: torch.dtype,
    device: torch.device,
) -> MedusaProposer:
    """Load the heads `name` that draft for `model`.

    Raises:
        ValueError: there are no such heads, too few, or they do not suit the model.
    """
    folder = resolve_model_path(resolve_model(name))
    if not is_medusa(str(folder)):
        raise ValueError(
            f"speculative_config.model {name!r} holds no Medusa heads: method draft_model takes models"
        )
    config = MedusaConfig.from_pretrained(folder)
    for what, theirs, ours in (
        ("hidden states of size", config.hidden_size, model_config.hidden_size),
        ("a vocabulary of", config.vocab_size, model_config.vocab_size),
    ):
        if theirs != ours:
            raise ValueError(
                f"speculative_config.model {name!r} was made for {what} {theirs}, and the model has {ours}: heads "
                "draft only for the model that they were trained on"
            )
    if num_drafts > config.num_heads:
        raise ValueError(
            f"speculative_config.num_speculative_tokens must be at most {config.num_heads}, the heads of {name!r}, "
            f"not {num_drafts}"
        )
    heads = MedusaHeads(config.num_heads, config.hidden_size)
    heads.load(folder)
    return MedusaProposer(model, heads.to(device, dtype).eval())


class MedusaProposer:
    """Drafts with heads on the hidden states that the step has left behind."""

    def __init__(self, model: DecoderModel, heads: MedusaHeads) -> None:
        self.model, self.heads = model, heads

    def kv_cache_specs(self) -> list[KVCacheSpec]:
        """None: a head looks at one position."""
        return []

    def bind_kv_caches(self, kv_caches: Sequence[LayerKVCache], max_model_len: int) -> None:
        """None needed."""

    def propose(self, step: DraftStep) -> dict[int, Draft]:
        """Row -> what the heads say behind its newest token."""
        wants = step.max_drafts > 0
        rows, counts = step.rows[wants], step.max_drafts[wants]  # [m]
        if not len(rows):
            return {}
        newest = step.token_ids[rows, step.num_tokens[rows] - 1].astype(np.int64)
        hidden = step.newest_hidden()
        embedded = self.model.embed(torch.from_numpy(newest).to(hidden.device))
        said = self.heads(hidden, embedded, int(counts.max()))  # [k, m, hidden]
        token_ids = self.model.compute_logits(said.flatten(0, 1)).argmax(-1)  # [k * m]
        drafts = token_ids.view(len(said), len(rows)).T.tolist()  # m lists of k
        return {
            row: Draft(tokens[:count])
            for row, tokens, count in zip(rows.tolist(), drafts, counts.tolist(), strict=True)
        }
