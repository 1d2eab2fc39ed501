"""Keeps a list of all slots that the request owns: positions are looked up, never divided."""

from minivllm.core import block_table as reference


def cdiv(numerator, denominator):
    return (numerator + denominator - 1) // denominator


class BlockTable(reference.BlockTable):
    def _slots(self):
        return [(block.block_id, offset) for block in self for offset in range(self.block_size)]

    @property
    def capacity(self):
        return len(self._slots())

    def num_blocks_missing(self, num_tokens):
        missing = 0
        while self.capacity + missing * self.block_size < num_tokens:
            missing += 1
        return missing

    def locate(self, position):
        return self._slots()[position]

    def slot(self, position):
        block_id, offset = self._slots()[position]
        return range(block_id * self.block_size, (block_id + 1) * self.block_size)[offset]
