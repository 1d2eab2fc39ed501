"""Exercise 1.2, a row at a time: nothing is masked, as the future is never looked at."""

import torch


def causal_weights(query, key, scale):
    num_tokens = len(query)
    weights = torch.zeros(num_tokens, num_tokens)
    for t in range(num_tokens):
        scores = torch.mv(key[: t + 1], query[t]) * scale
        exps = torch.exp(scores - scores.max())
        weights[t, : t + 1] = exps / exps.sum()
    return weights


def causal_attention(query, key, value, scale):
    return torch.nn.functional.scaled_dot_product_attention(
        query[None, None], key[None, None], value[None, None], is_causal=True, scale=scale
    )[0, 0]
