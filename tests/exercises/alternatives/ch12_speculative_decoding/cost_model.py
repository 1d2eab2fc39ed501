"""The closed form, and Newton's method for its inverse."""


def tokens_per_step(agreement, k):
    if agreement == 1:
        return k + 1
    return (1 - agreement ** (k + 1)) / (1 - agreement)


def speedup(agreement, k, cost):
    return (1 / cost) * tokens_per_step(agreement, k)


def break_even(cost, k):
    if cost > k + 1:
        return None
    if cost <= 1:
        return 0.0
    agreement = 1.0  # from the right: the sum is convex, so Newton never steps over the root
    for _ in range(200):
        value = sum(agreement**i for i in range(k + 1)) - cost
        slope = sum(i * agreement ** (i - 1) for i in range(1, k + 1))
        agreement -= value / slope
    return min(1.0, max(0.0, agreement))


def best_length(agreement, cost_per_draft, most):
    best, fastest = 0, 1.0
    for k in range(1, most + 1):
        speed = speedup(agreement, k, 1 + k * cost_per_draft)
        if speed > fastest + 1e-12:
            best, fastest = k, speed
    return best
