"""Exercise 10.6: Beam search on shared blocks."""

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
        length = max(1, num_prompt_tokens + len(self.token_ids) - self.is_eos)
        return self.cumulative_logprob / length**length_penalty


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
        extensions = []
        for request_id, request in self.beams.items():
            extensions += self._extensions(request, self.hypotheses[request_id])
        extensions.sort(
            key=lambda e: -self._score(e.hypothesis)
        )  # stable: ties keep the order of beams and ranks
        survivors = extensions[: self.params.beam_width]
        self.candidates = {}
        if survivors and len(survivors[0].hypothesis.token_ids) >= self.max_tokens:
            self.finished += [survivor.hypothesis for survivor in survivors]
            survivors = []
        return self._assign(survivors)

    def best(self) -> list[Hypothesis]:
        """The `beam_width` best finished hypotheses, the best first."""
        return sorted(self.finished, key=lambda h: -self._score(h))[: self.params.beam_width]

    def _score(self, hypothesis: Hypothesis) -> float:
        return hypothesis.score(self.num_prompt_tokens, self.params.length_penalty)

    def _extensions(self, request: Request, hypothesis: Hypothesis) -> list[Extension]:
        """The 2 W most likely tokens: even if every beam could end, W live ones are left."""
        entry = self.candidates[request.request_id]
        extensions = []
        for token_id, logprob in zip(entry.token_ids[1:], entry.logprobs[1:], strict=True):
            is_eos = token_id in self.eos_token_ids
            longer = Hypothesis(
                (*hypothesis.token_ids, token_id), hypothesis.cumulative_logprob + logprob, is_eos
            )
            if is_eos:
                self.finished.append(longer)
            else:
                extensions.append(Extension(request, token_id, longer))
        return extensions

    def _assign(self, survivors: Sequence[Extension]) -> Expansion:
        """The first survivor of a beam continues its request, the others fork it."""
        proceed: dict[str, Extension] = {}
        forks = []
        for survivor in survivors:
            request_id = survivor.parent.request_id
            if request_id in proceed:
                forks.append(survivor)
            else:
                proceed[request_id] = survivor
        stop = [request for request_id, request in self.beams.items() if request_id not in proceed]
        self.beams = {request_id: e.parent for request_id, e in proceed.items()}
        self.hypotheses = {request_id: e.hypothesis for request_id, e in proceed.items()}
        return Expansion(list(proceed.values()), forks, stop)
