"""Row by row, with sorted lists of (probability, id)."""

import math

import torch


def keep(logits, kept):
    """The logits of the kept (row, token) pairs, and minus infinity elsewhere."""
    result = torch.full_like(logits, -math.inf)
    for row, tokens in enumerate(kept):
        result[row, tokens] = logits[row, tokens]
    return result


def apply_min_p(logits, min_p):
    best = logits.max(dim=-1).values
    ratios = (logits - best[:, None]).exp()
    return keep(logits, [(r >= p).nonzero().flatten().tolist() for r, p in zip(ratios, min_p, strict=True)])


def nucleus(shares, p):
    """The first of the ranked shares that together reach p of their sum."""
    if p >= 1:
        return len(shares)
    wanted, reached = p * math.fsum(shares), 0.0
    for count, share in enumerate(shares, start=1):
        reached += share
        if reached >= wanted:
            return count
    return len(shares)


def apply_top_k_top_p(logits, top_k, top_p):
    kept = []
    for number, row in enumerate(logits.double()):
        order = sorted(range(len(row)), key=lambda i, row=row: (-float(row[i]), i))
        if top_k is not None:
            order = order[: int(top_k[number])]
        if top_p is not None:
            shares = [math.exp(float(row[i] - row[order[0]])) for i in order]
            order = order[: nucleus(shares, float(top_p[number]))]
        kept.append(order)
    return keep(logits, kept)
