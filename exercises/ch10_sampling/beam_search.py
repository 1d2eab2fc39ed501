"""Exercise 10.6: Beam search on shared blocks. (implement, about 40 minutes)

Four bodies of one search. W beams live, W = beam_width. A step has told for each of them its most
likely next tokens, `candidates[request_id]`: an entry with `token_ids` and `logprobs` whose first
item is the chosen token and is skipped.

- `_extensions`: for each candidate a hypothesis one token longer, with its log-probability added. One that
  ends in an end-of-sequence token is finished and goes to `finished`; the others are the extensions.
- `expand`: all extensions of all beams, the best by `_score` first; the first W survive. If those have
  `max_tokens` tokens, they are finished, and nobody lives on. The candidates are used up.
- `_assign`: the first survivor of a beam goes on in its request, any further one forks it, and a beam
  without survivors stops. `beams` and `hypotheses` are then those that go on; whoever carries out a
  fork adds the child.
- `Hypothesis.score`: cumulative log-probability / length ** length_penalty. The length is that of prompt
  and hypothesis, without a final end-of-sequence token, at least 1.

Equal scores keep the order of beams and candidates. Each beam holds blocks, and a fork shares them
all: two beams that differ in one token hold one block more than one beam.

Check: python -m minivllm.course check 10.6     (or: python -m pytest exercises/ch10_sampling/beam_search.py)
Stuck: python -m minivllm.course hint 10.6
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from minivllm.request import Request
from minivllm.sampling.logprobs import TokenLogprobs
from minivllm.sampling_params import BeamSearchParams


@dataclass(frozen=True)
class Hypothesis:
    """A continuation and its log-probability; finished ones end with `is_eos` or at the length limit."""

    token_ids: tuple[int, ...]
    cumulative_logprob: float
    is_eos: bool = False  # the last token is an end-of-sequence token

    def score(self, num_prompt_tokens: int, length_penalty: float) -> float:
        """Log-probability by length: of the whole sequence with its prompt, without a final end-of-sequence token."""
        raise NotImplementedError("exercise 10.6: Hypothesis.score")


@dataclass(frozen=True)
class Extension:
    """A beam and a token that may follow it."""

    parent: Request
    token_id: int
    hypothesis: Hypothesis  # the beam's, with the token


@dataclass(frozen=True)
class Expansion:
    """What becomes of a group's beams."""

    proceed: Sequence[Extension]  # the parent goes on with the token
    fork: Sequence[Extension]  # a child of the parent goes on with the token
    stop: Sequence[Request]


@dataclass
class BeamSearchGroup:
    """The beams of one prompt."""

    params: BeamSearchParams
    eos_token_ids: frozenset[int]
    max_tokens: int
    num_prompt_tokens: int
    beams: dict[str, Request] = field(default_factory=dict)  # live, by request id
    hypotheses: dict[str, Hypothesis] = field(default_factory=dict)  # of the live beams
    finished: list[Hypothesis] = field(default_factory=list)
    candidates: dict[str, TokenLogprobs] = field(default_factory=dict)  # what the last step said of each beam
    num_forks: int = 0

    def add(self, request: Request, hypothesis: Hypothesis) -> None:
        """A beam begins."""
        self.beams[request.request_id] = request
        self.hypotheses[request.request_id] = hypothesis

    def take_in(self, entries: Mapping[str, Sequence[TokenLogprobs]]) -> None:
        """Keep the candidates that a step has given to beams of this group."""
        for request_id in self.beams.keys() & entries.keys():
            self.candidates[request_id] = entries[request_id][-1]

    @property
    def is_ready(self) -> bool:
        """Have all live beams their candidates? (One may lag behind, if it was preempted.)"""
        return bool(self.beams) and self.candidates.keys() == self.beams.keys()

    @property
    def is_finished(self) -> bool:
        """Is no beam left?"""
        return not self.beams

    def expand(self) -> Expansion:
        """Choose the survivors among all extensions, and forget the beams that end."""
        raise NotImplementedError("exercise 10.6: BeamSearchGroup.expand")

    def best(self) -> list[Hypothesis]:
        """The `beam_width` best finished hypotheses, the best first."""
        return sorted(self.finished, key=lambda h: -self._score(h))[: self.params.beam_width]

    def _score(self, hypothesis: Hypothesis) -> float:
        return hypothesis.score(self.num_prompt_tokens, self.params.length_penalty)

    def _extensions(self, request: Request, hypothesis: Hypothesis) -> list[Extension]:
        """The 2 W most likely tokens: even if every beam could end, W live ones are left."""
        raise NotImplementedError("exercise 10.6: BeamSearchGroup._extensions")

    def _assign(self, survivors: Sequence[Extension]) -> Expansion:
        """The first survivor of a beam continues its request, the others fork it."""
        raise NotImplementedError("exercise 10.6: BeamSearchGroup._assign")
