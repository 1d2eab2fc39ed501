"""The sampler as a page of plain Python: lists, sorting, 64-bit integers. No torch and nothing from the package."""

import math

NEVER = -math.inf


def processed(logits, params, prompt=(), output=(), stop_token_ids=(), bad_words=()):
    """Allowed ids, bad words, min_tokens, bias, then repetition, frequency and presence penalty."""
    logits = list(logits)
    banned = set()
    if params.allowed_token_ids is not None:
        banned |= set(range(len(logits))) - set(params.allowed_token_ids)
    for word in bad_words:
        start = list(word[:-1])
        if not start or list(output[-len(start) :]) == start:
            banned.add(word[-1])
    if len(output) < params.min_tokens:
        banned |= set(stop_token_ids)
    for i in range(len(logits)):
        x = NEVER if i in banned else logits[i] + (params.logit_bias or {}).get(i, 0.0)
        if i in prompt or i in output:
            x = x / params.repetition_penalty if x > 0 else x * params.repetition_penalty
        count = list(output).count(i)
        logits[i] = x - params.frequency_penalty * count - params.presence_penalty * (count > 0)
    return logits


def softmax(logits):
    best = max(logits)
    weights = [math.exp(x - best) for x in logits]
    total = math.fsum(weights)
    return [w / total for w in weights]


def distribution(logits, params):
    """Token id -> probability, for the kept tokens; and how near the closest decision was to going the other way."""
    if params.temperature == 0:
        best = max(logits)
        others = sorted((x for x in logits if x != best), reverse=True)
        return {logits.index(best): 1.0}, best - others[0] if others else math.inf
    probs = softmax([x / params.temperature for x in logits])
    ranked = sorted(range(len(logits)), key=lambda i: (-probs[i], i))
    margin = math.inf
    if params.min_p:
        limit = params.min_p * probs[ranked[0]]
        margin = min(abs(probs[i] - limit) for i in ranked[1:]) if len(ranked) > 1 else margin
        ranked = [i for i in ranked if probs[i] >= limit]
    if 0 < params.top_k < len(ranked):
        gap = probs[ranked[params.top_k - 1]] - probs[ranked[params.top_k]]
        margin = min(margin, gap or math.inf)  # equals are told apart by their ids
        ranked = ranked[: params.top_k]
    if params.top_p < 1:
        mass = math.fsum(probs[i] for i in ranked)
        total, kept = 0.0, []
        for i in ranked:
            kept.append(i)
            total += probs[i] / mass
            margin = min(margin, abs(total - params.top_p))
            if total >= params.top_p:
                break
        ranked = kept
    mass = math.fsum(probs[i] for i in ranked)
    return {i: probs[i] / mass for i in sorted(ranked) if probs[i] > 0}, margin


def mix(z):
    """The finalizer of SplitMix64."""
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    return z ^ (z >> 31)


def uniform(seed, position):
    """The documented function of (seed, position)."""
    golden = 0x9E3779B97F4A7C15
    state = mix((seed + golden) % 2**64)
    state = mix(state ^ ((position * golden + golden) % 2**64))
    return (state >> 11) / 2**53


def draw(probs, u):
    """(the token whose share of [0, 1) holds u, the distance of u from the nearest end of that share)."""
    total = 0.0
    for token, p in sorted(probs.items()):
        if total + p > u or token == max(probs):
            low, high = total, total + p
            return token, min(abs(u - low) if low > 0 else 1.0, abs(high - u) if token != max(probs) else 1.0)
        total += p
    raise AssertionError("no probabilities")


def choose(logits, params, seed, prompt=(), output=(), **kwargs):
    """(the next token, by what margin it is that one)."""
    probs, margin = distribution(processed(logits, params, prompt, output, **kwargs), params)
    token, distance = draw(probs, uniform(seed, len(output)))
    return token, min(margin, distance)
