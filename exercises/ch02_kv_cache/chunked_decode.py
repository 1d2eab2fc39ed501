"""Exercise 2.4: Chunked prefill, then decode. (implement, about 20 minutes)

The loop of chapter 01 read the whole text for each token. With a cache nothing is read twice.
`forward(token_ids)` runs the model on the NEXT tokens of the text; it remembers what came before,
and gives their logits, [T, V].

`chunks` cuts a prompt into pieces. `prefill` sends them through the model and returns the logits of
the last token. `decode` goes on greedily: pick a token, send it alone, pick the next. A server cuts
long prompts so that others need not wait for them; what is said must not depend on where it cuts.

    prompt of 5, chunk size 2, 3 new tokens:   forward(p0 p1)  forward(p2 p3)  forward(p4)  forward(o0)  forward(o1)


Check: python -m minivllm.course check 2.4     (or: python -m pytest exercises/ch02_kv_cache/chunked_decode.py)
Stuck: python -m minivllm.course hint 2.4
"""

from __future__ import annotations

from collections.abc import Sequence
from torch import Tensor

from minivllm.course.extra.ch02_decode import Forward


def chunks(num_tokens: int, chunk_size: int) -> list[tuple[int, int]]:
    """Cut positions 0 to num_tokens - 1 into runs of at most chunk_size: (start, stop) of each, none empty."""
    raise NotImplementedError("exercise 2.4: chunks")


def prefill(forward: Forward, prompt: Sequence[int], chunk_size: int) -> Tensor:
    """Compute a prompt in chunks.

    Returns:
        [V]: the logits of its last token.
    """
    raise NotImplementedError("exercise 2.4: prefill")


def decode(forward: Forward, prompt: Sequence[int], num_tokens: int, chunk_size: int) -> list[int]:
    """Continue a prompt greedily by `num_tokens` (>= 1) tokens, and compute each token at most once.

    Returns:
        The new tokens.
    """
    raise NotImplementedError("exercise 2.4: decode")
