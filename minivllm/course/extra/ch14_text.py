"""Text from bytes that come in pieces: every character as soon as it is complete, and never half of one."""

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
        data = self._unfinished + data
        end = len(data)
        for count in range(1, min(3, len(data)) + 1):
            lead = data[-count]
            if lead >= 0b1100_0000:  # begins a character of 2, 3 or 4 bytes
                length = 2 if lead < 0b1110_0000 else 3 if lead < 0b1111_0000 else 4
                end -= count if count < length else 0
            if lead < 0b1000_0000 or lead >= 0b1100_0000:
                break  # not the middle of a character: what stands before it is complete
        self._unfinished = data[end:]
        return data[:end].decode("utf-8", errors="replace")

    def finish(self) -> str:
        """No more bytes will come: what is still unfinished, as a decoder shows it."""
        rest, self._unfinished = self._unfinished, b""
        return rest.decode("utf-8", errors="replace")
