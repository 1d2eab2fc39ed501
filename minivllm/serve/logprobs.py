"""Log-probabilities in the two shapes of OpenAI's API: columns for completions, rows for chat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from minivllm.outputs import CompletionOutput, Logprob
from minivllm.serve.responses import (
    ChatLogprob,
    ChatLogprobs,
    CompletionLogprobs,
    PromptLogprobs,
    TopLogprob,
)

FLOOR = -9999.0  # JSON has neither -Infinity nor NaN


def completion_logprobs(
    token_ids: Sequence[int],
    entries: Sequence[Mapping[int, Logprob] | None],
    offset: int,
    first_token: str,
    *,
    as_ids: bool = False,
) -> CompletionLogprobs:
    """Columns for `token_ids`, whose text begins `offset` characters into the choice's text.

    Args:
        token_ids: the tokens of the text, echoed prompt included.
        entries: for each of them token id -> Logprob; None for the first of a prompt, which nothing precedes.
        first_token: how that one is spelled.
        as_ids: write token_id:17 for the text of a token.
    """
    columns = CompletionLogprobs(tokens=[], token_logprobs=[], top_logprobs=[], text_offset=[])
    for token_id, entry in zip(token_ids, entries, strict=True):
        token = _spelling(token_id, entry[token_id], False) if entry is not None else first_token
        columns.tokens.append(f"token_id:{token_id}" if as_ids else token)
        columns.token_logprobs.append(_finite(entry[token_id]) if entry is not None else None)
        columns.top_logprobs.append(
            {_spelling(i, one, as_ids): _finite(one) for i, one in _by_rank(entry)}
            if entry is not None
            else None
        )
        columns.text_offset.append(offset)
        offset += len(token)
    return columns


def prompt_logprobs(entries: Sequence[Mapping[int, Logprob] | None]) -> PromptLogprobs:
    """vLLM's form of the log-probabilities of a prompt."""
    return [
        None
        if entry is None
        else {
            token_id: {"logprob": _finite(one), "rank": one.rank, "decoded_token": one.decoded_token}
            for token_id, one in entry.items()
        }
        for entry in entries
    ]


def chat_logprobs(one: CompletionOutput, num_top: int, *, as_ids: bool = False) -> ChatLogprobs | None:
    """Rows for the tokens of `one`, each with the `num_top` most likely ones; None if none were asked for."""
    if one.logprobs is None:
        return None
    rows = []
    for token_id, entry in zip(one.token_ids, one.logprobs, strict=True):
        top = [TopLogprob(**_row(i, other, as_ids)) for i, other in _by_rank(entry)[:num_top]]
        rows.append(ChatLogprob(**_row(token_id, entry[token_id], as_ids), top_logprobs=top))
    return ChatLogprobs(content=rows)


def _row(token_id: int, one: Logprob, as_ids: bool) -> dict[str, Any]:
    token = _spelling(token_id, one, as_ids)
    return {"token": token, "logprob": _finite(one), "bytes": list(token.encode())}


def _by_rank(entry: Mapping[int, Logprob]) -> list[tuple[int, Logprob]]:
    return sorted(entry.items(), key=lambda item: item[1].rank or 0)


def _spelling(token_id: int, one: Logprob, as_ids: bool) -> str:
    return f"token_id:{token_id}" if as_ids or one.decoded_token is None else one.decoded_token


def _finite(one: Logprob) -> float:
    return one.logprob if one.logprob > FLOOR else FLOOR
