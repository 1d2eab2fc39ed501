"""The queue as an ordered dictionary: one step to forget a key in the middle. The blocks' links stay unused."""

from collections import OrderedDict


class FreeBlockQueue:
    def __init__(self, blocks=()):
        self._by_id = OrderedDict()
        for block in blocks:
            self.append(block)

    @property
    def num_free_blocks(self):
        return len(self._by_id)

    def append(self, block):
        assert block.block_id not in self._by_id
        self._by_id[block.block_id] = block

    def prepend(self, block):
        self.append(block)
        self._by_id.move_to_end(block.block_id, last=False)

    def popleft(self):
        assert self._by_id
        return self._by_id.popitem(last=False)[1]

    def remove(self, block):
        assert block.block_id in self._by_id
        del self._by_id[block.block_id]

    def __iter__(self):
        return iter(self._by_id.values())
