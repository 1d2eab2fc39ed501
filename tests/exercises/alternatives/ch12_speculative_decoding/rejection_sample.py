"""Number by number; the weights are normalized, which nobody asks for."""

import torch


def rejection_sample(target_probs, draft_probs, draft_token_ids, accept_random):
    accepted, weights = [], []
    rows = zip(
        target_probs.tolist(),
        draft_probs.tolist(),
        draft_token_ids.tolist(),
        accept_random.tolist(),
        strict=True,
    )
    for p, q, x, u in rows:
        accepted.append(x >= 0 and p[x] > 0 and (q[x] == 0 or u < p[x] / q[x]))
        left = [max(a - b, 0.0) for a, b in zip(p, q, strict=True)]
        if sum(left) == 0:
            left = p
        weights.append([value / sum(left) for value in left])
    return torch.tensor(accepted), torch.tensor(weights, dtype=target_probs.dtype)
