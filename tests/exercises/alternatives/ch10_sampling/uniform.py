"""A cryptographic hash of the three numbers."""

import hashlib

import numpy as np


def uniform(seeds, positions, stream=0):
    texts = [
        f"{seed},{position},{stream}".encode()
        for seed, position in zip(seeds.tolist(), positions.tolist(), strict=True)
    ]
    digests = [hashlib.blake2b(text, digest_size=8).digest() for text in texts]
    return np.array([(int.from_bytes(digest, "big") >> 11) / 2**53 for digest in digests])
