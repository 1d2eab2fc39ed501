"""Exercise 2.1: Predict the KV bytes of three models. (predict, about 10 minutes)

How much memory does a KV cache take? For each token, in every layer and kv head, one key and one
value, each of head size numbers, 2 bytes a number:

    model         layers   kv heads   head size
    tutor              6          4          32
    Llama 2 7B        32         32         128
    Llama 3 8B        32          8         128

Five numbers and a formula. A product such as 2 * 3 may stand in the code just as well as 6.

Check: python -m minivllm.course check 2.1     (or: python -m pytest exercises/ch02_kv_cache/predict.py)
Stuck: python -m minivllm.course hint 2.1
"""

from __future__ import annotations


def tutor_bytes() -> int:
    """How many bytes does the KV cache of one token take, in all layers of tutor?"""
    raise NotImplementedError("exercise 2.1: tutor_bytes")


def llama_2_bytes() -> int:
    """And of Llama 2 7B?"""
    raise NotImplementedError("exercise 2.1: llama_2_bytes")


def llama_3_bytes() -> int:
    """And of Llama 3 8B?"""
    raise NotImplementedError("exercise 2.1: llama_3_bytes")


def tokens_in_12_gib() -> int:
    """A GPU has 12 GiB (of 2 ** 30 bytes) left beside the weights of Llama 2 7B. How many tokens have room there?"""
    raise NotImplementedError("exercise 2.1: tokens_in_12_gib")


def requests_of_2048() -> int:
    """How many requests of 2,048 tokens each have room there?"""
    raise NotImplementedError("exercise 2.1: requests_of_2048")


def kv_bytes(
    num_layers: int, num_kv_heads: int, head_dim: int, num_tokens: int, bytes_per_number: int = 2
) -> int:
    """The bytes that the keys and values of so many tokens take in any such model."""
    raise NotImplementedError("exercise 2.1: kv_bytes")
