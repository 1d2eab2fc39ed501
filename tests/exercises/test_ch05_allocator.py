"""Grader of chapter 05: allocator, reference counts, copy-on-write.

The oracle is bookkeeping with plain lists and dicts: which ids are free, in which order, and who holds what.
"""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from minivllm.core.block import KVCacheBlock
from minivllm.course.grading import LawBroken, compare

BLOCK = "from minivllm.core.block import KVCacheBlock"
TOY = "from minivllm.course.toy_memory import ToyMemory"
POOL = "from minivllm.core.block_pool import BlockPool"
TABLE = "from minivllm.core.block_table import BlockTable"


# -- 5.1 ---------------------------------------------------------------------------------------------------------------

STORY = [  # (what happens, the prediction that is due then, what it is compared with)
    ("memory.write('parent', *range(10))", "blocks_before_fork", "memory.num_held", "before"),
    ("memory.fork('parent', 'child')", "blocks_after_fork", "memory.num_held", "fork"),
    ("last = memory.tables['parent'][-1]", "references_to_last_block", "last.ref_cnt", "references"),
    ("memory.write('child', 100)", "blocks_after_first_write", "memory.num_held", "first_write"),
    ("memory.write('parent', 200)", "blocks_after_second_write", "memory.num_held", "second_write"),
    ("memory.end('child')", "blocks_after_child_ends", "memory.num_held", "end"),
]


@pytest.mark.exercise("5.1", "smoke")
def test_every_prediction_is_a_whole_number(impl):
    for name in impl.exercise.names:
        assert isinstance(getattr(impl, name)(), int), f"{name}() should return a whole number"


@pytest.mark.exercise("5.1", "examples")
def test_the_story(impl):
    history = impl.history(*impl.exercise.names, imports=[TOY])
    history.run("memory = ToyMemory(num_blocks=16, block_size=4)")
    history.run("memory.begin('parent')")
    for line, prediction, truth, law in STORY:
        history.run(line)
        history.check(f"{prediction}() == {truth}", law, lambda: tables_picture(history.value("memory")))
        print(f"after {line}\n{tables_picture(history.value('memory'))}\n")


def tables_picture(memory):
    """Each request's blocks, and the reference counts of all."""
    rows = [
        f"{name:<8}{' '.join(f'[{i:>2}]' for i in table.block_ids)}" for name, table in memory.tables.items()
    ]
    counts = [f"{block.block_id}: {block.ref_cnt}" for block in memory.pool.blocks if block.ref_cnt]
    return "\n".join([*rows, "references  " + ", ".join(counts)])


# -- 5.2 ---------------------------------------------------------------------------------------------------------------


def ids(blocks):
    return [block.block_id for block in blocks]


def new_queue(impl, num_blocks, num_queued=0):
    history = impl.history("FreeBlockQueue", imports=[BLOCK])
    history.run(f"block = [KVCacheBlock(i) for i in range({num_blocks})]")
    history.run(f"queue = FreeBlockQueue(block[:{num_queued}])")
    return history


def check_queue(history, expected):
    """The queue holds `expected` in this order, read forwards and, by the links, backwards."""
    queue = history.value("queue")

    def picture():
        return compare({"place": range(1, 9), "expected": expected, "yours": first(queue, 9)})

    history.check(f"queue.num_free_blocks == {len(expected)}", "count", picture)
    limit = len(expected) + 1  # a broken link can make a circle
    history.check(f"[b.block_id for b, _ in zip(queue, range({limit}))] == {expected}", "order", picture)
    for number in range(len(history.namespace["block"])):
        if number not in expected:
            text = f"(block[{number}].prev_free, block[{number}].next_free) == (None, None)"
            history.check(text, "outside", picture)


def first(blocks, count):
    return [block.block_id for block, _ in zip(blocks, range(count), strict=False)]


@pytest.mark.exercise("5.2", "smoke")
def test_one_block_goes_in_and_comes_out(impl):
    history = new_queue(impl, 1)
    history.run("queue.append(block[0])")
    check_queue(history, [0])
    history.run("taken = queue.popleft()")
    history.check("taken is block[0]", "order")
    check_queue(history, [])


@pytest.mark.exercise("5.2", "examples")
@pytest.mark.parametrize(
    "lines, expected",
    [
        (["queue.append(block[3])", "queue.prepend(block[4])"], [4, 0, 1, 2, 3]),
        (["queue.remove(block[1])"], [0, 2]),
        (["queue.remove(block[0])", "queue.remove(block[2])", "queue.append(block[0])"], [1, 0]),
    ],
)
def test_worked_queues(impl, lines, expected):
    history = new_queue(impl, 5, num_queued=3)
    for line in lines:
        history.run(line)
    check_queue(history, expected)
    print(f"{'; '.join(lines)}\n{compare({'place': range(1, 9), 'expected': expected, 'yours': expected})}\n")


@pytest.mark.exercise("5.2", "examples")
def test_misuse_is_refused(impl):
    history = new_queue(impl, 2)
    history.refuses("queue.popleft()", "misuse")
    history.refuses("queue.remove(block[0])", "misuse")
    history.run("queue.append(block[0])")
    history.refuses("queue.append(block[0])", "misuse")
    history.refuses("queue.prepend(block[0])", "misuse")
    check_queue(history, [0])


@pytest.mark.exercise("5.2", "properties")
@settings(max_examples=100)
@given(
    st.lists(
        st.tuples(st.sampled_from(["append", "prepend", "popleft", "remove"]), st.integers(0, 5)), max_size=25
    )
)
def test_the_queue_is_a_list(impl, operations):
    history, model = new_queue(impl, 6), []
    for name, i in operations:
        if name == "popleft" and model:
            history.run("taken = queue.popleft()")
            history.check(f"taken.block_id == {model.pop(0)}", "order")
        elif name == "remove" and i in model:
            history.run(f"queue.remove(block[{i}])")
            model.remove(i)
        elif name in ("append", "prepend") and i not in model:
            history.run(f"queue.{name}(block[{i}])")
            model.insert(len(model) if name == "append" else 0, i)
        check_queue(history, model)


class CountingBlock(KVCacheBlock):
    """A block that counts how often its links are read and how often it is compared."""

    __slots__ = ()
    steps = 0

    @property
    def prev_free(self):
        CountingBlock.steps += 1
        return KVCacheBlock.prev_free.__get__(self)

    @prev_free.setter
    def prev_free(self, block):
        KVCacheBlock.prev_free.__set__(self, block)

    @property
    def next_free(self):
        CountingBlock.steps += 1
        return KVCacheBlock.next_free.__get__(self)

    @next_free.setter
    def next_free(self, block):
        KVCacheBlock.next_free.__set__(self, block)

    def __eq__(self, other):
        CountingBlock.steps += 1
        return self is other

    __hash__ = KVCacheBlock.__hash__


@pytest.mark.exercise("5.2", "budget")
def test_no_operation_walks_along_the_queue(impl):
    history = impl.history("FreeBlockQueue")
    history.namespace["block"] = [CountingBlock(i) for i in range(1000)]
    history.program.append("# block: 1,000 blocks that count how often their links are read")
    history.run("queue = FreeBlockQueue(block)")
    for line in (
        "queue.remove(block[500])",
        "queue.popleft()",
        "queue.append(block[500])",
        "queue.prepend(block[0])",
    ):
        CountingBlock.steps = 0
        history.run(line)
        history.namespace["steps"] = CountingBlock.steps
        history.check(
            "steps <= 20", "constant", f"{line} took {CountingBlock.steps} steps, in a queue of 1,000."
        )


# -- 5.3 ---------------------------------------------------------------------------------------------------------------


class PoolModel:
    """What a pool should look like: free ids in order, references, and which ids have findable content."""

    def __init__(self, num_blocks):
        self.refs = [0] * num_blocks
        self.free = list(range(1, num_blocks))
        self.cached = set()

    def take(self, count):
        taken, self.free = self.free[:count], self.free[count:]
        for i in taken:
            self.refs[i] = 1
        self.cached -= set(taken)
        return taken

    def touch(self, block_ids):
        for i in block_ids:
            if self.refs[i] == 0 and i != 0:
                self.free.remove(i)
            self.refs[i] += i != 0

    def give_back(self, block_ids):
        unfindable = []
        for i in block_ids:
            self.refs[i] -= i != 0
            if self.refs[i] == 0 and i != 0:
                (self.free if i in self.cached else unfindable).append(i)
        self.free = unfindable + self.free

    def picture(self, pool):
        found = first(pool.free_queue, len(self.refs) + 1)
        numbers = {
            "block": range(len(self.refs)),
            "expected": self.refs,
            "yours": [b.ref_cnt for b in pool.blocks],
        }
        queue = {"place": range(1, len(self.refs) + 1), "expected": self.free, "yours": found}
        return f"references\n{compare(numbers)}\n\nfree queue\n{compare(queue)}"


def new_pool(impl, num_blocks):
    history = impl.history("BlockPool")
    history.run(f"pool = BlockPool(num_blocks={num_blocks})")
    return history, PoolModel(num_blocks)


def check_pool(history, model):
    def picture():
        return model.picture(history.value("pool"))

    history.check(
        "pool.null_block.ref_cnt == 0 and pool.null_block not in list(pool.free_queue)", "null", picture
    )
    history.check(f"[block.ref_cnt for block in pool.blocks] == {model.refs}", "references", picture)
    free = "sorted(block.block_id for block in pool.free_queue)"
    history.check(f"{free} == {sorted(model.free)}", "conservation", picture)
    history.check(f"[block.block_id for block in pool.free_queue] == {model.free}", "order", picture)
    history.check(f"pool.num_free_blocks == {len(model.free)}", "conservation", picture)


@pytest.mark.exercise("5.3", "smoke")
def test_two_blocks_out_and_back(impl):
    history, model = new_pool(impl, 4)
    history.run("a = pool.get_new_blocks(2)")
    model.take(2)
    history.check("[block.block_id for block in a] == [1, 2]", "order")
    check_pool(history, model)
    history.run("pool.free_blocks(reversed(a))")
    model.give_back([2, 1])
    check_pool(history, model)


@pytest.mark.exercise("5.3", "examples")
def test_a_shared_block_stays_until_its_last_holder_is_gone(impl):
    history, model = new_pool(impl, 4)
    history.run("a = pool.get_new_blocks(2)")
    history.run("pool.touch(a)   # a fork: a second table with the same blocks")
    history.run("pool.free_blocks(reversed(a))")
    model.refs, model.free = [0, 1, 1, 0], [3]
    check_pool(history, model)
    print(f"one of two holders is gone\n{model.picture(history.value('pool'))}\n")


@pytest.mark.exercise("5.3", "examples")
def test_useful_content_is_reused_last_and_can_come_back(impl):
    history, model = new_pool(impl, 6)
    history.run("a = pool.get_new_blocks(3)")
    history.run("pool.cache_full_block(a[0], b'the cat')")
    history.run("pool.free_blocks(reversed(a))")
    model.refs, model.free = [0] * 6, [3, 2, 4, 5, 1]
    check_pool(history, model)
    print(f"block 1 can still be found, 2 and 3 cannot\n{model.picture(history.value('pool'))}\n")
    history.run("pool.touch([pool.get_cached_block(b'the cat')])")
    model.refs[1], model.free = 1, [3, 2, 4, 5]
    check_pool(history, model)


@pytest.mark.exercise("5.3", "examples")
def test_a_new_owner_ends_the_old_content(impl):
    history, model = new_pool(impl, 3)
    history.run("a = pool.get_new_blocks(1)")
    history.run("pool.cache_full_block(a[0], b'the cat')")
    history.run("pool.free_blocks(a)")
    history.check("pool.get_cached_block(b'the cat') is a[0]", "forget")
    history.run("b = pool.get_new_blocks(2)")
    history.check("pool.get_cached_block(b'the cat') is None", "forget")
    history.check("a[0].block_hash is None", "forget")
    model.refs, model.free = [0, 1, 1], []
    check_pool(history, model)


@pytest.mark.exercise("5.3", "examples")
def test_misuse_of_the_pool_is_refused(impl):
    history, model = new_pool(impl, 3)
    history.refuses("pool.get_new_blocks(3)", "atomic", lambda: model.picture(history.value("pool")))
    check_unchanged(history, model)
    history.run("a = pool.get_new_blocks(1)")
    history.run("pool.free_blocks(a)")
    history.refuses("pool.free_blocks(a)", "misuse")
    history.run("pool.free_blocks([pool.null_block])   # allowed, and changes nothing")
    history.run("pool.touch([pool.null_block])   # allowed, and changes nothing")
    check_pool(history, model)


def check_unchanged(history, model):
    def picture():
        return model.picture(history.value("pool"))

    history.check(f"[block.block_id for block in pool.free_queue] == {model.free}", "atomic", picture)
    history.check(f"[block.ref_cnt for block in pool.blocks] == {model.refs}", "atomic", picture)


def pool_machine(impl):
    """Tables of blocks that are taken, shared, cached, given back and found again."""

    class Machine(RuleBasedStateMachine):
        def __init__(self):
            super().__init__()
            self.history, self.model = new_pool(impl, 7)
            self.tables = {}
            self.count = 0

        def name(self, letter):
            self.count += 1
            return f"{letter}{self.count}"

        @rule(count=st.integers(1, 4))
        def take(self, count):
            name = self.name("t")
            if count > len(self.model.free):
                self.history.refuses(f"pool.get_new_blocks({count})", "atomic")
                check_unchanged(self.history, self.model)
                return
            self.history.run(f"{name} = pool.get_new_blocks({count})")
            self.tables[name] = self.model.take(count)
            self.history.check(f"[block.block_id for block in {name}] == {self.tables[name]}", "order")

        @precondition(lambda self: self.tables)
        @rule(data=st.data(), length=st.integers(1, 4))
        def share(self, data, length):
            parent, name = data.draw(st.sampled_from(sorted(self.tables))), self.name("t")
            self.history.run(f"{name} = {parent}[:{length}]")
            self.history.run(f"pool.touch({name})")
            self.tables[name] = self.tables[parent][:length]
            self.model.touch(self.tables[name])

        @precondition(lambda self: self.tables)
        @rule(data=st.data())
        def cache(self, data):
            name = data.draw(st.sampled_from(sorted(self.tables)))
            block_id = data.draw(st.sampled_from(self.tables[name]))
            if block_id not in self.model.cached:
                self.history.run(f"pool.cache_full_block(pool.blocks[{block_id}], b'content of {block_id}')")
                self.model.cached.add(block_id)

        @precondition(lambda self: self.tables)
        @rule(data=st.data())
        def give_back(self, data):
            name = data.draw(st.sampled_from(sorted(self.tables)))
            self.history.run(f"pool.free_blocks(reversed({name}))")
            self.model.give_back(reversed(self.tables.pop(name)))

        @precondition(lambda self: self.model.cached)
        @rule(data=st.data())
        def find_again(self, data):
            block_id = data.draw(st.sampled_from(sorted(self.model.cached)))
            name = self.name("t")
            self.history.run(f"{name} = [pool.get_cached_block(b'content of {block_id}')]")
            self.history.check(f"{name}[0] is pool.blocks[{block_id}]", "forget")
            self.history.run(f"pool.touch({name})")
            self.tables[name] = [block_id]
            self.model.touch([block_id])

        @invariant()
        def the_pool_is_as_the_model(self):
            check_pool(self.history, self.model)
            for block_id in range(1, 7):
                if block_id not in self.model.cached:
                    self.history.check(f"pool.get_cached_block(b'content of {block_id}') is None", "forget")

    return Machine


@pytest.mark.exercise("5.3", "properties")
def test_any_history_of_the_pool(impl):
    run_state_machine_as_test(pool_machine(impl), settings=settings(max_examples=40, stateful_step_count=20))


class CountingList(list):
    """The pool's list of all blocks, which counts how many of them are looked at."""

    steps = 0

    def __iter__(self):
        for block in super().__iter__():
            self.steps += 1
            yield block

    def __getitem__(self, index):
        self.steps += 1
        return super().__getitem__(index)


@pytest.mark.exercise("5.3", "budget")
def test_the_pool_does_not_look_at_every_block(impl):
    history, _ = new_pool(impl, 1000)
    blocks = history.namespace["blocks"] = CountingList(history.value("pool").blocks)
    history.program.append("# pool.blocks becomes a list that counts how many of its items are looked at")
    history.value("pool").blocks = blocks
    for line in ("a = pool.get_new_blocks(3)", "pool.touch(a)", "pool.free_blocks(a)", "pool.free_blocks(a)"):
        blocks.steps = 0
        history.run(line)
        history.check("blocks.steps <= 20", "constant", f"{line} looked at {blocks.steps} of 1,000 blocks.")


# -- 5.4 ---------------------------------------------------------------------------------------------------------------


def forked(impl, block_size, num_blocks, num_tokens):
    """A parent table of `num_blocks` blocks, forked after `num_tokens` tokens."""
    history = impl.history("fork_table", imports=[POOL, TABLE])
    history.run(f"pool = BlockPool(num_blocks={num_blocks + 3})")
    history.run(f"parent = BlockTable(block_size={block_size})")
    history.run(f"parent.append(pool.get_new_blocks({num_blocks}))")
    history.run(f"child = fork_table(pool, parent, {num_tokens})")
    return history


def check_fork(history, block_size, num_blocks, num_tokens):
    shared = [1 + i for i in range(-(-num_tokens // block_size))]
    refs = [(i <= num_blocks and i > 0) + (i in shared) for i in range(num_blocks + 3)]

    def picture():
        pool, child = history.value("pool"), history.value("child")
        tables = {"place": range(1, num_blocks + 1), "expected": shared, "yours": ids(child)}
        counts = {"block": range(len(refs)), "expected": refs, "yours": ids_refs(pool)}
        return f"the new table\n{compare(tables)}\n\nreferences\n{compare(counts)}"

    history.check(f"[block.block_id for block in child] == {shared}", "same_blocks", picture)
    history.check("pool.num_free_blocks == 2", "no_copy", picture)
    history.check(f"[block.ref_cnt for block in pool.blocks] == {refs}", "references", picture)
    history.check("child.block_size == parent.block_size", "own_table")
    history.run("child.append(pool.get_new_blocks(1))")
    history.check(f"len(parent) == {num_blocks}", "own_table")
    return picture


def ids_refs(pool):
    return [block.ref_cnt for block in pool.blocks]


@pytest.mark.exercise("5.4", "smoke")
def test_a_fork_is_a_table(impl):
    history = forked(impl, block_size=4, num_blocks=1, num_tokens=4)
    history.check("isinstance(child, BlockTable)", "own_table")


@pytest.mark.exercise("5.4", "examples")
@pytest.mark.parametrize(
    "block_size, num_blocks, num_tokens, what",
    [
        (4, 2, 8, "two full blocks"),
        (4, 3, 10, "the third is half full"),
        (4, 4, 5, "two blocks stay the parent's"),
    ],
)
def test_worked_forks(impl, block_size, num_blocks, num_tokens, what):
    history = forked(impl, block_size, num_blocks, num_tokens)
    picture = check_fork(history, block_size, num_blocks, num_tokens)
    print(f"{num_tokens} tokens, block size {block_size}: {what}\n{picture()}\n")


@pytest.mark.exercise("5.4", "properties")
@settings(max_examples=60)
@given(st.integers(1, 4), st.integers(1, 4), st.data())
def test_any_fork(impl, block_size, num_blocks, data):
    num_tokens = data.draw(st.integers(0, block_size * num_blocks))
    check_fork(forked(impl, block_size, num_blocks, num_tokens), block_size, num_blocks, num_tokens)


# -- 5.5 ---------------------------------------------------------------------------------------------------------------


def new_memory(impl, num_blocks, block_size):
    history = impl.history("shared_blocks", "copy_on_write", imports=[TOY])
    sizes = f"num_blocks={num_blocks}, block_size={block_size}"
    history.run(f"memory = ToyMemory({sizes}, shared_blocks=shared_blocks, copy_on_write=copy_on_write)")
    return history


def check_memory(history, written):
    """Everybody reads what they wrote, and the counts are those of the tables. `written`: name -> tokens."""
    for name, tokens in written.items():
        history.check(
            f"memory.read({name!r}) == {tokens}", "content", lambda: memory_picture(history, written)
        )
    memory = history.value("memory")
    held = [
        sum(ids(table).count(i) for table in memory.tables.values()) for i in range(memory.pool.num_blocks)
    ]
    refs = "[block.ref_cnt for block in memory.pool.blocks]"
    history.check(f"{refs} == {held}", "references", lambda: memory_picture(history, written))


def memory_picture(history, written):
    memory = history.value("memory")
    rows = []
    for name, tokens in written.items():
        table = {"position": range(len(tokens)), "expected": tokens, "yours": memory.read(name)}
        rows.append(f"{name}, in blocks {memory.tables[name].block_ids}\n{compare(table)}")
    counts = {i: block.ref_cnt for i, block in enumerate(memory.pool.blocks) if block.ref_cnt}
    return "\n".join([*rows, f"references by block: {counts}"])


@pytest.mark.exercise("5.5", "smoke")
def test_nothing_is_shared_in_a_single_table(impl):
    history = new_memory(impl, 6, 2)
    history.run("memory.begin('a')")
    history.run("memory.write('a', 1, 2, 3)")
    history.check("list(shared_blocks(memory.tables['a'], 3, 4)) == []", "which")
    history.check("memory.num_copies == 0", "in_place")
    check_memory(history, {"a": [1, 2, 3]})


@pytest.mark.exercise("5.5", "examples")
def test_the_first_writer_copies_and_the_second_does_not(impl):
    history = new_memory(impl, 8, 4)
    history.run("memory.begin('a')")
    history.run("memory.write('a', 1, 2, 3, 4, 5, 6)")
    history.run("memory.fork('a', 'b')")
    history.run("memory.write('b', 100)")
    written = {"a": [1, 2, 3, 4, 5, 6], "b": [1, 2, 3, 4, 5, 6, 100]}
    check_memory(history, written)
    history.check("memory.num_copies == 1", "one_copy", lambda: memory_picture(history, written))
    history.run("memory.write('a', 200)")
    written["a"].append(200)
    check_memory(history, written)
    history.check("memory.num_copies == 1", "in_place", lambda: memory_picture(history, written))
    print(memory_picture(history, written))


@pytest.mark.exercise("5.5", "examples")
@pytest.mark.parametrize(
    "start, stop, expected",
    [(6, 7, [1]), (1, 3, [0]), (3, 5, [0, 1]), (4, 5, [1]), (8, 9, []), (6, 20, [1])],
)
def test_worked_ranges(impl, start, stop, expected):
    history = new_memory(impl, 8, 4)
    history.run("memory.begin('a')")
    history.run("memory.write('a', 1, 2, 3, 4, 5, 6)")
    history.run("memory.fork('a', 'b')   # both blocks have two references")
    history.check(f"list(shared_blocks(memory.tables['b'], {start}, {stop})) == {expected}", "which")
    print(f"positions {start} to {stop - 1}, block size 4, two shared blocks: {expected} need a copy")


@pytest.mark.exercise("5.5", "examples")
def test_a_copy_is_a_pair(impl):
    history = new_memory(impl, 8, 4)
    history.run("memory.begin('a')")
    history.run("memory.write('a', 1, 2, 3, 4, 5, 6)")
    history.run("memory.fork('a', 'b')")
    history.run("(target,) = memory.pool.get_new_blocks(1)")
    history.run("pair = copy_on_write(memory.pool, memory.tables['b'], 1, target)")
    history.check("tuple(pair) == (2, 3)", "pair")
    history.check("memory.tables['b'].block_ids == [1, 3]", "pair")
    history.check("memory.tables['a'].block_ids == [1, 2]", "pair")
    history.check("[block.ref_cnt for block in memory.pool.blocks[:4]] == [0, 2, 1, 1]", "pair")


def sharing_machine(impl):
    """Requests that write in bursts, fork and end; every token is a number that occurs once."""

    class Machine(RuleBasedStateMachine):
        def __init__(self):
            super().__init__()
            self.history = None
            self.written = {}
            self.next_token = 100
            self.count = 0

        def ready(self):
            return self.history is not None

        @precondition(lambda self: self.history is None)
        @rule(num_blocks=st.integers(5, 10), block_size=st.integers(2, 3))
        def build(self, num_blocks, block_size):
            self.history = new_memory(impl, num_blocks, block_size)
            self.begin(burst=block_size + 1)

        def begin(self, burst):
            self.count += 1
            name = f"r{self.count}"
            self.history.run(f"memory.begin({name!r})")
            self.written[name] = []
            self.write(name, burst)

        def write(self, name, burst):
            tokens = [self.next_token + i for i in range(burst)]
            memory = self.history.value("memory")
            before, start = memory.num_copies, len(self.written[name])
            hit = memory.tables[name][start // memory.block_size :]
            due = sum(block.ref_cnt > 1 for block in hit)
            room = memory.pool.num_free_blocks >= memory.tables[name].num_blocks_missing(start + burst) + due
            if not room:
                return
            self.history.run(f"memory.write({name!r}, {', '.join(map(str, tokens))})")
            self.next_token += burst
            self.written[name] += tokens
            copies = f"memory.num_copies - {before}"
            law = "one_copy" if due else "in_place"
            self.history.check(f"{copies} == {due}", law, lambda: memory_picture(self.history, self.written))

        @precondition(ready)
        @rule(burst=st.integers(1, 4))
        def begin_another(self, burst):
            self.begin(burst)

        @precondition(lambda self: self.written)
        @rule(data=st.data(), burst=st.integers(1, 5))
        def write_on(self, data, burst):
            self.write(data.draw(st.sampled_from(sorted(self.written))), burst)

        @precondition(lambda self: self.written)
        @rule(data=st.data(), first_burst=st.integers(1, 4), second_burst=st.integers(1, 4))
        def fork_and_both_write(self, data, first_burst, second_burst):
            parent = data.draw(st.sampled_from(sorted(self.written)))
            self.count += 1
            child = f"r{self.count}"
            self.history.run(f"memory.fork({parent!r}, {child!r})")
            self.written[child] = list(self.written[parent])
            self.write(child, first_burst)
            self.write(parent, second_burst)

        @precondition(lambda self: self.written)
        @rule(data=st.data())
        def end(self, data):
            name = data.draw(st.sampled_from(sorted(self.written)))
            self.history.run(f"memory.end({name!r})")
            del self.written[name]

        @precondition(ready)
        @invariant()
        def everybody_reads_what_they_wrote(self):
            check_memory(self.history, self.written)

    return Machine


@pytest.mark.exercise("5.5", "properties")
def test_any_history_of_sharing(impl):
    run_state_machine_as_test(
        sharing_machine(impl), settings=settings(max_examples=40, stateful_step_count=12)
    )


# -- 5.6 ---------------------------------------------------------------------------------------------------------------

BUGS = [  # (argument of ToyMemory, the code with the bug, what the bug does)
    ("pool_class", "load('5.3', 'mutant:leak').BlockPool", "a freed block joins no queue"),
    (
        "pool_class",
        "load('5.3', 'mutant:frees-while-referenced').BlockPool",
        "a block in use goes to the free queue",
    ),
    ("pool_class", "load('5.3', 'mutant:touch-counts-nothing').BlockPool", "a second holder is not counted"),
    (
        "pool_class",
        "load('5.3', 'mutant:touch-leaves-it-free').BlockPool",
        "a block found again stays in the free queue",
    ),
    (
        "pool_class",
        "load('5.3', 'mutant:hands-out-the-null-block').BlockPool",
        "the null block is in the free queue",
    ),
    (
        "pool_class",
        "load('5.3', 'solutions+mutant:count-stands-still').BlockPool",
        "the queue does not count down",
    ),
    ("fork_table", "load('5.4', 'mutant:takes-no-reference').fork_table", "a fork takes no reference"),
    (
        "copy_on_write",
        "load('5.5', 'mutant:keeps-the-old-reference').copy_on_write",
        "the old block is never given back",
    ),
]
HISTORY = [
    "memory.begin('a')",
    "memory.write('a', 1, 2, 3, 4, 5)",
    "memory.fork('a', 'b')",
    "memory.write('b', 6)",
    "memory.pool.cache_full_block(memory.tables['a'][0], b'1 2')",
    "memory.end('b')",
    "memory.end('a')",
    "memory.begin('c')",
    "memory.tables['c'].append([memory.pool.get_cached_block(b'1 2')]); memory.pool.touch(memory.tables['c'])",
]
CHECK = "check_integrity(memory.pool, memory.tables.values())"


def watched(impl, argument="pool_class", code="BlockPool"):
    """A history with a ToyMemory in which one argument may have a bug, and the learner's check."""
    history = impl.history("check_integrity", imports=[TOY, POOL])
    history.run(f"memory = ToyMemory(num_blocks=8, block_size=2, {argument}={code})")
    return history


@pytest.mark.exercise("5.6", "smoke")
def test_it_keeps_quiet_on_a_fresh_pool(impl):
    expect_quiet(watched(impl))


def keeps_quiet(history, lines):
    for line in lines:
        history.run(line)
        expect_quiet(history)


def expect_quiet(history):
    def picture():
        return tables_picture(memory)

    memory = history.value("memory")
    before = (ids(memory.pool.free_queue), ids_refs(memory.pool), memory.pool.num_free_blocks)
    if history.is_refused(CHECK):
        history.fail("no_false_alarm", "Your check raised an AssertionError.", [CHECK], picture)
    if before != (ids(memory.pool.free_queue), ids_refs(memory.pool), memory.pool.num_free_blocks):
        history.fail("no_change", "The pool is another one after your check.", [CHECK], picture)


@pytest.mark.exercise("5.6", "examples")
def test_it_keeps_quiet_along_a_correct_history(impl):
    history = watched(impl)
    keeps_quiet(history, HISTORY)
    history.run("memory.tables['c'].append([memory.pool.null_block])")
    expect_quiet(history)
    print(f"no alarm:\n{tables_picture(history.value('memory'))}\n")


@pytest.mark.exercise("5.6", "examples")
@pytest.mark.parametrize(
    "damage",
    [
        "memory.tables['a'][1].ref_cnt += 1",
        "memory.tables['a'][0].ref_cnt = 0",
        "memory.pool.free_queue.popleft()",
        "memory.pool.free_queue.append(memory.pool.null_block)",
    ],
)
def test_it_sees_damage_done_by_hand(impl, damage):
    history = watched(impl)
    keeps_quiet(history, HISTORY[:2])
    history.run(damage)
    history.refuses(CHECK, "catches", lambda: tables_picture(history.value("memory")))
    print(f"caught: {damage}")


@pytest.mark.exercise("5.6", "properties")
@settings(max_examples=30)
@given(
    st.lists(st.tuples(st.sampled_from(["begin", "write", "fork", "end"]), st.integers(0, 9)), max_size=15)
)
def test_it_keeps_quiet_along_any_correct_history(impl, steps):
    history = watched(impl)
    names = []
    for number, (what, i) in enumerate(steps):
        if what == "begin" or not names:
            names.append(f"r{number}")
            keeps_quiet(history, [f"memory.begin('r{number}')"])
            continue
        name = names[i % len(names)]
        if what == "fork":
            names.append(f"r{number}")
            keeps_quiet(history, [f"memory.fork({name!r}, 'r{number}')"])
        elif what == "end":
            names.remove(name)
            keeps_quiet(history, [f"memory.end({name!r})"])
        else:
            keeps_quiet(history, [f"memory.write({name!r}, {', '.join(map(str, range(i + 1)))})"])


@pytest.mark.exercise("5.6", "properties")
def test_it_catches_all_eight_bugs(impl):
    survivors = {
        what: history for argument, code, what in BUGS if (history := survives(impl, argument, code))
    }
    if survivors:
        what, history = next(iter(survivors.items()))
        finding = (
            f"{len(BUGS) - len(survivors)} of {len(BUGS)} bugs caught. Not caught: {'; '.join(survivors)}."
        )
        line = f"{CHECK}  # should have raised by now: {what}"
        history.fail("catches", finding, [line], lambda: tables_picture(history.value("memory")))


def survives(impl, argument, code):
    """Run the history with a bug until the check raises. The history, if it never does."""
    history = watched(impl, argument, code)
    for line in HISTORY:
        try:
            history.run(line)
        except LawBroken:  # the bug has brought the memory down, and the check had not seen it coming
            return history
        if history.is_refused(CHECK):
            return None
    return history
