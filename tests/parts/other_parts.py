"""Parts that somebody might write: one that is right in another way, and some that are wrong."""

from collections import defaultdict

from minivllm.core.block import KVCacheBlock
from minivllm.core.block_pool import BlockPool
from minivllm.core.block_table import BlockTable, cdiv


class StackPool:
    """A correct allocator that shares no code with the reference: a stack of free ids, the last freed used first."""

    def __init__(self, num_blocks, enable_caching=True):
        self.num_blocks, self.enable_caching = num_blocks, enable_caching
        self.blocks = [KVCacheBlock(i) for i in range(num_blocks)]
        self.null_block = self.blocks[0]
        self.stack = list(range(1, num_blocks))
        self.by_hash = defaultdict(list)

    @property
    def num_free_blocks(self):
        return len(self.stack)

    @property
    def usage(self):
        return 1 - len(self.stack) / max(1, self.num_blocks - 1)

    def forget(self, block):
        if block.block_hash is not None:
            self.by_hash[block.block_hash].remove(block)
            block.block_hash = None

    def get_new_blocks(self, num_blocks):
        assert num_blocks <= len(self.stack)
        taken = [self.blocks[self.stack.pop()] for _ in range(num_blocks)]
        for block in taken:
            self.forget(block)
            block.ref_cnt = 1
        return taken

    def touch(self, blocks):
        for block in blocks:
            if block is not self.null_block:
                if block.ref_cnt == 0:
                    self.stack.remove(block.block_id)
                block.ref_cnt += 1

    def free_blocks(self, ordered_blocks):
        for block in ordered_blocks:
            if block is not self.null_block:
                block.ref_cnt -= 1
                if block.ref_cnt == 0:
                    self.stack.append(block.block_id)

    def cache_full_block(self, block, block_hash):
        if self.enable_caching and block is not self.null_block:
            block.block_hash = block_hash
            self.by_hash[block_hash].append(block)

    def get_cached_block(self, block_hash):
        return next(iter(self.by_hash.get(block_hash, ())), None)

    def reset_prefix_cache(self):
        if len(self.stack) != self.num_blocks - 1:
            return False
        for block in self.blocks:
            self.forget(block)
        return True


class LeakingPool(BlockPool):
    """Loses blocks with an odd number that are given back before they were full."""

    def free_blocks(self, ordered_blocks):
        kept = []
        for block in ordered_blocks:
            if block.ref_cnt == 1 and block.block_hash is None and block.block_id % 2:
                block.ref_cnt = 0
            else:
                kept.append(block)
        super().free_blocks(kept)


class UncountedPool(BlockPool):
    """A block that is shared still counts one reference."""

    def touch(self, blocks):
        super().touch(block for block in blocks if block.ref_cnt == 0)


class ImpatientPool(BlockPool):
    """A shared block is given away as soon as the first holder leaves."""

    def free_blocks(self, ordered_blocks):
        blocks = list(ordered_blocks)
        for block in blocks:
            block.ref_cnt = min(block.ref_cnt, 1)
        super().free_blocks(blocks)


class RaisingPool(BlockPool):
    """Cannot touch."""

    def touch(self, blocks):
        raise IndexError("pop from empty list")


def no_shared_blocks(table, start, stop):
    """The missing copy: everybody writes in place."""
    return []


def shared_blocks_without_the_first(table, start, stop):
    """Forgets the block that `start` lies in, half full: the very one that a fork shares."""
    first, last = cdiv(start, table.block_size), min(len(table), cdiv(stop, table.block_size))
    return [index for index in range(first, last) if table[index].ref_cnt > 1]


def fork_full_blocks_only(pool, parent, num_tokens):
    """Leaves out the half-full last block."""
    table = BlockTable(parent.block_size)
    table.append(parent[: num_tokens // parent.block_size])
    pool.touch(table)
    return table


def fork_without_touch(pool, parent, num_tokens):
    """Takes no references."""
    table = BlockTable(parent.block_size)
    table.append(parent[: cdiv(num_tokens, parent.block_size)])
    return table


def copy_and_keep(pool, table, index, target):
    """Makes the copy and never gives the shared block back."""
    return table.replace(index, target).block_id, target.block_id


def hash_without_parent(parent, token_ids, extra_keys=()):
    """Equal blocks after different prefixes look equal."""
    return repr((list(token_ids), tuple(extra_keys))).encode()


def hit_with_gaps(block_hashes, num_tokens, block_size, get_cached_block):
    """Leaves out the first block, as if a hit could begin anywhere."""
    blocks = [get_cached_block(block_hash) for block_hash in block_hashes[1 : (num_tokens - 1) // block_size]]
    return [block for block in blocks if block is not None]


def greedy_last(logits):
    """The last of equals."""
    return logits.shape[-1] - 1 - logits.flip(-1).argmax(dim=-1)


def greedy_twin(logits):
    """Right, in another way."""
    return (logits == logits.amax(dim=-1, keepdim=True)).float().argmax(dim=-1)


def slot_without_offset(block_tables, rows, positions, block_size):
    """The first slot of the block for all its tokens."""
    return block_tables[rows, positions // block_size].astype("int64") * block_size


def attention_without_table(query, key_cache, value_cache, block_tables, seq_lens, query_start_loc, scale):
    """Reads blocks 0, 1, 2, ... whatever the table says."""
    from minivllm.attention.blockwise import paged_attention

    in_order = block_tables * 0 + block_tables.new_tensor(range(block_tables.shape[1]))
    return paged_attention(query, key_cache, value_cache, in_order, seq_lens, query_start_loc, scale)


def trim_nothing(pool, table, num_tokens):
    """Keeps what the drafts were written to."""
    return table


def look_up_nonsense(token_ids, shortest, longest, num_drafts):
    """Drafts that nobody would say."""
    return [3] * num_drafts


def always_accept(target_probs, draft_probs, draft_token_ids, accept_random):
    """Whatever was drafted is right."""
    from minivllm.spec_decode.rejection_sampler import rejection_sample

    rule = rejection_sample(target_probs, draft_probs, draft_token_ids, accept_random)
    return draft_token_ids >= 0, rule[1]
