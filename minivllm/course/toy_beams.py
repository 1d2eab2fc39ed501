"""A beam search without a model: the groups of beam_search.py, a made-up table of probabilities, and a toy KV cache.

Each beam is a request in a `ToyMemory`. A beam that goes on writes its token there, a second survivor is a fork, and
whoever stops gives its blocks back. So a beam that reads somebody else's tokens, or a block that is lost, is seen.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from minivllm.course.toy_memory import ToyMemory
from minivllm.request import Request
from minivllm.sampling_params import BeamSearchParams, SamplingParams


@dataclass(frozen=True)
class ToldTokens:
    """As the sampler's TokenLogprobs: the chosen token first, then the most likely ones."""

    token_ids: list[int]
    logprobs: list[float]
    rank: int = 1


def next_logprobs(tokens: Sequence[int], vocab_size: int, salt: int = 0) -> list[float]:
    """What the made-up model says after `tokens`: a log-probability for each token of the vocabulary."""
    weights = [1 + zlib.crc32(repr((salt, *tokens, token)).encode()) ** 2 for token in range(vocab_size)]
    return [math.log(weight) - math.log(sum(weights)) for weight in weights]


class ToySearch:
    """A search over the made-up model, one step at a time.

    Args:
        group_class, hypothesis_class: BeamSearchGroup and Hypothesis, as in minivllm/sampling/beam_search.py.
        width, max_tokens, length_penalty: of the search.
        vocab_size, eos, salt: of the made-up model; eos is a token, or None.
        num_prompt_tokens, block_size: of the KV cache.
    """

    def __init__(
        self,
        group_class: type[Any],
        hypothesis_class: type[Any],
        *,
        width: int,
        max_tokens: int,
        length_penalty: float = 1.0,
        vocab_size: int = 6,
        eos: int | None = None,
        salt: int = 0,
        num_prompt_tokens: int = 3,
        block_size: int = 2,
    ) -> None:
        self.prompt = list(range(100, 100 + num_prompt_tokens))
        self.vocab_size, self.salt = vocab_size, salt
        self.num_candidates = min(2 * width, vocab_size)
        blocks_of_a_beam = -(-(num_prompt_tokens + max_tokens) // block_size)
        self.memory = ToyMemory(2 + width * (1 + blocks_of_a_beam), block_size)
        params = BeamSearchParams(width, max_tokens, length_penalty=length_penalty)
        ends = frozenset() if eos is None else frozenset([eos])
        self.group: Any = group_class(params, ends, max_tokens, num_prompt_tokens)
        self.num_beams = 0
        self.memory.begin("beam 0")
        self.memory.write("beam 0", *self.prompt)
        self._add(hypothesis_class((), 0.0))

    @property
    def live(self) -> dict[str, tuple[int, ...]]:
        """The tokens of each live beam."""
        return {name: h.token_ids for name, h in self.group.hypotheses.items()}

    def step(self) -> Any:
        """Give every live beam its candidates, expand, and do in the memory what that means. Returns the Expansion."""
        self.group.take_in({name: [self._entry(tokens)] for name, tokens in self.live.items()})
        expansion = self.group.expand()
        for request in expansion.stop:
            self.memory.end(request.request_id)
        children = []
        for extension in expansion.fork:  # before the parents get tokens of their own
            self.memory.fork(extension.parent.request_id, f"beam {self.num_beams}")
            children.append((self._add(extension.hypothesis), extension.token_id))
        parents = [(extension.parent.request_id, extension.token_id) for extension in expansion.proceed]
        for name, token in parents + children:
            self.memory.write(name, token)
        return expansion

    def run(self) -> ToySearch:
        """Step until no beam is left."""
        while not self.group.is_finished:
            self.step()
        return self

    def _add(self, hypothesis: Any) -> str:
        request = Request(f"beam {self.num_beams}", list(self.prompt), SamplingParams())
        self.num_beams += 1
        self.group.add(request, hypothesis)
        return request.request_id

    def _entry(self, tokens: Sequence[int]) -> ToldTokens:
        logprobs = next_logprobs(tokens, self.vocab_size, self.salt)
        order = sorted(range(self.vocab_size), key=lambda token: -logprobs[token])[: self.num_candidates]
        ids = [order[0], *order]
        return ToldTokens(ids, [logprobs[token] for token in ids])
