"""Exercise 14.1, otherwise: Python's own incremental decoder."""

import codecs


class TextStream:
    def __init__(self):
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def append(self, data):
        return self.decoder.decode(data)

    def finish(self):
        rest = self.decoder.decode(b"", final=True)
        self.decoder.reset()
        return rest
