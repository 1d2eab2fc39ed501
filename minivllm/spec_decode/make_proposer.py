"""Who drafts, by what the configuration says."""

from __future__ import annotations

import torch

from minivllm.config import EngineConfig, ModelConfig
from minivllm.models.decoder import DecoderModel
from minivllm.ops import AttentionBackend
from minivllm.parts import REFERENCE, Parts
from minivllm.sampling.sampler import Sampler
from minivllm.spec_decode.ngram_proposer import NgramProposer
from minivllm.spec_decode.proposer import Proposer


def make_proposer(
    config: EngineConfig,
    model: DecoderModel,
    model_config: ModelConfig,
    dtype: torch.dtype,
    device: torch.device,
    backend: AttentionBackend,
    sampler: Sampler,
    parts: Parts = REFERENCE,
) -> Proposer | None:
    """Who drafts for `model`; None = nobody.

    Raises:
        ValueError: the draft model, or the heads, do not suit the model.
    """
    speculation = config.speculation
    if speculation is None:
        return None
    if speculation.method == "ngram":
        assert speculation.prompt_lookup_min is not None and speculation.prompt_lookup_max is not None
        return NgramProposer(speculation.prompt_lookup_min, speculation.prompt_lookup_max, parts.look_up)
    from minivllm.spec_decode.medusa import is_medusa, load_medusa

    assert speculation.model is not None
    if speculation.method == "medusa":
        num_drafts = speculation.num_speculative_tokens
        return load_medusa(speculation.model, num_drafts, model, model_config, dtype, device)
    if is_medusa(speculation.model):
        raise ValueError(
            f"speculative_config.model {speculation.model!r} holds Medusa heads and no model: set method to medusa"
        )
    from minivllm.spec_decode.draft_model import load_draft_model

    return load_draft_model(config, model_config, dtype, device, backend, sampler)
