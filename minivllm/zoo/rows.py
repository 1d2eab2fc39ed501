"""Rows of training data: a dialogue as token ids of a fixed length, with the positions that are to be learned."""

from dataclasses import dataclass

from tokenizers import Tokenizer

from minivllm.zoo.dialogue import SYSTEM_PROMPTS, Mixture, conversation, make_maker, plain_text
from minivllm.zoo.lexicon import Lexicon
from minivllm.zoo.skills.base import Maker
from minivllm.zoo.tokenizer import END, END_OF_TEXT, END_OF_TEXT_ID, START


@dataclass(frozen=True)
class Row:
    """One row. `skills[i]` names the skill that token i belongs to as an answer, or is empty: not learned."""

    ids: list[int]  # [length]
    skills: list[str]  # [length]


def prompt_text(user: str) -> str:
    """A user's turn and the opening of the answer, as the chat template writes them."""
    return f"{START}user\n{user}{END}\n{START}assistant\n"


def _dialogue_row(maker: Maker, tokenizer: Tokenizer, length: int, mixture: Mixture) -> Row:
    ids: list[int] = []
    skills: list[str] = []

    def add(text: str, skill: str) -> None:
        new = tokenizer.encode(text).ids
        ids.extend(new)
        skills.extend([skill] * len(new))

    if maker.chance(0.1):
        add(f"{START}system\n{maker.rng.choice(SYSTEM_PROMPTS)}{END}\n", "")
    for exchange in conversation(maker, length, mixture):
        before = len(ids)
        add(prompt_text(exchange.user), "")
        add(exchange.assistant + END, exchange.skill)
        add("\n", "")
        if len(ids) > length:
            del ids[before:], skills[before:]
            break
    return Row(ids, skills)


def _text_row(maker: Maker, tokenizer: Tokenizer, length: int) -> Row:
    ids: list[int] = []
    while len(ids) < length:
        ids.extend(tokenizer.encode(plain_text(maker) + END_OF_TEXT).ids)
    return Row(ids[:length], ["text"] * length)


def make_row(lexicon: Lexicon, tokenizer: Tokenizer, seed: str, length: int, mixture: Mixture) -> Row:
    """The row of exactly `length` tokens that belongs to `seed`; what is left over is filled with END_OF_TEXT."""
    for attempt in range(100):
        maker = make_maker(lexicon, f"{seed}:{attempt}")
        if maker.chance(mixture.text):
            return _text_row(maker, tokenizer, length)
        row = _dialogue_row(maker, tokenizer, length, mixture)
        if len(row.ids) > length // 2:
            break
    padding = length - len(row.ids)
    return Row(row.ids + [END_OF_TEXT_ID] * padding, row.skills + [""] * padding)
