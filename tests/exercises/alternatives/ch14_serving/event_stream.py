"""Exercise 14.2, otherwise: a list of what is to be done with the request, and pieces taken by hand."""

import json

DONE = b"data: [DONE]\n\n"


def event(payload):
    return f"data: {json.dumps(payload, ensure_ascii=True)}\n\n".encode("ascii")


class EventStream:
    def __init__(self, pieces, abort):
        self.pieces = iter(pieces)
        self.to_do = [abort]

    def __iter__(self):
        while True:
            try:
                piece = next(self.pieces)
            except StopIteration:
                self.to_do.clear()
                break
            except Exception as error:  # noqa: BLE001
                yield event({"error": f"{error}"})
                break
            if piece != "":
                yield event({"text": piece})
        yield DONE

    def close(self):
        while self.to_do:
            self.to_do.pop()()
