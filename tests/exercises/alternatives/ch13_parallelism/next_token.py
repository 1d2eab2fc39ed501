"""One request after the other, by walking along the probabilities."""

import numpy as np
import torch

from minivllm.sampling.random import derive_seed, uniform


def next_tokens(tp, logits, vocab_size, seeds, numbers, positions, engine_seed):
    gathered = tp.all_gather(logits).double()
    tokens = []
    for row, seed, number, position in zip(gathered, seeds, numbers, positions, strict=True):
        if seed is None:
            seed = derive_seed(engine_seed, number)
        left = float(uniform(np.array([seed]), np.array([position]))[0])
        probs = torch.softmax(row[:vocab_size], dim=0).tolist()
        token = 0
        while token < vocab_size - 1 and left >= sum(probs[: token + 1]):
            token += 1
        tokens.append(token)
    return torch.tensor(tokens)
