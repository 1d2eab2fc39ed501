"""Decoding with a cache: the prompt in chunks, then a token at a time. Nothing is computed twice."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

# Takes the next tokens of the text, T of them, and gives their logits [T, V]. It remembers what came before.
Forward = Callable[[Sequence[int]], Tensor]


def chunks(num_tokens: int, chunk_size: int) -> list[tuple[int, int]]:
    """Cut positions 0 to num_tokens - 1 into runs of at most chunk_size: (start, stop) of each, none empty."""
    return [(start, min(start + chunk_size, num_tokens)) for start in range(0, num_tokens, chunk_size)]


def prefill(forward: Forward, prompt: Sequence[int], chunk_size: int) -> Tensor:
    """Compute a prompt in chunks.

    Returns:
        [V]: the logits of its last token.
    """
    for start, stop in chunks(len(prompt), chunk_size):
        logits = forward(prompt[start:stop])
    return logits[-1]


def decode(forward: Forward, prompt: Sequence[int], num_tokens: int, chunk_size: int) -> list[int]:
    """Continue a prompt greedily by `num_tokens` (>= 1) tokens, and compute each token at most once.

    Returns:
        The new tokens.
    """
    output = [int(prefill(forward, prompt, chunk_size).argmax())]
    while len(output) < num_tokens:
        output.append(int(forward(output[-1:])[-1].argmax()))
    return output
