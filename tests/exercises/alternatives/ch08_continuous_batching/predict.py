"""Another correct solution: each number from a small rule instead of by hand."""


def tokens_of_b_in_step_1() -> int:
    return min(9, 8 - 5)


def tokens_of_c_in_step_2() -> int:
    return min(2, 8 - 1 - (9 - tokens_of_b_in_step_1()))


def step_that_finishes_a() -> int:
    return -(-5 // 8) + 3 - 1


def steps_for_all() -> int:
    last_chunk_of_c = 2 + (2 - tokens_of_c_in_step_2())
    return last_chunk_of_c + 2 - 1


def step_with_a_preemption() -> int:
    blocks_of_d, free = 8 // 4, 4 - 2 - 2
    return next(i for i in range(1, 9) if 8 + i - 1 > 4 * (blocks_of_d + free))


def tokens_of_d_when_e_returns() -> int:
    return 6


def tokens_to_recompute() -> int:
    return 7 + 1
