"""From token ids to text, as they come: no broken character, and stop strings found in the text.

A token is not a piece of text: one character may be spread over several tokens, and some tokenizers decide about a space
only when they see the neighbours. So each step decodes a short window twice, with and without the new tokens; what the
second adds is new text, unless it ends in an unfinished character, which then waits for the next token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

UNFINISHED = "\ufffd"  # what decoders put for bytes that are no character (yet)
MAX_PENDING = 8  # tokens: no character is longer, so bytes that wait longer than this are broken for good


class IncrementalDetokenizer:
    """Turns the growing list of output tokens of one request into growing text.

    Args:
        tokenizer: anything with `decode(ids, skip_special_tokens=...)`.
        prompt_token_ids: the last few give the context in which the first output token is decoded.
        skip_special_tokens: leave markers such as <|im_end|> out of the text.
    """

    def __init__(self, tokenizer: Any, prompt_token_ids: Sequence[int], skip_special_tokens: bool = True) -> None:
        self._tokenizer = tokenizer
        self._skip_special_tokens = skip_special_tokens
        self._ids = list(prompt_token_ids[-MAX_PENDING:])
        self._done = len(self._ids)  # the text of the tokens before this is out
        self.text = ""

    def append(self, token_ids: Sequence[int]) -> str:
        """Take in new tokens; returns the text they complete ("" while a character is unfinished)."""
        new = "".join(self._append_one(token_id) for token_id in token_ids)
        self.text += new
        return new

    def _append_one(self, token_id: int) -> str:
        self._ids.append(token_id)
        shown = self._decode(self._ids[: self._done])
        full = self._decode(self._ids)
        num_pending = len(self._ids) - self._done
        if full.endswith(UNFINISHED):
            if num_pending < MAX_PENDING:
                return ""
            full = full.rstrip(UNFINISHED)
        new = full[len(shown) :]
        if new or num_pending >= MAX_PENDING:  # the tokens just shown are the next ones' context; older ones can go
            del self._ids[: self._done]
            self._done = len(self._ids)
        return new

    def _decode(self, token_ids: Sequence[int]) -> str:
        if not token_ids:
            return ""
        return self._tokenizer.decode(token_ids, skip_special_tokens=self._skip_special_tokens)


@dataclass(frozen=True)
class StopMatch:
    """The stop string that was found, and the length to which the text is to be cut."""

    stop: str
    length: int


class StopStrings:
    """Looks for stop strings in growing text, and says how much of it may be shown already.

    Text that might be the beginning of a stop string is held back from streams: the longest stop string's length minus one.
    """

    def __init__(self, stop: Sequence[str], include_in_output: bool = False) -> None:
        self._stop = tuple(stop)
        self._include = include_in_output
        self._longest = max(map(len, self._stop), default=0)

    def find(self, text: str, num_new_chars: int) -> StopMatch | None:
        """The earliest stop string that ends within the last `num_new_chars` characters of `text`."""
        start = max(0, len(text) - num_new_chars - self._longest + 1)
        matches = [(position, stop) for stop in self._stop if (position := text.find(stop, start)) >= 0]
        if not matches:
            return None
        position, stop = min(matches)
        return StopMatch(stop, position + (len(stop) if self._include else 0))

    def num_visible_chars(self, text: str) -> int:
        """How much of the text of an unfinished request can be shown."""
        hold_back = self._longest - 1 if self._longest and not self._include else 0
        return max(0, len(text) - hold_back)
