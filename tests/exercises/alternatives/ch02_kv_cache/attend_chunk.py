"""Exercise 2.3, a query and a head at a time; the mask from positions."""

import torch


def hidden_keys(num_new, num_tokens):
    queries = torch.arange(num_tokens - num_new, num_tokens)
    return torch.arange(num_tokens)[None, :] > queries[:, None]


def attend_chunk(query, key, value, scale):
    out = torch.zeros_like(query)
    hidden = hidden_keys(len(query), len(key))
    for h in range(query.shape[1]):
        j = h * key.shape[1] // query.shape[1]
        for t in range(len(query)):
            seen = ~hidden[t]
            weights = torch.softmax(key[seen, j] @ query[t, h] * scale, 0)
            out[t, h] = weights @ value[seen, j]
    return out
