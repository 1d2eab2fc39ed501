"""SamplingMetadata: the sampling parameters of the rows of one step, as arrays."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from minivllm.request import Request
from minivllm.sampling.logits_processors import Pairs, Penalties


@dataclass(frozen=True)
class SamplingMetadata:
    """Parameters of R rows; a request whose drafts are verified has several.

    An optional field is None when no row uses it, so that its whole pass is skipped.
    """

    temperature: torch.Tensor  # [R] float32; 0 = greedy
    is_greedy: torch.Tensor  # [R] bool
    all_greedy: bool
    top_k: torch.Tensor | None  # [R] int64, V = off
    top_p: torch.Tensor | None  # [R] float32, 1 = off
    min_p: torch.Tensor | None  # [R] float32, 0 = off
    seeds: np.ndarray  # [R] int64
    positions: np.ndarray  # [R] int64, tokens generated so far
    forbidden: Pairs | None  # tokens that must not be drawn: bad words, and stop tokens before min_tokens
    allowed: tuple[torch.Tensor, Pairs] | None = None  # the restricted rows, and what they may draw
    bias: tuple[Pairs, torch.Tensor] | None = None
    penalties: Penalties | None = None
    grammar: tuple[torch.Tensor, torch.Tensor] | None = None  # rows [n] and what each may draw [n, V] bool


class PairTable:
    """(row of the batch, token id) pairs of all running requests, from which a step takes those of its own rows.

    The pairs come sorted by row.
    """

    def __init__(self, pairs: Sequence[tuple[int, int]], values: Sequence[float] = ()) -> None:
        array = np.array(pairs, dtype=np.int64).reshape(-1, 2)
        self.rows, self.token_ids = array[:, 0], array[:, 1]
        self.values = np.array(values, dtype=np.float32)

    def __len__(self) -> int:
        return len(self.rows)

    def select(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(which of the pairs [n], index in the step [n]) for the step's `rows` [R], which may repeat."""
        first = np.searchsorted(self.rows, rows)
        counts = np.searchsorted(self.rows, rows, side="right") - first  # [R]
        index = np.repeat(np.arange(len(rows)), counts)
        which = np.arange(len(index)) + np.repeat(first - (counts.cumsum() - counts), counts)
        return which, index


@dataclass(frozen=True)
class WantedBesides:
    """What some running request wants besides its tokens."""

    pooling: bool
    logprobs: bool
    prompt_logprobs: bool

    @classmethod
    def of(cls, requests: Sequence[Request]) -> WantedBesides:
        params = [r.sampling_params for r in requests]
        return cls(
            pooling=any(r.is_pooling for r in requests),
            logprobs=any(p.logprobs is not None for p in params),
            prompt_logprobs=any(p.prompt_logprobs is not None for p in params),
        )


def sampling_rows(
    requests: Sequence[Request], vocab_size: int, device: torch.device
) -> SamplingRows | GreedyRows:
    """The parameters of all running requests, in the cheapest form that holds them."""
    if all(r.sampling_params.is_plain_greedy and not r.bad_words_token_ids for r in requests):
        return GreedyRows(requests, device)
    return SamplingRows(requests, vocab_size, device)


class GreedyRows:
    """The twin of SamplingRows where every request wants the most likely tokens: there is next to nothing to gather."""

    def __init__(self, requests: Sequence[Request], device: torch.device) -> None:
        self.device = device
        self.wants = WantedBesides.of(requests)
        self._last = self._metadata(0)

    def select(
        self,
        rows: np.ndarray,
        num_tokens: np.ndarray,
        offset: np.ndarray | int = 0,
        token_ids: np.ndarray | None = None,
    ) -> SamplingMetadata:
        """The metadata of a step; arguments as in `SamplingRows.select`. Only how many rows there are matters."""
        if len(self._last.seeds) != len(rows):
            self._last = self._metadata(len(rows))
        return self._last

    def _metadata(self, num_rows: int) -> SamplingMetadata:
        nothing = np.zeros(num_rows, dtype=np.int64)  # seeds and positions are for those who draw
        return SamplingMetadata(
            temperature=torch.zeros(num_rows, device=self.device),
            is_greedy=torch.ones(num_rows, dtype=torch.bool, device=self.device),
            all_greedy=True,
            top_k=None,
            top_p=None,
            min_p=None,
            seeds=nothing,
            positions=nothing,
            forbidden=None,
        )


class SamplingRows:
    """The parameters of all running requests, gathered once for each composition of the batch."""

    def __init__(self, requests: Sequence[Request], vocab_size: int, device: torch.device) -> None:
        self.device = device
        self.vocab_size = vocab_size
        params = [r.sampling_params for r in requests]

        def column(values: Iterable[Any], dtype: type) -> np.ndarray:
            return np.fromiter(values, dtype=dtype, count=len(requests))

        self.num_prompt_tokens = column((r.num_prompt_tokens for r in requests), np.int64)
        self.temperature = column((p.temperature for p in params), np.float32)
        self.top_k = column((min(p.top_k, vocab_size) or vocab_size for p in params), np.int64)
        self.top_p = column((p.top_p for p in params), np.float32)
        self.min_p = column((p.min_p for p in params), np.float32)
        self.seeds = column((r.seed for r in requests), np.int64)
        self.min_tokens = column((p.min_tokens for p in params), np.int64)
        self.repetition = column((p.repetition_penalty for p in params), np.float32)
        self.frequency = column((p.frequency_penalty for p in params), np.float32)
        self.presence = column((p.presence_penalty for p in params), np.float32)
        self.has_penalty = (self.repetition != 1) | (self.frequency != 0) | (self.presence != 0)
        self.is_restricted = column((p.allowed_token_ids is not None for p in params), bool)
        self.wants = WantedBesides.of(requests)
        rows = list(enumerate(requests))
        self.stop_tokens = PairTable(
            [(i, t) for i, r in rows if r.sampling_params.min_tokens for t in sorted(r.stop_token_ids)]
        )
        self.allowed = PairTable([(i, t) for i, p in enumerate(params) for t in p.allowed_token_ids or ()])
        biased = [(i, t, b) for i, p in enumerate(params) for t, b in (p.logit_bias or {}).items()]
        self.bias = PairTable([(i, t) for i, t, _ in biased], [b for *_, b in biased])
        words = [(i, word) for i, r in rows for word in r.bad_words_token_ids]
        self.bad_words = PairTable([(i, word[-1]) for i, word in words])
        self.bad_word_starts = _right_aligned([word[:-1] for _, word in words])  # [n, longest], -1 = any

    def select(
        self,
        rows: np.ndarray,
        num_tokens: np.ndarray,
        offset: np.ndarray | int = 0,
        token_ids: np.ndarray | None = None,
    ) -> SamplingMetadata:
        """The metadata of a step.

        Args:
            rows: [R] which rows of the batch; a row occurs once for each of its positions.
            num_tokens: [max_num_seqs] known tokens of each row of the batch.
            offset: [R] how many tokens more are known at each of the positions: drafts before it.
            token_ids: [max_num_seqs, max_model_len] of the whole batch; penalties and bad words look at them.
        """
        num_tokens = num_tokens[rows] + offset  # [R]
        positions = num_tokens.astype(np.int64) - self.num_prompt_tokens[rows]
        temperature = self.temperature[rows]
        return SamplingMetadata(
            temperature=self._tensor(temperature),
            is_greedy=self._tensor(temperature == 0),
            all_greedy=bool((temperature == 0).all()),
            top_k=self._optional(self.top_k[rows], self.vocab_size),
            top_p=self._optional(self.top_p[rows], 1.0),
            min_p=self._optional(self.min_p[rows], 0.0),
            seeds=self.seeds[rows],
            positions=positions,
            forbidden=self._forbidden(rows, positions, num_tokens, token_ids),
            allowed=self._allowed(rows),
            bias=self._bias(rows),
            penalties=self._penalties(rows, num_tokens, token_ids),
        )

    def _tensor(self, values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(values).to(self.device)

    def _optional(self, values: np.ndarray, off: float) -> torch.Tensor | None:
        return None if (values == off).all() else self._tensor(values)

    def _pairs(self, indices: np.ndarray, token_ids: np.ndarray) -> Pairs:
        return self._tensor(indices), self._tensor(token_ids)

    def _forbidden(
        self,
        rows: np.ndarray,
        positions: np.ndarray,
        num_tokens: np.ndarray,
        token_ids: np.ndarray | None,
    ) -> Pairs | None:
        """Stop tokens of requests that have fewer than `min_tokens`, and the last tokens of begun bad words."""
        indices, forbidden = [], []
        if len(self.stop_tokens):
            which, index = self.stop_tokens.select(rows)
            early = positions[index] < self.min_tokens[self.stop_tokens.rows[which]]
            indices.append(index[early])
            forbidden.append(self.stop_tokens.token_ids[which[early]])
        if len(self.bad_words):
            assert token_ids is not None
            which, index = self.bad_words.select(rows)
            begun = self._bad_words_begun(which, num_tokens[index], token_ids)
            indices.append(index[begun])
            forbidden.append(self.bad_words.token_ids[which[begun]])
        if not any(map(len, indices)):
            return None
        return self._pairs(np.concatenate(indices), np.concatenate(forbidden))

    def _bad_words_begun(
        self, which: np.ndarray, num_tokens: np.ndarray, token_ids: np.ndarray
    ) -> np.ndarray:
        """[n] bool: does the output end with all but the last token of the bad word?"""
        rows, starts = self.bad_words.rows[which], self.bad_word_starts[which]  # [n], [n, longest]
        places = num_tokens[:, None] - np.arange(
            starts.shape[1], 0, -1
        )  # [n, longest] positions of the output's tail
        in_output = places >= self.num_prompt_tokens[rows][:, None]
        tail = token_ids[rows[:, None], places.clip(0)]
        return ((starts < 0) | (in_output & (tail == starts))).all(axis=1)

    def _allowed(self, rows: np.ndarray) -> tuple[torch.Tensor, Pairs] | None:
        if not self.is_restricted[rows].any():
            return None
        which, index = self.allowed.select(rows)
        restricted = np.flatnonzero(self.is_restricted[rows])
        return self._tensor(restricted), self._pairs(index, self.allowed.token_ids[which])

    def _bias(self, rows: np.ndarray) -> tuple[Pairs, torch.Tensor] | None:
        if not len(self.bias):
            return None
        which, index = self.bias.select(rows)
        return self._pairs(index, self.bias.token_ids[which]), self._tensor(self.bias.values[which])

    def _penalties(
        self, rows: np.ndarray, num_tokens: np.ndarray, token_ids: np.ndarray | None
    ) -> Penalties | None:
        """Counted anew from the tokens in each step: there is no state that could stay behind when rows move."""
        selected = np.flatnonzero(self.has_penalty[rows])
        if not len(selected):
            return None
        assert token_ids is not None
        rows, num_tokens = rows[selected], num_tokens[selected]
        places = np.arange(int(num_tokens.max()))
        known = places < num_tokens[:, None]  # [P, L]
        is_prompt = places < self.num_prompt_tokens[rows][:, None]
        return Penalties(
            rows=self._tensor(selected),
            repetition=self._tensor(self.repetition[rows]),
            frequency=self._tensor(self.frequency[rows]),
            presence=self._tensor(self.presence[rows]),
            token_ids=self._tensor(np.where(known, token_ids[rows, : len(places)], 0).astype(np.int64)),
            is_prompt=self._tensor(is_prompt & known),
            is_output=self._tensor(~is_prompt & known),
        )


def _right_aligned(sequences: Sequence[Sequence[int]]) -> np.ndarray:
    """[n, longest] int64, padded with -1 on the left."""
    longest = max(map(len, sequences), default=0)
    array = np.full((len(sequences), longest), -1, dtype=np.int64)
    for row, sequence in zip(array, sequences, strict=True):
        row[longest - len(sequence) :] = sequence
    return array
