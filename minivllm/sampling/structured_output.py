"""Structured output: at each position only tokens from which the text can still become valid may be drawn.

A grammar (JSON schema, regular expression, choice, or Lark grammar) is compiled by llguidance; each request walks its
own matcher, which gives a bit for every token of the vocabulary. What happens here is the walking and the bounds on
what a stranger's grammar may cost. Sources: Willard and Louf, "Efficient Guided Generation" (2023); Dong et al.,
XGrammar (2024).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from minivllm.fast_tokenizer import FastTokenizer
from minivllm.request import Request, RequestStatus
from minivllm.sampling_params import StructuredOutputsParams

logger = logging.getLogger(__name__)
NO_DRAFTS: Mapping[str, Sequence[int]] = {}
MAX_GRAMMAR_CHARS = 100_000
MAX_JSON_DEPTH = 64
COMPACT: Any = {"whitespace_flexible": False}  # a small model that may put spaces puts nothing else
LIMITS = LLParserLimits(
    initial_lexer_fuel=1_000_000, step_lexer_fuel=200_000, max_grammar_size=500_000, max_items_in_row=20_000
)


class StructuredOutputManager:
    """The grammars of all live requests that have one."""

    def __init__(self, tokenizer: Any, vocab_size: int, eos_token_ids: Iterable[int]) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._eos_token_ids = list(eos_token_ids)
        self._ll_tokenizer: Any = None
        self._matchers: dict[str, LLMatcher] = {}

    def compile(self, params: StructuredOutputsParams) -> LLMatcher:
        """A matcher at its beginning.

        Raises:
            ValueError: the grammar is malformed, too large, or could not be compiled within the limits.
        """
        if self._ll_tokenizer is None:  # a second's work, for those who use it
            self._ll_tokenizer = _ll_tokenizer(self._tokenizer, self._vocab_size, self._eos_token_ids)
        matcher = LLMatcher(self._ll_tokenizer, _to_grammar(params), log_level=0, limits=LIMITS)
        error = matcher.get_error()
        if error:
            raise ValueError(
                f"structured_outputs.{params.kind} could not be compiled: {error.splitlines()[0][:200]}"
            )
        return matcher

    def add(self, requests: Sequence[Request], matcher: LLMatcher) -> None:
        """Each of the requests walks the grammar for itself."""
        for request in requests:
            self._matchers[request.request_id] = matcher.deep_copy()

    def bitmasks(
        self, request_ids: Iterable[str], spec_token_ids: Mapping[str, Sequence[int]] = NO_DRAFTS
    ) -> dict[str, bytes]:
        """For each of the requests that has a grammar: one bit for each token of the vocabulary, 1 = may be drawn.

        Where drafts are verified, more masks follow: what may be drawn behind the first draft, and so on.
        """
        return {
            i: b"".join(_masks(matcher, spec_token_ids.get(i, ())))
            for i in request_ids
            if (matcher := self._matchers.get(i)) is not None
        }

    def cut(self, request_id: str, drafts: Sequence[int]) -> Sequence[int]:
        """The drafts before the first that the grammar forbids or that would complete the text."""
        matcher = self._matchers.get(request_id)
        if matcher is None:
            return drafts
        matcher = matcher.deep_copy()
        for index, draft in enumerate(drafts):
            if matcher.validate_tokens([draft]) == 0:
                return drafts[:index]
            if not matcher.consume_token(draft) or matcher.is_stopped():
                return drafts[:index]
        return drafts

    def advance(self, request: Request, token_ids: Sequence[int]) -> RequestStatus | None:
        """Walk on over sampled tokens. Says how the request ends, if it does: text complete, or grammar failed.

        A grammar fails when a step of it would cost more than LIMITS allow. That is the end of this request alone.
        """
        matcher = self._matchers.get(request.request_id)
        if matcher is None or request.status.is_finished:
            return None
        if not matcher.consume_tokens(list(token_ids)):
            logger.warning("A grammar could not be followed: %s", matcher.get_error().splitlines()[:1])
            return RequestStatus.FINISHED_ERROR
        return RequestStatus.FINISHED_STOPPED if matcher.is_stopped() else None

    def discard(self, requests: Iterable[Request]) -> None:
        """The requests are over."""
        for request in requests:
            self._matchers.pop(request.request_id, None)


def _masks(matcher: LLMatcher, drafts: Sequence[int]) -> list[bytes]:
    """1 + len(drafts) masks; the drafts are known to be allowed."""
    masks = [matcher.compute_bitmask()]
    if drafts:
        matcher = matcher.deep_copy()
    for draft in drafts:
        matcher.consume_token(draft)
        masks.append(matcher.compute_bitmask())
    return masks


def _ll_tokenizer(tokenizer: Any, vocab_size: int, eos_token_ids: list[int]) -> LLTokenizer:
    """llguidance's form of a tokenizer."""
    if isinstance(tokenizer, FastTokenizer):
        return LLTokenizer(tokenizer.to_str(), n_vocab=vocab_size, eos_token=eos_token_ids)
    from llguidance.hf import from_tokenizer  # imports transformers

    return from_tokenizer(tokenizer, vocab_size, eos_token_ids)


def _to_grammar(params: StructuredOutputsParams) -> str:
    """llguidance's form of a grammar."""
    if params.json_object:
        return LLMatcher.grammar_from_json_schema({"type": "object"}, overrides=COMPACT)
    if params.json is not None:
        return LLMatcher.grammar_from_json_schema(_schema(params.json), overrides=COMPACT)
    if params.choice is not None:
        _check_text("choice", "".join(params.choice))
        return LLMatcher.grammar_from_lark(
            "start: " + " | ".join(json.dumps(c, ensure_ascii=False) for c in params.choice)
        )
    if params.regex is not None:
        _check_text("regex", params.regex)
        return LLMatcher.grammar_from_regex(params.regex)
    assert params.grammar is not None
    _check_text("grammar", params.grammar)
    return LLMatcher.grammar_from_lark(params.grammar)


def _schema(schema: str | Mapping[str, Any] | bool) -> str:
    text = schema if isinstance(schema, str) else _dump(schema)
    _check_text("json", text)
    try:
        parsed = json.loads(text)
    except RecursionError:
        raise ValueError(
            f"structured_outputs.json is nested more than {MAX_JSON_DEPTH} levels deep"
        ) from None
    except ValueError as error:
        raise ValueError(f"structured_outputs.json is not valid JSON: {error}") from None
    if not isinstance(parsed, dict):
        raise ValueError("structured_outputs.json must be a JSON schema, that is an object")
    if _depth(parsed) > MAX_JSON_DEPTH:
        raise ValueError(f"structured_outputs.json is nested more than {MAX_JSON_DEPTH} levels deep")
    return text


def _dump(schema: Mapping[str, Any] | bool) -> str:
    try:
        return json.dumps(schema)
    except RecursionError:
        raise ValueError(
            f"structured_outputs.json is nested more than {MAX_JSON_DEPTH} levels deep"
        ) from None
    except (TypeError, ValueError) as error:
        raise ValueError(f"structured_outputs.json is not valid JSON: {error}") from None


def _depth(value: Any) -> int:
    """How deep dicts and lists are nested; without recursion, as the value is a stranger's."""
    depth, level = 0, [value]
    while level:
        depth += 1
        children = [
            child
            for v in level
            if isinstance(v, (dict, list))
            for child in (v.values() if isinstance(v, dict) else v)
        ]
        level = [child for child in children if isinstance(child, (dict, list))]
    return depth


def _check_text(kind: str, text: str) -> None:
    if not text:
        raise ValueError(f"structured_outputs.{kind} must not be empty")
    if "\0" in text:
        raise ValueError(f"structured_outputs.{kind} must not contain a NUL character")
    if len(text) > MAX_GRAMMAR_CHARS:
        raise ValueError(
            f"structured_outputs.{kind} has {len(text)} characters, and {MAX_GRAMMAR_CHARS} are allowed"
        )
