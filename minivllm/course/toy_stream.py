"""The stream of one request of a toy engine: whoever asks for the next token lets the engine step until it is there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from minivllm.course.toy_engine import ToyEngine


class ToyStream:
    """The tokens of a request, each as a piece of text, and the way to give it up.

    Args:
        engine: may serve others at the same time.
        fails_after: after so many pieces asking for the next one raises a RuntimeError, as a dead engine would.
        is_spelled: false gives an empty piece for every third token, as half a character does.
    """

    def __init__(
        self,
        engine: ToyEngine,
        name: str,
        prompt: Sequence[int],
        max_tokens: int,
        fails_after: int | None = None,
        is_spelled: bool = True,
    ) -> None:
        self.engine, self.name = engine, name
        self.num_taken = 0  # pieces that were asked for and came
        self.num_aborts = 0
        self._fails_after, self._is_spelled = fails_after, is_spelled
        engine.add(name, prompt, max_tokens)

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if self.num_taken == self._fails_after:
            raise RuntimeError("the engine has died")
        request = self.engine.requests[self.name]
        while request.num_output_tokens <= self.num_taken:
            if request.status.is_finished:
                raise StopIteration
            self.engine.step()
        self.num_taken += 1
        return self.text_of(self.num_taken - 1)

    def text_of(self, index: int) -> str:
        """The piece of text of an output token. Some have more than one line, and some are not ASCII."""
        if not self._is_spelled and index % 3 == 1:
            return ""
        token = self.engine.requests[self.name].output_token_ids[index]
        return f"{token}" + (" ", "\n\n", " é\u2028")[index % 3]

    def abort(self) -> None:
        """The client is gone."""
        self.num_aborts += 1
        self.engine.abort(self.name)
