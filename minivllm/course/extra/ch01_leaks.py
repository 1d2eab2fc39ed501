"""Attention functions for the one who writes a causality test: five that let the future in, and two that only seem to.

All take (query [T, H, D], key [T, K, D], value [T, K, D], scale) and give [T, H, D].
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from minivllm.course.extra.ch01_attention import grouped_attention

MASK_SIZE = 4


def leaks_through_values(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """Takes the mean of all values off, and never adds it again."""
    return grouped_attention(query, key, value - value.mean(dim=0), scale)


def leaks_through_keys(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """Makes keys equally long by a length that is taken over all tokens."""
    return grouped_attention(query, key / key.norm(dim=0), value, scale)


def leaks_through_queries(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """Compares with how far a query is from the mean query."""
    return grouped_attention(query - query.mean(dim=0), key, value, scale)


def leaks_in_the_last_head(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """Forgets the mask in one head."""
    out = grouped_attention(query, key, value, scale)
    weights = (query[:, -1] @ key[:, -1].T * scale).softmax(dim=-1)
    out[:, -1] = weights @ value[:, -1]
    return out


def leaks_in_longer_texts(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """Has a mask for four tokens, and none for the rows behind them."""
    out = grouped_attention(query, key, value, scale)
    group = query.shape[1] // key.shape[1]
    for head in range(query.shape[1]):
        scores = query[MASK_SIZE:, head] @ key[:, head // group].T * scale
        out[MASK_SIZE:, head] = scores.softmax(dim=-1) @ value[:, head // group]
    return out


def centres_values(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """Correct: the mean of all values is taken off and added again. Only the last digits know of it."""
    mean = value.mean(dim=0)  # [K, D]
    added = mean.repeat_interleave(query.shape[1] // len(mean), dim=0)  # [H, D]
    return grouped_attention(query, key, value - mean, scale) + added


def subtracts_the_largest_score(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """Correct: softmax may subtract any number from a row's scores, even one that the future has a part in."""
    group = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(group, dim=1) for x in (key, value))  # [T, H, D]
    scores = torch.einsum("thd,shd->hts", query, key) * scale
    top = scores.mean(dim=-1, keepdim=True)
    future = torch.ones(scores.shape[1:], dtype=torch.bool).triu(diagonal=1)
    exps = (scores - top).masked_fill(future, -math.inf).exp()
    return torch.einsum("hts,shd->thd", exps / exps.sum(dim=-1, keepdim=True), value)


class Asked:
    """An attention function that writes down with what it was called wrongly."""

    def __init__(self, attention: Callable[[Tensor, Tensor, Tensor, float], Tensor]) -> None:
        self.attention = attention
        self.mistakes: list[str] = []

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        shapes = [tuple(tensor.shape) for tensor in (query, key, value)]
        if not self._fit(*shapes):
            self.mistakes.append(f"query, key, value of {shapes}")
        return query if self.mistakes else self.attention(query, key, value, scale)

    @staticmethod
    def _fit(query: tuple[int, ...], key: tuple[int, ...], value: tuple[int, ...]) -> bool:
        if key != value or any(len(shape) != 3 or 0 in shape for shape in (query, key)):
            return False
        return query[::2] == key[::2] and query[1] % key[1] == 0
