"""The tokenizer of both models: byte-level BPE trained here, and the chat template.

Digits stand alone, Chinese characters stand alone, and every listed word with its leading space is one token.
Not here: how dialogues become rows of token ids (rows.py).
"""

import json
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from minivllm.zoo.dialogue import Mixture, conversation, make_maker
from minivllm.zoo.lexicon import Lexicon

VOCAB_SIZE = 3072
END_OF_TEXT, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
END_OF_TEXT_ID, START_ID, END_ID = 0, 1, 2
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def _texts(lexicon: Lexicon, num_dialogues: int) -> Iterator[str]:
    """What the merges are learned from: generated dialogues, and often the words that must become single tokens."""
    for index in range(num_dialogues):
        maker = make_maker(lexicon, f"tokenizer:{index}")
        for exchange in conversation(maker, 256, Mixture()):
            yield exchange.user
            yield exchange.assistant
    for kind, words in lexicon.words.items():
        if kind not in ("unseen", "openings"):
            for word in words:
                yield f" {word}" * (8000 if kind == "listed" else 2000)
    for term in lexicon.terms:
        yield f"{term.answer} " * 30
        yield "".join(f" {spelling}" for spelling in term.spellings) * 300
        yield f"{term.name_zh} {term.answer_zh} " * 100
    for intent in lexicon.intents:
        yield f"{intent.answer} {' '.join(intent.phrasing.train)} " * 30
    for phrasing in lexicon.phrasings.values():
        yield f"{' '.join(phrasing.train)} " * 30


def train_tokenizer(lexicon: Lexicon, num_dialogues: int = 3000) -> Tokenizer:
    """Learn a vocabulary of `VOCAB_SIZE` byte-level tokens. Takes some seconds; the same lexicon gives the same one."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.Split(Regex(r"\p{Han}"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[END_OF_TEXT, START, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(lexicon, num_dialogues), trainer)
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path, max_len: int) -> None:
    """Write tokenizer.json and tokenizer_config.json (with the chat template) as transformers reads them."""
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_len,
        "eos_token": END,
        "pad_token": END_OF_TEXT,
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
