"""Exercise 11.4: Pack and unpack. (implement, about 20 minutes)

No machine has 4-bit integers, so eight of them travel in one int32 word. Checkpoints of the AWQ
family have agreed on an order that suits GPUs, with the even outputs in the lower half of the word
and the odd ones in the upper half:

    bits             28-31  24-27  20-23  16-19  12-15  8-11   4-7   0-3
    output of word     7      5      3      1      6      4     2     0         ORDER = 0 2 4 6 1 3 5 7, from the lowest

Write both ways. The highest nibble reaches the sign bit: an int32 word with 8 or more in it is
negative, and shifting a negative number to the right fills up with ones.

Check: python -m minivllm.course check 11.4     (or: python -m pytest exercises/ch11_quantization/packing.py)
Stuck: python -m minivllm.course hint 11.4
"""

import torch
from torch import Tensor


BITS = 4


PACK = 32 // BITS  # numbers in a word of 32 bits


ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # nibble i of a word, from the lowest, holds this one of its eight outputs


def pack(numbers: Tensor) -> Tensor:
    """[rows, n] of 0 to 15, n a multiple of 8 -> words [rows, n / 8] int32."""
    raise NotImplementedError("exercise 11.4: pack")


def unpack(words: Tensor) -> Tensor:
    """Words [rows, n / 8] int32 -> [rows, n] int32 of 0 to 15: what `pack` was given."""
    raise NotImplementedError("exercise 11.4: unpack")
