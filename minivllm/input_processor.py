"""What comes in: prompt and parameters are tokenized, checked against the model, and become one Request per choice."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from minivllm.config import EngineConfig, ModelConfig
from minivllm.pooling_params import PoolingParams
from minivllm.request import Request
from minivllm.sampling.random import derive_seed
from minivllm.sampling_params import BeamSearchParams, SamplingParams

Prompt = (
    str | Sequence[int] | Mapping[str, Any]
)  # text, token ids, {"prompt": text} or {"prompt_token_ids": ids}


class InputProcessor:
    """The door of the engine: behind it every request fits the model."""

    def __init__(
        self, config: EngineConfig, model_config: ModelConfig, tokenizer: Any | None, max_model_len: int
    ) -> None:
        self.config = config
        self.tokenizer = tokenizer
        self.vocab_size = model_config.vocab_size
        self.eos_token_ids = model_config.eos_token_ids
        self.max_model_len = max_model_len

    def check_call(self, request_id: Any, params: Any, priority: Any, cache_salt: Any, timeout: Any) -> None:
        """Raises ValueError if what comes along with a prompt is of the wrong type."""
        if not isinstance(request_id, str) or not request_id:
            raise ValueError(f"request_id must be a non-empty string, not {request_id!r}")
        if not isinstance(params, (SamplingParams, BeamSearchParams, PoolingParams)):
            raise ValueError(
                "sampling_params must be SamplingParams, BeamSearchParams or PoolingParams, not "
                f"{type(params).__name__}"
            )
        if not isinstance(priority, int) or isinstance(priority, bool):
            raise ValueError(f"priority must be an integer, not {priority!r}")
        if cache_salt is not None:
            if not isinstance(cache_salt, str) or not cache_salt:
                raise ValueError(f"cache_salt must be a non-empty string, not {cache_salt!r}")
            _check_text("cache_salt", cache_salt)
        if timeout is not None and not _is_positive(timeout):
            raise ValueError(f"timeout must be a number of seconds above 0, not {timeout!r}")

    def tokenize(self, prompt: Prompt, params: SamplingParams) -> tuple[str | None, list[int]]:
        """(the text, if the prompt is one; its token ids, cut to the last `truncate_prompt_tokens`).

        Raises:
            ValueError: the prompt is of no known form, or is text and there is no tokenizer.
        """
        text, token_ids = self._tokenize(prompt)
        limit = params.truncate_prompt_tokens
        if limit == -1:
            limit = self.max_model_len - 1
        return text, token_ids if limit is None else token_ids[max(0, len(token_ids) - limit) :]

    def _tokenize(self, prompt: Prompt) -> tuple[str | None, list[int]]:
        given: Any = prompt
        if isinstance(prompt, Mapping):
            _check_keys(prompt)
            ids = prompt.get("prompt_token_ids")
            given = prompt.get("prompt") if ids is None else ids
        if isinstance(given, str):
            if self.tokenizer is None:
                raise ValueError("prompt is text, but the model folder has no tokenizer: pass token ids")
            _check_text("prompt", given)
            return given, self.tokenizer.encode(given)
        is_list = isinstance(given, Sequence) and not isinstance(given, (bytes, bytearray))
        if is_list and all(issubclass(kind, int) and kind is not bool for kind in set(map(type, given))):
            return None, list(given)
        raise ValueError(
            "prompt must be a string, a list of token ids, or a dict with 'prompt' or 'prompt_token_ids'"
        )

    def check(self, token_ids: Sequence[int], params: SamplingParams) -> None:
        """Raises ValueError if the prompt or a parameter does not suit the model."""
        if not token_ids:
            raise ValueError("prompt is empty: it must have at least one token")
        self._check_ids("prompt", token_ids)
        if len(token_ids) >= self.max_model_len:
            raise ValueError(
                f"prompt has {len(token_ids)} tokens; with max_model_len {self.max_model_len} it may have at most "
                f"{self.max_model_len - 1}, so that one token can be generated"
            )
        if params.min_tokens > self.max_model_len - len(token_ids):
            raise ValueError(
                f"min_tokens ({params.min_tokens}) must not exceed {self.max_model_len - len(token_ids)}, "
                f"which is what the prompt leaves of max_model_len {self.max_model_len}"
            )
        for name in ("stop_token_ids", "allowed_token_ids", "logit_bias"):
            self._check_ids(name, getattr(params, name) or ())
        self._check_logprobs(params)
        if params.stop and self.tokenizer is None:
            raise ValueError("stop needs a tokenizer, and the model folder has none: use stop_token_ids")
        if params.bad_words and self.tokenizer is None:
            raise ValueError("bad_words needs a tokenizer, and the model folder has none: use logit_bias")
        allowed = params.allowed_token_ids
        if params.min_tokens and allowed is not None and self._stop_token_ids(params).issuperset(allowed):
            raise ValueError(
                "allowed_token_ids holds only tokens that end the text, which min_tokens forbids"
            )

    def make_requests(
        self, request_id: str, token_ids: list[int], params: SamplingParams, number: int
    ) -> list[Request]:
        """One Request for each of the n choices; choice i is drawn with seed + i and shares the prompt's blocks.

        Args:
            request_id: of the call; the choices are named i_ID if there are several.
            token_ids: the prompt.
            params: checked.
            number: how many requests came before: the seed of a request that brings none depends on it.
        """
        room = self.max_model_len - len(token_ids)
        bad_words, stop_token_ids = self._bad_words(params), self._stop_token_ids(params)
        requests: list[Request] = []
        for index in range(params.n):
            seed = (
                derive_seed(self.config.seed, number + index)
                if params.seed is None
                else _wrap(params.seed + index)
            )
            request = Request(
                request_id=request_id if params.n == 1 else f"{index}_{request_id}",
                prompt_token_ids=token_ids,
                sampling_params=params,
                stop_token_ids=stop_token_ids,
                max_tokens=min(room, params.max_tokens or room),
                seed=seed,
                bad_words_token_ids=bad_words,
                parent_id=request_id,
                index=index,
                fork_from=requests[0] if requests else None,
                skip_prefix_cache=params.prompt_logprobs is not None,
            )
            requests.append(request)
        return requests

    def _stop_token_ids(self, params: SamplingParams) -> frozenset[int]:
        eos = () if params.ignore_eos else self.eos_token_ids
        return frozenset(params.stop_token_ids or ()).union(eos)

    def _check_ids(self, name: str, token_ids: Collection[int]) -> None:
        if not token_ids or (min(token_ids) >= 0 and max(token_ids) < self.vocab_size):
            return
        token_id = next(i for i in token_ids if not 0 <= i < self.vocab_size)
        raise ValueError(
            f"{name} holds token id {token_id}, and the model's ids are 0..{self.vocab_size - 1}"
        )

    def _check_logprobs(self, params: SamplingParams) -> None:
        most = self.vocab_size if self.config.max_logprobs == -1 else self.config.max_logprobs
        for name in ("logprobs", "prompt_logprobs"):
            asked = getattr(params, name)
            if asked is not None and (self.vocab_size if asked == -1 else asked) > most:
                raise ValueError(f"{name} ({asked}) must be at most max_logprobs ({most})")

    def _bad_words(self, params: SamplingParams) -> list[list[int]]:
        """Each word as the tokenizer writes it at the start of a text and after a space."""
        spellings = [spelling for word in params.bad_words or () for spelling in (word, " " + word.lstrip())]
        encoded = [self.tokenizer.encode(s, add_special_tokens=False) for s in spellings]  # type: ignore[union-attr]
        return [ids for ids in encoded if ids]


def _check_keys(prompt: Mapping[str, Any]) -> None:
    """An image that is left out without a word would give an answer that only looks right."""
    for key in ("multi_modal_data", "mm_processor_kwargs", "prompt_embeds", "encoder_prompt"):
        if prompt.get(key) is not None:
            raise ValueError(
                f"prompt holds {key}, which is not served: this engine reads and writes text only"
            )


def _check_text(name: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{name} is no valid Unicode: it holds half a surrogate pair at {error.start}"
        ) from None


def _is_positive(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value <= sys.float_info.max


def _wrap(seed: int) -> int:
    """An int64 again, if adding the choice's number left it."""
    return (seed + 2**63) % 2**64 - 2**63
