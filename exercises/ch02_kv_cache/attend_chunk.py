"""Exercise 2.3: Attention of a chunk. (implement, about 20 minutes)

With a cache, a step has few queries and many keys: T new tokens look at S tokens, themselves and
all before. The new tokens are the LAST of the text, so the corner of the triangle is at the right.
With T = 2 and S = 5:

             key 0  key 1  key 2  key 3  key 4
    query 0    x      x      x      x      .       token 3 of the text
    query 1    x      x      x      x      x       token 4

`hidden_keys` says what is hidden (the dots). `attend_chunk` is the attention of chapter 01 with
that mask. With T = S it is the whole text, with T = 1 a step of decoding.

Check: python -m minivllm.course check 2.3     (or: python -m pytest exercises/ch02_kv_cache/attend_chunk.py)
Stuck: python -m minivllm.course hint 2.3
"""

from __future__ import annotations

import math
import torch
from torch import Tensor


def hidden_keys(num_new: int, num_tokens: int) -> Tensor:
    """What the last `num_new` of `num_tokens` tokens may not see: [T, S], True where a key comes after the query.

    Row 0 is the first of the new tokens. It stands at position num_tokens - num_new, not at 0.
    """
    raise NotImplementedError("exercise 2.3: hidden_keys")


def attend_chunk(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """Causal attention of the last T of S tokens, in all heads.

    Args:
        query: [T, H, D], of the new tokens.
        key: [S, K, D], of all tokens; the last one belongs to the last query. Query head h reads kv head h // (H // K).
        value: [S, K, D], likewise.
        scale: factor on the scores.

    Returns:
        [T, H, D].
    """
    raise NotImplementedError("exercise 2.3: attend_chunk")
