"""Exercise 2.1, every number from the formula."""


def tutor_bytes():
    return kv_bytes(6, 4, 32, 1)


def llama_2_bytes():
    return kv_bytes(32, 32, 128, 1)


def llama_3_bytes():
    return kv_bytes(32, 8, 128, 1)


def tokens_in_12_gib():
    return (12 << 30) // llama_2_bytes()


def requests_of_2048():
    return tokens_in_12_gib() // 2048


def kv_bytes(num_layers, num_kv_heads, head_dim, num_tokens, bytes_per_number=2):
    key = num_kv_heads * head_dim * bytes_per_number
    return num_tokens * num_layers * (key + key)
