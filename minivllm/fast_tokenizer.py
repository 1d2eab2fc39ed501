"""The tokenizer of a plain folder, straight from tokenizer.json: transformers, seconds to import, is left for the rest.

transformers chooses among some hundred classes, and several of them change what tokenizer.json says. `read` takes only
folders where none of that can happen; any other gets transformers' own tokenizer (tokenizer.py).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from minivllm.chat_template import render

CLASSES = ("PreTrainedTokenizerFast", "TokenizersBackend")  # those that take tokenizer.json as it is
MODEL_TYPES = ("llama", "qwen3")  # transformers believes the class that their tokenizer_config.json names
SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
KNOWN_KEYS = {
    *SPECIAL_TOKENS,
    "tokenizer_class",
    "model_max_length",
    "clean_up_tokenization_spaces",
    "chat_template",
    "backend",
    "is_local",
    "local_files_only",
}
OTHER_FILES = (
    "added_tokens.json",
    "special_tokens_map.json",
    "additional_chat_templates",
    "tekken.json",
    "tiktoken.model",
)  # transformers would read these too
MAX_VOCAB_SIZE = 100_000  # from here on transformers looks for a known mistake in the tokenizers of Mistral


class FastTokenizer:
    """What the engine needs of a tokenizer; for all else transformers' own, loaded when first asked for.

    Once that is there it does all the work: whoever asked for it may have changed it.
    """

    def __init__(
        self,
        tokenizer: Any,
        chat_template: str | None,
        special_tokens: Mapping[str, str],
        load: Callable[[], Any],
    ) -> None:
        self._tokenizer = tokenizer
        self._chat_template = chat_template
        self._special_tokens = dict(special_tokens)
        self._load = load
        self._whole: Any = None

    @property
    def whole(self) -> Any:
        """The tokenizer of transformers."""
        if self._whole is None:
            self._whole = self._load()
        return self._whole

    @property
    def chat_template(self) -> Any:
        """Jinja, if the model has some."""
        return self._chat_template if self._whole is None else self._whole.chat_template

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Token ids of a text."""
        if self._whole is not None:
            return list(self._whole.encode(text, add_special_tokens=add_special_tokens))
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids
        return ids

    def decode(self, token_ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        """The text of token ids."""
        tokenizer = self._tokenizer if self._whole is None else self._whole
        text: str = tokenizer.decode(token_ids, skip_special_tokens=skip_special_tokens)
        return text

    def get_vocab(self) -> dict[str, int]:
        """Each token as the vocabulary spells it -> its id."""
        tokenizer = self._tokenizer if self._whole is None else self._whole
        vocab: dict[str, int] = tokenizer.get_vocab()
        return vocab

    def convert_ids_to_tokens(self, token_ids: Sequence[int]) -> list[str | None]:
        """Each token as the vocabulary spells it; None for an id that it does not have."""
        if self._whole is not None:
            return list(self._whole.convert_ids_to_tokens(token_ids))
        return [self._tokenizer.id_to_token(token_id) for token_id in token_ids]

    def apply_chat_template(
        self,
        conversation: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        *,
        chat_template: str | None = None,
        add_generation_prompt: bool = False,
        tokenize: bool = True,
        continue_final_message: bool = False,
        **variables: Any,
    ) -> Any:
        """The text of a conversation (or what else transformers' method can give)."""
        template = self.chat_template if chat_template is None else chat_template
        if self._whole is None and isinstance(template, str) and not tokenize:
            known = {**self._special_tokens, **variables}
            text = render(template, conversation, tools, known, add_generation_prompt, continue_final_message)
            if text is not None:
                return text
        return self.whole.apply_chat_template(
            conversation,
            tools,
            chat_template=chat_template,
            add_generation_prompt=add_generation_prompt,
            tokenize=tokenize,
            continue_final_message=continue_final_message,
            **variables,
        )

    def to_str(self) -> str:
        """The tokenizer as JSON, for libraries that build their own from it."""
        tokenizer = self._tokenizer if self._whole is None else self._whole.backend_tokenizer
        return str(tokenizer.to_str())

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # asked by copy, pickle and notebooks before there is anything
            raise AttributeError(name)
        return getattr(self.whole, name)


def read(folder: Path, load: Callable[[], Any]) -> FastTokenizer | None:
    """The tokenizer of a folder; None where it is not certain to be equal to the one that `load` gives."""
    try:
        config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        content = (folder / "tokenizer.json").read_text(encoding="utf-8")
        template_file = folder / "chat_template.jinja"
        template = template_file.read_text(encoding="utf-8") if template_file.exists() else None
        model_type = json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"]
        if model_type not in MODEL_TYPES or any((folder / name).exists() for name in OTHER_FILES):
            return None
        if not _is_plain(config, json.loads(content)):
            return None
        tokenizer = _parse(content)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None  # whatever is wrong with these files, transformers will tell it, and tokenizer.py its sentence
    special_tokens = {name: config[name] for name in SPECIAL_TOKENS if config.get(name) is not None}
    if template is None:
        template = config.get("chat_template")
    return FastTokenizer(tokenizer, template, special_tokens, load)


def _parse(content: str) -> Any:
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_str(content)
    except Exception as error:  # the library has no narrower one
        raise ValueError("no tokenizer.json") from error


def _is_plain(config: dict[str, Any], content: dict[str, Any]) -> bool:
    """Does transformers take tokenizer.json as it is, and add nothing to it?"""
    added = content["added_tokens"]
    special = {token["content"] for token in added if token["special"]}
    named = [config[name] for name in SPECIAL_TOKENS if config.get(name) is not None]
    return (
        config.get("tokenizer_class") in CLASSES
        and KNOWN_KEYS.issuperset(config)
        and not config.get("clean_up_tokenization_spaces")
        and isinstance(config.get("chat_template"), str | None)
        and content["truncation"] is None
        and content["padding"] is None
        and not any(token[key] for token in added for key in ("single_word", "lstrip", "rstrip"))
        and not any(token["special"] and token["normalized"] for token in added)
        and all(isinstance(token, str) and token in special for token in named)
        and content["model"]["type"] == "BPE"
        and len(content["model"]["vocab"]) + len(added) < MAX_VOCAB_SIZE
    )
