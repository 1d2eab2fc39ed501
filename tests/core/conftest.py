"""A worker without a model: it keeps the memory that the block tables promise, and samples from the tokens alone."""

import hashlib

import pytest

from minivllm.core.kv_cache_manager import KVCacheManager
from minivllm.core.scheduler import Scheduler, SchedulerConfig
from minivllm.request import Request
from minivllm.sampling_params import SamplingParams


def next_token(tokens, seed=0):
    """What the toy model says after `tokens`: a function of all of them, and of the seed."""
    digest = hashlib.sha256(repr((list(tokens), seed)).encode()).digest()
    return digest[0] % 5


class ToyWorker:
    """Executes SchedulerOutputs. A slot holds the whole prefix of its token, as a layer's keys depend on it.

    Reading a request's context through its table must give exactly its own prefixes; anything else is an
    AssertionError.
    """

    def __init__(self, block_size, window=None):
        self.block_size = block_size
        self.window = window
        self.memory, self.swap = {}, {}
        self.tables, self.tokens, self.requests = {}, {}, {}
        self.num_computed = {}
        self.num_moved = {"swap_out": 0, "swap_in": 0, "copy": 0}

    def move(self, name, pairs, source, target):
        self.num_moved[name] += len(pairs)
        read = [[source.get(s * self.block_size + o) for o in range(self.block_size)] for s, _ in pairs]
        for content, (_, t) in zip(read, pairs, strict=True):
            for offset, value in enumerate(content):
                target[t * self.block_size + offset] = value

    def execute(self, output):
        for name in (*output.finished_request_ids, *output.preempted_request_ids):
            for store in (self.tables, self.tokens, self.requests):
                store.pop(name, None)
        for new in output.new_requests:
            name = new.request.request_id
            assert name not in self.tables, "a request is announced twice"
            self.tables[name], self.tokens[name] = list(new.block_ids), list(new.token_ids)
            self.requests[name] = new.request
        for name, updates in output.block_updates.items():
            for index, block in updates:
                table = self.tables[name]
                table.extend([0] * (index + 1 - len(table)))
                table[index] = block
        operations = output.block_operations
        self.move("swap_out", operations.swap_out, self.memory, self.swap)
        self.move("swap_in", operations.swap_in, self.swap, self.memory)
        self.move("copy", operations.copy, self.memory, self.memory)
        for name, count in output.num_scheduled_tokens.items():
            start = output.num_computed_tokens[name]
            for position in range(start, start + count):
                self.memory[self.slot(name, position)] = tuple(self.tokens[name][: position + 1])
        return {
            name: self.sample(name, output)
            for name in output.num_scheduled_tokens
            if self.is_done(name, output)
        }

    def slot(self, name, position):
        index, offset = divmod(position, self.block_size)
        block = self.tables[name][index]
        assert block != 0, "a live position lies in the null block"
        return block * self.block_size + offset

    def is_done(self, name, output):
        end = output.num_computed_tokens[name] + output.num_scheduled_tokens[name]
        first = 0 if self.window is None else max(0, end - self.window)
        for position in range(first, end):  # attention reads the whole context
            assert self.memory[self.slot(name, position)] == tuple(self.tokens[name][: position + 1]), (
                f"{name} reads somebody else's keys at position {position}"
            )
        return end == len(self.tokens[name])

    def sample(self, name, output):
        token = next_token(self.tokens[name], self.requests[name].seed)
        self.tokens[name].append(token)
        return [token]


class Toy:
    """A scheduler, its manager and a ToyWorker, stepped together with the integrity checked after each step."""

    def __init__(self, num_blocks=20, block_size=2, caching=True, window=None, num_swap_blocks=0, **config):
        self.manager = KVCacheManager(
            num_blocks, block_size, caching, window=window, num_swap_blocks=num_swap_blocks
        )
        self.scheduler = Scheduler(SchedulerConfig(**({"max_model_len": 64} | config)), self.manager)
        self.worker = ToyWorker(block_size, window)
        self.requests = {}
        self.history = []

    def add(self, name, prompt, max_tokens=4, **fields):
        request = Request(
            name, list(prompt), SamplingParams(max_tokens=max_tokens), max_tokens=max_tokens, **fields
        )
        self.scheduler.add_request(request)
        self.requests[name] = request
        return request

    def step(self):
        output = self.scheduler.schedule()
        self.manager.check_integrity()
        self.history.append(output)
        self.scheduler.update_from_output(output, self.worker.execute(output))
        self.manager.check_integrity()
        return output

    def run(self, max_steps=2000):
        while self.scheduler.has_unfinished_requests():
            assert len(self.history) < max_steps, "no progress"
            self.step()
        assert self.manager.pool.num_free_blocks == self.manager.pool.num_blocks - 1
        assert self.manager.swap_space.pool.num_free_blocks == self.manager.swap_space.pool.num_blocks - 1

    def check_outputs(self):
        """Every finished request said what it would have said alone."""
        for request in self.requests.values():
            tokens = list(request.prompt_token_ids)
            for said in request.output_token_ids:
                assert said == next_token(tokens, request.seed)
                tokens.append(said)


@pytest.fixture
def toy():
    """The class Toy (tests are no package, so it cannot be imported by name)."""
    return Toy


@pytest.fixture(scope="session")
def toy_class():
    return Toy
