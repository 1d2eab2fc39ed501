"""Who drafts, by what the configuration says."""

from __future__ import annotations

import torch

from minivllm.config import EngineConfig, ModelConfig
from minivllm.ops import AttentionBackend
from minivllm.parts import REFERENCE, Parts
from minivllm.sampling.sampler import Sampler
from minivllm.spec_decode.ngram_proposer import NgramProposer
from minivllm.spec_decode.proposer import Proposer


def make_proposer(
    config: EngineConfig,
    model_config: ModelConfig,
    dtype: torch.dtype,
    device: torch.device,
    backend: AttentionBackend,
    sampler: Sampler,
    parts: Parts = REFERENCE,
) -> Proposer | None:
    """None = nobody drafts.

    Raises:
        ValueError: the draft model does not suit the model.
    """
    speculation = config.speculation
    if speculation is None:
        return None
    if speculation.method == "ngram":
        assert speculation.prompt_lookup_min is not None and speculation.prompt_lookup_max is not None
        return NgramProposer(speculation.prompt_lookup_min, speculation.prompt_lookup_max, parts.look_up)
    from minivllm.spec_decode.draft_model import load_draft_model

    return load_draft_model(config, model_config, dtype, device, backend, sampler)
