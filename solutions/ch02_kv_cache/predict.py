"""Exercise 2.1: Predict the KV bytes of three models."""

from __future__ import annotations


def tutor_bytes() -> int:
    """How many bytes does the KV cache of one token take, in all layers of tutor?"""
    return 3_072  # 2 * 6 * 4 * 32 * 2


def llama_2_bytes() -> int:
    """And of Llama 2 7B?"""
    return 524_288  # 2 * 32 * 32 * 128 * 2: 512 KiB


def llama_3_bytes() -> int:
    """And of Llama 3 8B?"""
    return 131_072  # 2 * 32 * 8 * 128 * 2: 128 KiB, a quarter


def tokens_in_12_gib() -> int:
    """A GPU has 12 GiB (of 2 ** 30 bytes) left beside the weights of Llama 2 7B. How many tokens have room there?"""
    return 24_576  # 12 * 2**30 / 524,288


def requests_of_2048() -> int:
    """How many requests of 2,048 tokens each have room there?"""
    return 12  # one of them takes 1 GiB


def kv_bytes(
    num_layers: int, num_kv_heads: int, head_dim: int, num_tokens: int, bytes_per_number: int = 2
) -> int:
    """The bytes that the keys and values of so many tokens take in any such model."""
    return 2 * num_layers * num_kv_heads * head_dim * num_tokens * bytes_per_number
