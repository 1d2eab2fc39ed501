"""The same numbers, computed from a list of positions instead of by division."""

TABLE = [10, 15, 7, 22, 3, 31]
PLACES = [(block, offset) for block in TABLE for offset in range(16)]  # of positions 0 to 95


def blocks_for_85_tokens():
    return len({block for block, _ in PLACES[:85]})


def logical_block_of_50():
    return TABLE.index(PLACES[50][0])


def offset_of_50():
    return PLACES[50][1]


def slot_of_50():
    block, offset = PLACES[50]
    return sum(16 for _ in range(block)) + offset


def empty_slots():
    return len(PLACES[85:])


def blocks_missing_for_96():
    return len(PLACES[96:97])


def blocks_missing_for_97():
    return len({96 // 16}) if len(PLACES) < 97 else 0
