"""Another hash function, and another way to write its input down: as text that Python could read back."""

import hashlib

ROOT_HASH = hashlib.blake2b(b"another root", digest_size=16).digest()


def hash_block_tokens(parent, token_ids, extra_keys=()):
    text = repr((parent, tuple(token_ids), tuple(extra_keys)))
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
