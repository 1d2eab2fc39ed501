"""Exercise 14.1: Never half a character. (implement, about 20 minutes)

A token is not a piece of text: it stands for bytes, and one character may be spread over several
tokens. A client that gets half a character shows a black diamond, and the other half does not mend
it. So the server keeps the beginning of a character back until the rest has come. Nothing else
waits: what is complete goes out at once.

In UTF-8 the first byte of a character says how many bytes it has, and all later ones begin with the
bits 10:

    0xxxxxxx  1 byte      110xxxxx  2 bytes      1110xxxx  3 bytes      11110xxx  4 bytes      10xxxxxx  not the first

Write `append` and `finish`. Bytes that are no character at all come out as the decoder shows them,
with errors="replace". Decoding is not the exercise; where to cut is.

Check: python -m minivllm.course check 14.1     (or: python -m pytest exercises/ch14_serving/text_stream.py)
Stuck: python -m minivllm.course hint 14.1
"""

from __future__ import annotations


class TextStream:
    """Turns the bytes of an answer, token after token, into text that a client may see.

    All that `append` and `finish` return, joined, is what `bytes.decode("utf-8", errors="replace")` makes of all bytes
    at once, wherever they were cut.
    """

    def __init__(self) -> None:
        self._unfinished = b""  # the beginning of a character: at most 3 bytes

    def append(self, data: bytes) -> str:
        """Take in the bytes of a token (any number, also none). Returns the characters that are complete now."""
        raise NotImplementedError("exercise 14.1: TextStream.append")

    def finish(self) -> str:
        """No more bytes will come: what is still unfinished, as a decoder shows it."""
        raise NotImplementedError("exercise 14.1: TextStream.finish")
