"""Exercise 14.2: An SSE stream, and its early end."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator


DONE = b"data: [DONE]\n\n"


def event(payload: dict[str, str]) -> bytes:
    """One server-sent event: a line `data: ` with the payload as JSON, and an empty line."""
    return b"data: " + json.dumps(payload).encode() + b"\n\n"


class EventStream:
    """The events of one answer.

    The server sends `for chunk in stream`, one chunk at a time, and always calls `close()` afterwards: at the end,
    after an error, and when the client has left, which may be before the first chunk was asked for.

    Args:
        pieces: the text of the answer, piece by piece. Asking for a piece waits until the engine has made it.
        abort: gives the request up, so that the engine frees its blocks.
    """

    def __init__(self, pieces: Iterable[str], abort: Callable[[], None]) -> None:
        self._pieces = iter(pieces)
        self._abort = abort
        self._is_over = False  # nothing is left to give up

    def __iter__(self) -> Iterator[bytes]:
        """Yield an event {"text": piece} for each piece that is not empty, at once, and DONE at the end.

        When asking for a piece raises an Exception, an event {"error": its message} and DONE end the stream.
        """
        try:
            for piece in self._pieces:
                if piece:
                    yield event({"text": piece})
            self._is_over = True
        except Exception as error:  # noqa: BLE001  the status is sent already: only the stream can say it
            yield event({"error": str(error)})
        yield DONE

    def close(self) -> None:
        """The server is through with this stream: give the request up, once, unless its answer is complete."""
        if not self._is_over:
            self._is_over = True
            self._abort()
