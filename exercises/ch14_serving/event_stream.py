"""Exercise 14.2: An SSE stream, and its early end. (implement, about 25 minutes)

An answer goes to its client as server-sent events: for each piece of text a line `data: {"text":
"..."}` and an empty line, and `data: [DONE]` at the end.

Clients leave: a tab is closed, a script is stopped. From then on every token is computed for
nobody, and worse, the request holds its blocks. So the stream has a second end, `close`, which the
server calls in every case, and which gives the request up unless its answer is complete. It may
come before the first event.

Errors are the third end. The status line, 200, was sent with the first event, so an error can only
be told in the stream.

Check: python -m minivllm.course check 14.2     (or: python -m pytest exercises/ch14_serving/event_stream.py)
Stuck: python -m minivllm.course hint 14.2
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator


DONE = b"data: [DONE]\n\n"


def event(payload: dict[str, str]) -> bytes:
    """One server-sent event: a line `data: ` with the payload as JSON, and an empty line."""
    raise NotImplementedError("exercise 14.2: event")


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
        raise NotImplementedError("exercise 14.2: EventStream.__iter__")

    def close(self) -> None:
        """The server is through with this stream: give the request up, once, unless its answer is complete."""
        raise NotImplementedError("exercise 14.2: EventStream.close")
