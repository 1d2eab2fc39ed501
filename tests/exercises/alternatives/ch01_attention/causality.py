"""Exercise 1.5 the other way: a text that goes on must not change what its beginning got."""

import torch


def check_causality(attention):
    for seed in range(3):
        torch_random = torch.Generator().manual_seed(seed)
        query = torch.randn(8, 6, 5, generator=torch_random)
        key = torch.randn(8, 3, 5, generator=torch_random)
        value = torch.randn(8, 3, 5, generator=torch_random)
        whole = attention(query, key, value, 0.7)
        for length in range(1, 8):
            beginning = attention(query[:length], key[:length], value[:length], 0.7)
            difference = (whole[:length] - beginning).abs().max()
            assert difference < 1e-3, f"the first {length} tokens get something else when others follow"
