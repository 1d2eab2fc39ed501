"""What `bench serve` asks: random prompts, prompts that share prefixes, or conversations from a ShareGPT file."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FIRST_TOKEN = 3  # lower ids are often special
CHARS_PER_TOKEN = 4  # a rule of thumb, for answers of which only the text is known
MAX_OUTPUT = 1024


@dataclass(frozen=True)
class ServeRequest:
    """A prompt, as text or token ids, and how many tokens to ask for."""

    prompt: str | list[int]
    output_len: int


def random_requests(
    num_requests: int, input_len: int, output_len: int, range_ratio: float, vocab_size: int, seed: int
) -> list[ServeRequest]:
    """Random token ids; each length is drawn from [length * (1 - range_ratio), length * (1 + range_ratio)].

    Raises:
        ValueError: a number is out of range.
    """
    if not 0 <= range_ratio < 1:
        raise ValueError(f"random_range_ratio must be in [0, 1), not {range_ratio}")
    rng = random.Random(f"serve {seed}")

    def near(length: int) -> int:
        return max(1, rng.randint(round(length * (1 - range_ratio)), round(length * (1 + range_ratio))))

    return [
        ServeRequest(_ids(rng, near(input_len), vocab_size), near(output_len)) for _ in range(num_requests)
    ]


def prefix_repetition(
    num_requests: int,
    prefix_len: int,
    suffix_len: int,
    num_prefixes: int,
    output_len: int,
    vocab_size: int,
    seed: int,
) -> list[ServeRequest]:
    """Prompts that begin with one of `num_prefixes` prefixes, in random order.

    Raises:
        ValueError: a number is out of range.
    """
    if num_prefixes < 1:
        raise ValueError(f"prefix_repetition_num_prefixes must be at least 1, not {num_prefixes}")
    rng = random.Random(f"prefixes {seed}")
    prefixes = [_ids(rng, prefix_len, vocab_size) for _ in range(num_prefixes)]
    requests = [
        ServeRequest(prefixes[i % num_prefixes] + _ids(rng, suffix_len, vocab_size), output_len)
        for i in range(num_requests)
    ]
    rng.shuffle(requests)
    return requests


def sharegpt(path: str, num_requests: int, seed: int, output_len: int | None = None) -> list[ServeRequest]:
    """First question of conversations in a ShareGPT file; the length asked for is about that of the answer there.

    Raises:
        ValueError: there is no such file, or it holds no conversation.
    """
    file = Path(path)
    if not file.is_file():
        raise ValueError(f"dataset_path: there is no file {path}")
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"dataset_path: {path} is not valid JSON: {error}") from error
    requests = [request for entry in entries if (request := _conversation(entry, output_len)) is not None]
    if not requests:
        raise ValueError(f"dataset_path: {path} holds no conversation of at least two turns")
    random.Random(f"sharegpt {seed}").shuffle(requests)
    return [requests[i % len(requests)] for i in range(num_requests)]


def _conversation(entry: Any, output_len: int | None) -> ServeRequest | None:
    turns = entry.get("conversations", []) if isinstance(entry, dict) else []
    texts = [turn.get("value") for turn in turns if isinstance(turn, dict)]
    match texts:
        case [str(question), str(answer), *_] if question and answer:
            about = max(4, min(MAX_OUTPUT, len(answer) // CHARS_PER_TOKEN))
            return ServeRequest(question, output_len or about)
    return None


def _ids(rng: random.Random, count: int, vocab_size: int) -> list[int]:
    return [rng.randrange(FIRST_TOKEN, vocab_size) for _ in range(count)]
