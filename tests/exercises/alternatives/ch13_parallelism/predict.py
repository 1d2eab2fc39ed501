"""Counted and multiplied out."""

HIDDEN, LAYERS, HEADS, KV_HEADS = 4096, 32, 32, 8
PAIRS = (("qkv_proj", "o_proj"), ("gate_up_proj", "down_proj"))


def sums_of_a_layer():
    return len(PAIRS)


def sums_of_a_step():
    return LAYERS * len(PAIRS) + 1


def bytes_of_a_sum():
    return HIDDEN * 16 // 8


def heads_of_a_rank():
    return HEADS // 8


def kv_heads_of_a_rank():
    return max(1, KV_HEADS // 16)


def kv_bytes_of_a_rank():
    return 128 * kv_heads_of_a_rank() // KV_HEADS


def layers_of_the_last_stage():
    return 30 // 4


def bytes_between_stages():
    return bytes_of_a_sum()


def busy_percent():
    return 100 / 4


def messages_between_replicas():
    return 0
