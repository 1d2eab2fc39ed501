"""The survivors are found with a heap, and requests are counted instead of looked up."""

import heapq
from collections import Counter, namedtuple
from dataclasses import dataclass

Extension = namedtuple("Extension", "parent token_id hypothesis")
Expansion = namedtuple("Expansion", "proceed fork stop")


@dataclass(frozen=True)
class Hypothesis:
    token_ids: tuple
    cumulative_logprob: float
    is_eos: bool = False

    def score(self, num_prompt_tokens, length_penalty):
        length = num_prompt_tokens + len(self.token_ids[: -1 if self.is_eos else None])
        return self.cumulative_logprob * float(length or 1) ** -length_penalty


class BeamSearchGroup:
    def __init__(self, params, eos_token_ids, max_tokens, num_prompt_tokens):
        self.params, self.eos_token_ids = params, eos_token_ids
        self.max_tokens, self.num_prompt_tokens = max_tokens, num_prompt_tokens
        self.beams, self.hypotheses, self.finished, self.candidates = {}, {}, [], {}
        self.num_forks = 0

    def add(self, request, hypothesis):
        self.beams[request.request_id], self.hypotheses[request.request_id] = request, hypothesis

    def take_in(self, entries):
        self.candidates.update({name: entries[name][-1] for name in self.beams if name in entries})

    @property
    def is_ready(self):
        return bool(self.beams) and set(self.candidates) == set(self.beams)

    @property
    def is_finished(self):
        return len(self.beams) == 0

    def _score(self, hypothesis):
        return hypothesis.score(self.num_prompt_tokens, self.params.length_penalty)

    def best(self):
        return heapq.nlargest(self.params.beam_width, self.finished, key=self._score)

    def expand(self):
        found = [e for name in self.beams for e in self._extensions(self.beams[name], self.hypotheses[name])]
        self.finished += [e.hypothesis for e in found if e.hypothesis.is_eos]
        live = [e for e in found if not e.hypothesis.is_eos]
        live = heapq.nlargest(self.params.beam_width, live, key=lambda e: self._score(e.hypothesis))
        self.candidates = {}
        if any(len(e.hypothesis.token_ids) == self.max_tokens for e in live):
            self.finished += [e.hypothesis for e in live]
            live = []
        return self._assign(live)

    def _extensions(self, request, hypothesis):
        told = self.candidates[request.request_id]
        for token, logprob in list(zip(told.token_ids, told.logprobs, strict=True))[1:]:
            tokens = hypothesis.token_ids + (token,)
            total = hypothesis.cumulative_logprob + logprob
            yield Extension(request, token, Hypothesis(tokens, total, token in self.eos_token_ids))

    def _assign(self, survivors):
        children, split = Counter(), {True: [], False: []}
        for survivor in survivors:
            split[children[survivor.parent.request_id] == 0].append(survivor)
            children[survivor.parent.request_id] += 1
        stop = [request for name, request in self.beams.items() if not children[name]]
        self.beams, self.hypotheses = {}, {}
        for survivor in split[True]:
            self.add(survivor.parent, survivor.hypothesis)
        return Expansion(split[True], split[False], stop)
