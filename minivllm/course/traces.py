"""The trace of each chapter whose parts run in the engine: requests that a wrong part does not survive.

Block sizes, budgets and pools are small, so that a few requests meet full blocks, shared blocks, evicted blocks,
chunks and preemptions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Prompt = str | list[int]


@dataclass(frozen=True)
class Trace:
    """A workload. `engine` are fields of EngineConfig, `params` of SamplingParams."""

    engine: Mapping[str, Any]
    rounds: Sequence[Sequence[tuple[Prompt, Mapping[str, Any]]]]  # all requests of a round come at once
    is_served: bool = False  # by the engine behind asyncio, to clients that stream; else by LLM.generate
    leaves_after: Mapping[int, int] = field(
        default_factory=dict
    )  # served: number of a request -> outputs after which its client leaves

    @property
    def num_requests(self) -> int:
        return sum(map(len, self.rounds))


def _greedy(max_tokens: int) -> dict[str, Any]:
    return {"temperature": 0, "max_tokens": max_tokens}


def _sampled(seed: int, max_tokens: int, **more: Any) -> dict[str, Any]:
    return {"temperature": 1.0, "seed": seed, "max_tokens": max_tokens, **more}


def _to_the_end(params: dict[str, Any]) -> dict[str, Any]:
    """As many tokens as it may say."""
    return params | {"ignore_eos": True}


def _token_ids(length: int, first: int) -> list[int]:
    return [100 + (first + 37 * i) % 900 for i in range(length)]


QUESTIONS = (
    "What is a block table?",
    "What is a KV cache?",
    "Tell me a story about a fox.",
    "What is paging?",
)
PREFIX = "You are a careful tutor. Answer in one short sentence, and say so when you do not know. "

TRACES: Mapping[int, Trace] = {
    0: Trace({"block_size": 8}, [[(question, _greedy(24)) for question in QUESTIONS]]),
    4: Trace(  # lengths around the block boundaries, in chunks that begin and end anywhere
        {"block_size": 8, "max_num_batched_tokens": 21, "max_num_seqs": 8},
        [[(_token_ids(length, 11 * length), _greedy(12)) for length in (1, 7, 8, 9, 16, 29)]],
    ),
    5: Trace(  # choices that share their prompt, and too few blocks for all of them
        {"block_size": 4, "num_gpu_blocks_override": 40, "max_model_len": 96},
        [
            [(q, _sampled(i, 20, n=3)) for i, q in enumerate(QUESTIONS)],
            [(QUESTIONS[0], _sampled(9, 12, n=4))],
        ],
    ),
    6: Trace(  # prompts in chunks beside requests that decode, contexts that end anywhere in a block
        {"block_size": 4, "max_num_batched_tokens": 24, "max_num_seqs": 6},
        [
            [(question, _greedy(10)) for question in QUESTIONS],
            [(_token_ids(length, 5 * length), _greedy(6)) for length in (1, 3, 4, 5, 31)],
        ],
    ),
    8: Trace(  # long and short prompts, a small budget, and a pool that some have to leave
        {
            "block_size": 4,
            "num_gpu_blocks_override": 36,
            "max_model_len": 96,
            "max_num_batched_tokens": 24,
            "max_num_seqs": 6,
        },
        [[(_token_ids(4 + 13 * i % 50, i), _greedy(8 + 5 * i % 23)) for i in range(12)]],
    ),
    9: Trace(  # one prefix, asked again after others have pushed it out
        {"block_size": 4, "num_gpu_blocks_override": 48, "max_model_len": 128},
        [
            [(PREFIX + QUESTIONS[0], _greedy(10))],
            [(PREFIX + question, _greedy(10)) for question in QUESTIONS],
            [(_token_ids(60, 3 * i), _greedy(10)) for i in range(3)],
            [(PREFIX + question, _greedy(10)) for question in QUESTIONS],
        ],
    ),
    10: Trace(
        {"block_size": 8},
        [
            [
                (QUESTIONS[0], _greedy(16)),
                (QUESTIONS[1], _sampled(1, 16, top_k=5)),
                (QUESTIONS[2], _sampled(2, 24, top_p=0.8)),
                (QUESTIONS[2], _sampled(3, 24, min_p=0.1)),
                (QUESTIONS[3], _sampled(4, 16, top_k=20, top_p=0.9, repetition_penalty=1.2)),
                (QUESTIONS[3], _sampled(5, 16, presence_penalty=0.5, frequency_penalty=0.5, n=2)),
            ]
        ],
    ),
    12: Trace(  # texts that repeat themselves, so that some drafts are right and many are not; greedy and drawn
        {
            "block_size": 4,
            "num_gpu_blocks_override": 60,
            "max_model_len": 96,
            "speculative_config": {
                "method": "ngram",
                "num_speculative_tokens": 5,
                "prompt_lookup_min": 1,
                "prompt_lookup_max": 3,
            },
        },
        [
            [(question, _greedy(24)) for question in QUESTIONS],
            [(question, _sampled(i, 24)) for i, question in enumerate(QUESTIONS)],
            [(_token_ids(9, 5) * 2, _greedy(12)), (_token_ids(7, 8) * 3, _sampled(7, 12, n=2))],
        ],
    ),
    14: Trace(  # streams of several users at once: one prefix, choices, long prompts, preemptions; and some users leave
        {
            "block_size": 4,
            "num_gpu_blocks_override": 36,
            "max_model_len": 128,
            "max_num_batched_tokens": 32,
            "max_num_seqs": 6,
        },
        [
            [(PREFIX + QUESTIONS[0], _to_the_end(_greedy(12)))],
            [
                *[(PREFIX + question, _to_the_end(_greedy(20))) for question in QUESTIONS],
                (QUESTIONS[2], _to_the_end(_sampled(3, 24, n=3))),
                (QUESTIONS[3], _sampled(4, 16, top_k=20, top_p=0.9, repetition_penalty=1.2)),
                (QUESTIONS[1], _sampled(5, 16, min_p=0.1, presence_penalty=0.5)),
                *[(_token_ids(20 + 13 * i, 7 * i), _greedy(10)) for i in range(5)],
            ],
            [(PREFIX + question, _to_the_end(_greedy(10))) for question in QUESTIONS],
        ],
        is_served=True,
        leaves_after={2: 3, 7: 1, 11: 2, 14: 2},
    ),
}
