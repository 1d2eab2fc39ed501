"""Every number by painting the slots."""

A, B = (5, 8), (9, 10)  # tokens now, tokens at the end


def painted(reservations):
    """One letter a slot: u written, r will be written, i never will."""
    return "".join(
        "u" * now + "r" * (end - now) + "i" * (size - end)
        for (now, end), size in zip((A, B), reservations, strict=True)
    )


def reserved_by_max():
    return painted([16, 16]).count("r")


def internal_by_max():
    return painted([16, 16]).count("i")


def internal_by_pow2():
    return painted([5 + 4, 9 + 2]).count("i")


def blocks_by_paged():
    return len(range(0, A[0], 4)) + len(range(0, B[0], 4))


def empty_by_paged():
    return blocks_by_paged() * 4 - A[0] - B[0]


def most_empty_by_paged():
    return max(len(range(0, length, 16)) * 16 - length for length in range(1, 100))


def external_slots():
    holes = [8, 8]
    return sum(holes) if max(holes) < 12 <= sum(holes) else 0


def blocks_for_d():
    return len(range(0, 10, 4))
