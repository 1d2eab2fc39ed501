"""A state machine: whatever is admitted, forked, extended, preempted and freed, keys are where the table says.

The model is a toy memory. What a real layer writes for a token depends on all tokens before it, so the toy writes the
whole prefix into the slot; reading a request back through its block table must give its own prefixes, and nobody
else's.
"""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from minivllm.core.kv_cache_manager import KVCacheManager
from minivllm.request import Request
from minivllm.sampling_params import SamplingParams


class PagedMemory(RuleBasedStateMachine):
    live = Bundle("live")

    @initialize(num_blocks=st.integers(4, 14), block_size=st.integers(1, 4), caching=st.booleans())
    def build(self, num_blocks, block_size, caching):
        self.manager = KVCacheManager(num_blocks, block_size, caching)
        self.memory = {}
        self.alive = {}
        self.count = 0
        self.next_token = 1000

    def compute(self, request, num_tokens, computed=()):
        """Allocate, copy, write, cache: one step for one request. False when there is no room."""
        before = {name: table.block_ids for name, table in self.manager.tables().items()}
        free_before = self.manager.pool.num_free_blocks
        if self.manager.allocate_slots(request, num_tokens, computed) is None:
            assert before == {name: table.block_ids for name, table in self.manager.tables().items()}
            assert free_before == self.manager.pool.num_free_blocks
            return False
        B = self.manager.block_size
        copies = self.manager.take_operations().copy
        assert len(copies) <= 1
        for source, target in copies:
            for offset in range(B):
                self.memory[target * B + offset] = self.memory.get(source * B + offset)
        start = request.num_computed_tokens or len(computed) * B
        tokens = request.all_token_ids
        table = self.manager.tables()[request.request_id]
        for position in range(start, start + num_tokens):
            self.memory[table.slot(position)] = tuple(tokens[: position + 1])
        request.num_computed_tokens = start + num_tokens
        self.manager.cache_blocks(request, request.num_computed_tokens)
        return True

    def new_request(self, tokens):
        self.count += 1
        return Request(f"r{self.count}", tokens, SamplingParams())

    def fresh_token(self):
        self.next_token += 1
        return self.next_token

    @rule(target=live, prompt=st.lists(st.integers(0, 1), min_size=1, max_size=12), cut=st.integers(0, 12))
    def admit(self, prompt, cut):
        request = self.new_request(prompt)
        computed = self.manager.get_computed_blocks(request)
        left = len(prompt) - len(computed) * self.manager.block_size
        assert left >= 1
        if self.compute(request, min(left, max(1, cut)), computed):
            self.alive[request.request_id] = request
        return request

    @rule(request=live, burst=st.integers(1, 6))
    def extend(self, request, burst):
        if request.request_id not in self.alive:
            return
        for _ in range(burst):
            owed = request.num_tokens - request.num_computed_tokens
            if owed == 0:
                request.append_output_token(self.fresh_token())
                owed = 1
            if not self.compute(request, owed):
                return

    @rule(target=live, parent=live)
    def fork(self, parent):
        if parent.request_id not in self.alive:
            return parent
        child = self.new_request(parent.all_token_ids[: parent.num_computed_tokens])
        free_before = self.manager.pool.num_free_blocks
        self.manager.fork(parent, child, parent.num_computed_tokens)
        assert self.manager.pool.num_free_blocks == free_before  # a fork copies nothing
        child.append_output_token(self.fresh_token())
        self.alive[child.request_id] = child
        return child

    @rule(request=live)
    def preempt_and_resume(self, request):
        if request.request_id not in self.alive:
            return
        self.manager.free(request)
        request.num_computed_tokens = 0
        computed = self.manager.get_computed_blocks(request)
        left = request.num_tokens - len(computed) * self.manager.block_size
        if not self.compute(request, left, computed):
            self.manager.forget(self.alive.pop(request.request_id))

    @rule(request=consumes(live))
    def finish(self, request):
        if self.alive.pop(request.request_id, None) is not None:
            self.manager.forget(request)

    @rule()
    def reset(self):
        in_use = any(len(table) for table in self.manager.tables().values())
        assert self.manager.reset_prefix_cache() == (not in_use)

    @invariant()
    def no_block_is_lost(self):
        if not hasattr(self, "manager"):
            return
        self.manager.check_integrity()
        held = {block.block_id for table in self.manager.tables().values() for block in table}
        assert len(held) + self.manager.pool.num_free_blocks == self.manager.pool.num_blocks - 1
        assert 0 not in held

    @invariant()
    def every_token_is_where_the_table_says(self):
        for request in getattr(self, "alive", {}).values():
            tokens = request.all_token_ids
            table = self.manager.tables()[request.request_id]
            for position in range(request.num_computed_tokens):
                assert self.memory[table.slot(position)] == tuple(tokens[: position + 1])


PagedMemory.TestCase.settings = settings(max_examples=150, stateful_step_count=40)
TestPagedMemory = PagedMemory.TestCase
