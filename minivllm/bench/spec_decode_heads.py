"""What a head that drafts from the model's own hidden states would cost on tutor, and acceptance by temperature.

The heads are not trained: they have the shape and so the cost of real ones, and their drafts are made to agree at a set
rate. If even a head that agrees more often than tutor-draft does is slower, training one would be for show.
Sources: Li et al., "EAGLE" (ICML 2024): one decoder layer, run once for each draft; Cai et al., "Medusa" (ICML 2024): a
head for each draft, all in one go.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import torch

from minivllm.attention.metadata import LayerKVCache
from minivllm.bench.spec_decode import SKILLS, Clocked, at_set_rates, make_prompts
from minivllm.llm import LLM
from minivllm.model_config import KVCacheSpec
from minivllm.sampling_params import SamplingParams
from minivllm.spec_decode.proposer import Draft, DraftStep

TEMPERATURES = (0.0, 0.5, 1.0, 1.5)
ALONE = 1  # heads are for small batches: the large one is left out


class MedusaShaped:
    """k heads, each with a residual layer and a projection of its own: two products for all drafts of all requests."""

    def __init__(self, k: int, hidden_size: int, vocab_size: int) -> None:
        self.hidden_size = hidden_size
        self.layers = torch.randn(k, hidden_size, hidden_size) / hidden_size**0.5
        self.projections = torch.randn(k, hidden_size, vocab_size) / hidden_size**0.5

    def kv_cache_specs(self) -> list[KVCacheSpec]:
        """None: a head looks at one position."""
        return []

    def bind_kv_caches(self, kv_caches: Sequence[LayerKVCache], max_model_len: int) -> None:
        """None needed."""

    @torch.inference_mode()
    def propose(self, step: DraftStep) -> dict[int, Draft]:
        """The work of the heads on states that stand for the model's."""
        wanted = [
            (row, most)
            for row, most in zip(step.rows.tolist(), step.max_drafts.tolist(), strict=True)
            if most
        ]
        if not wanted:
            return {}
        hidden = torch.ones(len(self.layers), len(wanted), self.hidden_size)  # [k, m, hidden]
        hidden = hidden + torch.nn.functional.silu(hidden @ self.layers)
        token_ids = (hidden @ self.projections).argmax(-1).T.tolist()  # m lists of k
        return {row: Draft(ids[:most]) for (row, most), ids in zip(wanted, token_ids, strict=True)}


def heads(args: argparse.Namespace, k: int) -> list[dict[str, Any]]:
    """Both shapes, at batch 1, at the set rates."""
    alone = argparse.Namespace(**{**vars(args), "batch_sizes": [ALONE]})
    plain = Clocked(LLM(args.model))
    return [
        *at_set_rates(plain, _eagle_shaped(args.model, k), args.model, "EAGLE-like", alone, k),
        *at_set_rates(plain, _medusa_shaped(args.model, k), args.model, "Medusa-like", alone, k),
    ]


def _eagle_shaped(model: str, k: int) -> LLM:
    """The model drafts for itself with its first layer: an EAGLE head but for the product that mixes its inputs."""
    llm = LLM(model, speculative_config={"model": model, "num_speculative_tokens": k})
    proposer = llm.llm_engine.executor.runner.proposer  # type: ignore[attr-defined]  # one process
    proposer.model.layer_range = proposer.model.layer_range[:1]
    return llm


def _medusa_shaped(model: str, k: int) -> LLM:
    """The engine of n-gram look-up with heads in the proposer's place."""
    llm = LLM(model, speculative_config={"method": "ngram", "num_speculative_tokens": k})
    config, runner = llm.llm_engine.model_config, llm.llm_engine.executor.runner  # type: ignore[attr-defined]
    runner.proposer = MedusaShaped(k, config.hidden_size, config.vocab_size)
    runner.speculation.proposer = runner.proposer
    return llm


def acceptance_by_temperature(args: argparse.Namespace, k: int) -> list[dict[str, Any]]:
    """How often a draft that was looked at was right: each kind of prompt, each way to draft, each temperature."""
    configs = {
        "draft_model": {"model": args.draft_model, "num_speculative_tokens": k},
        "ngram": {
            "method": "ngram",
            "num_speculative_tokens": k,
            "prompt_lookup_min": 2,
            "prompt_lookup_max": 4,
        },
    }
    rows = []
    for method, config in configs.items():
        llm = LLM(args.model, speculative_config=config)
        for kind, skill in SKILLS.items():
            prompts = [{"prompt_token_ids": ids} for ids in make_prompts(llm, skill, args.num_prompts)]
            for temperature in TEMPERATURES:
                params = SamplingParams(temperature=temperature, max_tokens=args.output, seed=1)
                before = llm.llm_engine.stats()
                was = before.num_drafts, [*before.num_accepted_tokens_per_pos, *[0] * k]
                llm.generate(prompts, params, use_tqdm=False)
                after = llm.llm_engine.stats()
                per_pos = [n - o for n, o in zip(after.num_accepted_tokens_per_pos, was[1], strict=False)]
                examined = after.num_drafts - was[0] + sum(per_pos[:-1])
                agreement = sum(per_pos) / examined if examined else None
                rows.append(
                    {"method": method, "prompts": kind, "temperature": temperature, "agreement": agreement}
                )
                print(
                    f"{method:12} {kind:10} temperature {temperature}: agreement {agreement or 0:.2f}",
                    flush=True,
                )
    return rows
