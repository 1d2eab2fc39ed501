"""Workloads: lists of requests with fixed lengths and random tokens, made from a seed. Standard library only."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

FIRST_TOKEN = 3  # lower ids are often special


@dataclass(frozen=True)
class BenchRequest:
    """Token ids in, and exactly so many tokens out."""

    prompt_token_ids: list[int]
    output_len: int


def mixed(num_requests: int, vocab_size: int, repetition: int = 0, seed: int = 0) -> list[BenchRequest]:
    """Prompts of 16-256 and outputs of 8-128 tokens, log-uniform.

    The lengths depend on the seed alone; the tokens also on the repetition, so that no repetition finds another's
    prefix cached.
    """
    lengths = random.Random(f"lengths {seed}")
    tokens = random.Random(f"tokens {seed} {repetition}")
    return [
        BenchRequest(
            [tokens.randrange(FIRST_TOKEN, vocab_size) for _ in range(_log_uniform(lengths, 16, 256))],
            _log_uniform(lengths, 8, 128),
        )
        for _ in range(num_requests)
    ]


def shared_prefix(
    num_requests: int,
    vocab_size: int,
    repetition: int = 0,
    *,
    shared: int = 512,
    own: int = 16,
    output: int = 16,
) -> list[BenchRequest]:
    """Requests that begin with the same `shared` tokens."""
    tokens = random.Random(f"shared prefix {repetition}")
    prefix = [tokens.randrange(FIRST_TOKEN, vocab_size) for _ in range(shared)]
    return [
        BenchRequest(prefix + [tokens.randrange(FIRST_TOKEN, vocab_size) for _ in range(own)], output)
        for _ in range(num_requests)
    ]


def _log_uniform(rng: random.Random, low: int, high: int) -> int:
    return round(math.exp(rng.uniform(math.log(low), math.log(high))))
