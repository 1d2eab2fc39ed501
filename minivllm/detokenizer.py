"""From token ids to text, as they come: no broken character, and stop strings found in the text.

A token is not a piece of text: one character may be spread over several tokens, and some tokenizers decide about a
space only when they see the neighbours. So each token is decoded together with a few before it: what this gives
beyond the text that is out already is new, unless it ends in an unfinished character, which then waits for the next
token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

UNFINISHED = "\ufffd"  # what decoders put for bytes that are no character (yet)
MAX_PENDING = 8  # tokens: no character is longer, so bytes that wait longer than this are broken for good
MAX_WINDOW = 16  # tokens that are decoded at a time: the cost of a token does not grow with the text
CONTEXT = range(
    4, 24
)  # tokens of the prompt that the output is decoded after; more, if the cut falls into a character


class IncrementalDetokenizer:
    """Turns the growing list of output tokens of one request into growing text.

    The text is what `decode` makes of all tokens at once, but for an unfinished character at its end. Bytes that are no
    character at all come out as decoders show them, as U+FFFD.

    Args:
        tokenizer: anything with `decode(ids, skip_special_tokens=...)`.
        prompt_token_ids: the last few give the context in which the first output token is decoded.
        skip_special_tokens: leave markers such as `<|im_end|>` out of the text.
    """

    def __init__(
        self, tokenizer: Any, prompt_token_ids: Sequence[int], skip_special_tokens: bool = True
    ) -> None:
        self._tokenizer = tokenizer
        self._skip_special_tokens = skip_special_tokens
        self._ids: list[int] = []  # the window: tokens whose text is out, for context, and those that wait
        for size in CONTEXT:
            self._ids = list(prompt_token_ids[-size:])
            context = self._decode(self._ids)
            if size >= len(prompt_token_ids) or UNFINISHED not in context:
                break
        self._num_shown_chars = len(context)  # of the window's text
        self._num_shown = len(self._ids)  # of the window's tokens
        self.text = ""

    def append(self, token_ids: Sequence[int]) -> str:
        """Take in new tokens; returns the text they complete ("" while a character is unfinished)."""
        new = "".join(self._append_one(token_id) for token_id in token_ids)
        self.text += new
        return new

    def _append_one(self, token_id: int) -> str:
        self._ids.append(token_id)
        text = self._decode(self._ids)
        is_overdue = len(self._ids) - self._num_shown >= MAX_PENDING
        if text.endswith(UNFINISHED):
            return self._show_broken_bytes(text) if is_overdue else ""
        new = text[self._num_shown_chars :]
        self._num_shown_chars = len(text)
        if new:
            self._move_window()
        elif is_overdue:  # a row of special tokens: invisible, so one can go
            del self._ids[self._num_shown]
        return new

    def _move_window(self) -> None:
        """All tokens are shown. Cut the window, if it is long, where the last text began: never inside a character."""
        if len(self._ids) > MAX_WINDOW:
            del self._ids[: self._num_shown]
            self._num_shown_chars = len(self._decode(self._ids))
        self._num_shown = len(self._ids)

    def _show_broken_bytes(self, text: str) -> str:
        """Only the last mark may still become a character; the broken bytes before it stay what they are."""
        new = text[self._num_shown_chars : -len(UNFINISHED)]
        del self._ids[: -(MAX_PENDING // 2)]
        text = self._decode(self._ids)
        self._num_shown_chars = len(text.removesuffix(UNFINISHED))
        self._num_shown = 0
        return new

    def _decode(self, token_ids: Sequence[int]) -> str:
        if not token_ids:
            return ""
        text: str = self._tokenizer.decode(token_ids, skip_special_tokens=self._skip_special_tokens)
        return text


@dataclass(frozen=True)
class StopMatch:
    """The stop string that was found, and the length to which the text is to be cut."""

    stop: str
    length: int


class StopStrings:
    """Looks for stop strings in growing text, and says how much of it may be shown already.

    Text that might be the beginning of a stop string is held back from streams: the longest stop string's length
    minus one.
    """

    def __init__(self, stop: Sequence[str], include_in_output: bool = False) -> None:
        self._stop = tuple(stop)
        self._include = include_in_output
        self._longest = max(map(len, self._stop), default=0)

    def find(self, text: str, num_new_chars: int) -> StopMatch | None:
        """The stop string that the last `num_new_chars` characters of `text` complete first; of several, the longest.

        So it does not matter whether these characters came one by one or at once.
        """
        num_old = len(text) - num_new_chars
        matches = []  # (where it ends, where it begins, itself)
        for stop in self._stop:
            begin = text.find(stop, max(0, num_old - len(stop) + 1))
            if begin >= 0:
                matches.append((begin + len(stop), begin, stop))
        if not matches:
            return None
        end, begin, stop = min(matches)
        return StopMatch(stop, end if self._include else begin)

    def num_visible_chars(self, text: str) -> int:
        """How much of the text of an unfinished request can be shown."""
        hold_back = self._longest - 1 if self._longest and not self._include else 0
        return max(0, len(text) - hold_back)
