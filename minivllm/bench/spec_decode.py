"""Speculative decoding against plain decoding, in turns in one run, with the cost model and where it breaks even.

Part 1: tutor with a draft model, with heads on its own hidden states, and with n-gram look-up, on stories, glossary
and look-up prompts, at batch 1 and 8. Part 2: a larger target with random weights, whose draft model runs at its real
cost but is made to agree at a set rate. Part 3: the same for a head of EAGLE's shape on tutor (`spec_decode_more.py`).
Part 4, without a clock: how many drafts are accepted at which temperature.

The cost model is that of `minivllm/spec_decode/cost_model.py`; a step's cost is measured, drafting and verification
apart, in plain steps of the same run.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from dataclasses import dataclass
from typing import Any

from minivllm.llm import LLM
from minivllm.outputs import RequestOutput
from minivllm.sampling_params import SamplingParams
from minivllm.spec_decode.cost_model import break_even, speedup
from minivllm.spec_decode.proposer import Draft, DraftStep
from minivllm.zoo.cases import cases
from minivllm.zoo.lexicon import load_lexicon

SKILLS = {"stories": "story", "glossary": "glossary", "look-up": "lookup_500"}
LARGE = {
    "hidden_size": 768,
    "intermediate_size": 2048,
    "num_hidden_layers": 8,
    "num_attention_heads": 12,
    "num_key_value_heads": 12,
    "head_dim": 64,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `python -m minivllm.bench spec-decode`."""
    parser.add_argument("--model", default="tutor", help="(default: tutor)")
    parser.add_argument("--draft-model", default="tutor-draft", help="(default: tutor-draft)")
    parser.add_argument("--heads", default="tutor-medusa", help="of method medusa (default: tutor-medusa)")
    parser.add_argument("--num-speculative-tokens", type=int, default=4, help="(default: 4)")
    parser.add_argument("--num-prompts", type=int, default=8, help="of each kind (default: 8)")
    parser.add_argument("--output", type=int, default=96, help="tokens to generate at most (default: 96)")
    parser.add_argument("--batch-sizes", type=int, nargs="*", default=[1, 8], help="(default: 1 8)")
    parser.add_argument("--agreement", type=float, nargs="*", default=[0.5, 0.8, 0.95], help="of part 2")
    parser.add_argument("--repetitions", type=int, default=3, help="(default: 3)")


@dataclass(frozen=True)
class Run:
    """One engine over one set of prompts."""

    seconds: float
    draft_seconds: float
    num_steps: int
    outputs: list[list[int]]
    num_drafts: int
    num_draft_tokens: int
    per_pos: list[int]


class Clocked:
    """An LLM whose drafting is timed."""

    def __init__(self, llm: LLM) -> None:
        self.llm, self.draft_seconds = llm, 0.0
        proposer = llm.llm_engine.executor.runner.proposer  # type: ignore[attr-defined]  # one process
        if proposer is not None:
            self._propose = proposer.propose
            proposer.propose = self._timed

    def _timed(self, step: DraftStep) -> dict[int, Draft]:
        start = time.perf_counter()
        drafts = self._propose(step)
        self.draft_seconds += time.perf_counter() - start
        return drafts

    def run(self, prompts: list[list[int]], batch_size: int, max_tokens: int, ignore_eos: bool) -> Run:
        """Run the prompts, `batch_size` at a time."""
        engine = self.llm.llm_engine
        params = SamplingParams(temperature=0, max_tokens=max_tokens, detokenize=False, ignore_eos=ignore_eos)
        outputs: dict[str, list[int]] = {}
        engine.reset_prefix_cache()
        before, self.draft_seconds, num_steps = engine.stats(), 0.0, 0
        start = time.perf_counter()
        for first in range(0, len(prompts), batch_size):
            for number, prompt in enumerate(prompts[first : first + batch_size], start=first):
                engine.add_request(str(number), prompt, params)
            while engine.has_unfinished_requests():
                num_steps += 1
                for output in engine.step():
                    assert isinstance(output, RequestOutput)
                    outputs[output.request_id] = output.outputs[0].token_ids
        seconds, after = time.perf_counter() - start, engine.stats()
        old = [*before.num_accepted_tokens_per_pos, *[0] * len(after.num_accepted_tokens_per_pos)]
        return Run(
            seconds=seconds,
            draft_seconds=self.draft_seconds,
            num_steps=num_steps,
            outputs=[outputs[str(number)] for number in range(len(prompts))],
            num_drafts=after.num_drafts - before.num_drafts,
            num_draft_tokens=after.num_draft_tokens - before.num_draft_tokens,
            per_pos=[new - was for new, was in zip(after.num_accepted_tokens_per_pos, old, strict=False)],
        )


class Agreeing:
    """Puts known continuations in the place of a draft model's guesses, each right with a set probability."""

    def __init__(self, inner: Any, rate: float, vocab_size: int) -> None:
        self._propose, self.rate, self.vocab_size = inner.propose, rate, vocab_size
        self.answers: dict[tuple[int, ...], list[int]] = {}  # prompt -> what the target says
        self._rng = random.Random(0)
        inner.propose = self.propose

    def propose(self, step: DraftStep) -> dict[int, Draft]:
        """The inner proposer's work, and other tokens."""
        drafts = self._propose(step)
        length = len(next(iter(self.answers)))
        for row, draft in drafts.items():
            answer = self.answers[tuple(step.token_ids[row, :length].tolist())]
            said = int(step.num_tokens[row]) - length
            for i, right in enumerate(answer[said : said + len(draft.token_ids)]):
                is_right = self._rng.random() < self.rate
                draft.token_ids[i] = right if is_right else (right + 1) % self.vocab_size
        return drafts


def compare(
    plain: Clocked,
    other: Clocked,
    prompts: list[list[int]],
    batch_size: int,
    k: int,
    args: Any,
    **options: Any,
) -> dict[str, Any]:
    """The two in turns; ratios round by round, as the machine's speed drifts."""
    runs: list[tuple[Run, Run]] = []
    for repetition in range(args.repetitions):
        order = (plain, other) if repetition % 2 == 0 else (other, plain)
        done = {id(one): one.run(prompts, batch_size, args.output, **options) for one in order}
        runs.append((done[id(plain)], done[id(other)]))
    a, b = runs[-1]
    examined = b.num_drafts + sum(b.per_pos[:-1])  # a draft is looked at if all before it were right
    agreement = sum(b.per_pos) / examined if examined else 0.0
    plain_step = a.seconds / a.num_steps
    drafting = b.draft_seconds / b.num_steps / plain_step
    verification = (b.seconds - b.draft_seconds) / b.num_steps / plain_step
    cost = drafting + verification
    return {
        "batch_size": batch_size,
        "speedup": statistics.median(a.seconds / b.seconds for a, b in runs),
        "agreement": agreement,
        "acceptance_rate": sum(b.per_pos) / b.num_draft_tokens if b.num_draft_tokens else 0.0,
        "num_accepted_per_pos": b.per_pos,
        "tokens_per_step": sum(map(len, b.outputs)) / b.num_steps / batch_size,
        "cost_of_drafting": drafting,
        "cost_of_verification": verification,
        "predicted_speedup": speedup(agreement, k, cost),
        "break_even_agreement": break_even(cost, k),
        "greedy_tokens_equal": a.outputs == b.outputs,
    }


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure, and print a table."""
    k = args.num_speculative_tokens
    print(
        f"{'target':8} {'method':14} {'prompts':9} {'batch':>5} {'speed-up':>9} {'predicted':>9} {'agreement':>9} "
        f"{'break-even':>10} {'draft':>6} {'verify':>6}  equal"
    )
    from minivllm.bench.spec_decode_more import acceptance_by_temperature, eagle_shaped

    rows = [*_shipped(args, k), *_large(args, k), *eagle_shaped(args, k)]
    return {
        "num_speculative_tokens": k,
        "costs_are_in": "plain steps",
        "rows": rows,
        "acceptance": acceptance_by_temperature(args, k),
    }


def configs(args: argparse.Namespace, k: int) -> dict[str, dict[str, Any]]:
    """Method -> speculative_config."""
    look_up = {"prompt_lookup_min": 2, "prompt_lookup_max": 4}
    return {
        "draft_model": {"model": args.draft_model, "num_speculative_tokens": k},
        "medusa": {"method": "medusa", "model": args.heads, "num_speculative_tokens": k},
        "ngram": {"method": "ngram", "num_speculative_tokens": k, **look_up},
    }


def _shipped(args: argparse.Namespace, k: int) -> list[dict[str, Any]]:
    plain = Clocked(LLM(args.model))
    others = {
        name: Clocked(LLM(args.model, speculative_config=config)) for name, config in configs(args, k).items()
    }
    rows = []
    for kind, skill in SKILLS.items():
        prompts = make_prompts(plain.llm, skill, args.num_prompts)
        for batch_size in args.batch_sizes:
            for method, other in others.items():
                row = compare(plain, other, prompts, batch_size, k, args, ignore_eos=False)
                rows.append(_show({"target": args.model, "method": method, "prompts": kind, **row}))
    return rows


def _large(args: argparse.Namespace, k: int) -> list[dict[str, Any]]:
    options: dict[str, Any] = {"load_format": "dummy", "hf_overrides": LARGE, "max_model_len": 512}
    config = {"model": args.draft_model, "num_speculative_tokens": k}
    plain = Clocked(LLM(args.model, **options))
    llm = LLM(args.model, speculative_config=config, **options)
    return at_set_rates(plain, llm, "random", "draft_model", args, k)


def at_set_rates(
    plain: Clocked, llm: LLM, target: str, method: str, args: argparse.Namespace, k: int
) -> list[dict[str, Any]]:
    """What drafts cost is real; how often they are right is set, to each of `args.agreement` in turn."""
    vocab_size = llm.llm_engine.model_config.vocab_size
    rng = random.Random(1)
    prompts = [[rng.randrange(3, vocab_size) for _ in range(16)] for _ in range(args.num_prompts)]
    answers = plain.run(prompts, args.num_prompts, args.output, ignore_eos=True).outputs
    agreeing = Agreeing(llm.llm_engine.executor.runner.proposer, 0.0, vocab_size)  # type: ignore[attr-defined]
    agreeing.answers = {tuple(p): answer for p, answer in zip(prompts, answers, strict=True)}
    other, rows = Clocked(llm), []
    for agreeing.rate in args.agreement:
        for batch_size in args.batch_sizes:
            row = compare(plain, other, prompts, batch_size, k, args, ignore_eos=True)
            about = {"target": target, "method": method, "prompts": f"set {agreeing.rate:.0%}"}
            rows.append(_show({**about, **row}))
    return rows


def make_prompts(llm: LLM, skill: str, count: int) -> list[list[int]]:
    """The token ids of so many questions of a kind that the model was trained on, with seeds it has not seen."""
    tokenizer = llm.get_tokenizer()
    return [
        tokenizer.apply_chat_template(
            [{"role": role, "content": content} for role, content in case.messages],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=False,
        )
        for case in cases(load_lexicon(), skill, count)
    ]


def _show(row: dict[str, Any]) -> dict[str, Any]:
    even = "never" if row["break_even_agreement"] is None else f"{row['break_even_agreement']:.2f}"
    print(
        f"{row['target']:8} {row['method']:14} {row['prompts']:9} {row['batch_size']:5} {row['speedup']:9.2f} "
        f"{row['predicted_speedup']:9.2f} {row['agreement']:9.2f} {even:>10} {row['cost_of_drafting']:6.2f} "
        f"{row['cost_of_verification']:6.2f}  {'yes' if row['greedy_tokens_equal'] else 'no'}",
        flush=True,
    )
    return row
