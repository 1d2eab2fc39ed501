"""What a head of EAGLE's shape would cost on tutor, and acceptance by temperature.

The head is not trained: it has the shape and so the cost of a real one, and its drafts are made to agree at a set rate.
Source: Li et al., "EAGLE" (ICML 2024): one decoder layer, run once for each draft.
"""

from __future__ import annotations

import argparse
from typing import Any

from minivllm.bench.spec_decode import SKILLS, Clocked, at_set_rates, configs, make_prompts
from minivllm.llm import LLM
from minivllm.models.fused import FusedLayers
from minivllm.sampling_params import SamplingParams

TEMPERATURES = (0.0, 0.5, 1.0, 1.5)
ALONE = 1  # heads are for small batches: the large one is left out


def eagle_shaped(args: argparse.Namespace, k: int) -> list[dict[str, Any]]:
    """At batch 1, at the set rates: the model drafts for itself with its first layer.

    That is an EAGLE head but for the product that mixes its inputs.
    """
    llm = LLM(args.model, speculative_config={"model": args.model, "num_speculative_tokens": k})
    proposer = llm.llm_engine.executor.runner.proposer  # type: ignore[attr-defined]  # one process
    head = proposer.model
    head.layers, head.layer_range, proposer.kv_caches = head.layers[:1], range(1), proposer.kv_caches[:1]
    head.fused = FusedLayers(head) if head.fused is not None else None
    alone = argparse.Namespace(**{**vars(args), "batch_sizes": [ALONE]})
    return at_set_rates(Clocked(LLM(args.model)), llm, args.model, "EAGLE-like", alone, k)


def acceptance_by_temperature(args: argparse.Namespace, k: int) -> list[dict[str, Any]]:
    """How often a draft that was looked at was right: each kind of prompt, each way to draft, each temperature."""
    rows = []
    for method, config in configs(args, k).items():
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
