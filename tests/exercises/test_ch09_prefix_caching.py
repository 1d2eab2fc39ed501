"""Grader of chapter 09: prefix caching.

The oracles: two hashes are compared as the token lists that they stand for, a hit with a list of what is cached, the
eviction order with the free queue of a real manager, and what a request says with what it says alone.
"""

from collections import defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minivllm.core.kv_cache_manager import KVCacheManager
from minivllm.course.grading import compare
from minivllm.course.toy_engine import said_alone
from minivllm.request import Request
from minivllm.sampling_params import SamplingParams

TOY = "from minivllm.course.toy_engine import ToyEngine"
ENGINE = [
    "from functools import partial",
    "from minivllm.core.kv_cache_manager import KVCacheManager",
    "from minivllm.parts import Parts",
    TOY,
]
BLOCK = "from minivllm.core.block import KVCacheBlock"


# -- engines that the graded code runs in ------------------------------------------------------------------------------


@st.composite
def loads(draw, max_size=5):
    """(name, prompt, max_tokens, step of its arrival): prompts of few different tokens, so that they share prefixes."""
    prompts = st.lists(st.integers(1, 2), min_size=1, max_size=9)
    jobs = st.tuples(prompts, st.integers(1, 4), st.integers(0, 5))
    drawn = sorted(draw(st.lists(jobs, min_size=1, max_size=max_size)), key=lambda job: job[2])
    return [(chr(ord("a") + i), *job) for i, job in enumerate(drawn)]


def engine_with(impl, part, **fields):
    """A history with a toy engine in which the graded function is the part of its own name."""
    history = impl.history(part, imports=ENGINE)
    history.run(f"manager = partial(KVCacheManager, parts=Parts({part}={part}))")
    history.run(f"engine = ToyEngine(manager_class=manager, caching=True, {as_arguments(fields)})")
    return history


def as_arguments(fields):
    return ", ".join(f"{name}={value!r}" for name, value in fields.items())


def timeline(history):
    return lambda: history.value("engine").timeline()


def play(history, load, check=lambda: None, aborts=()):
    """Play `load` to its end; `check()` after each step. `aborts`: (number of the step, who is gone before it)."""
    engine, todo = history.value("engine"), list(load)
    for number in range(80):
        while todo and (todo[0][3] <= number or not engine.unfinished):
            name, prompt, max_tokens, _ = todo.pop(0)
            history.run(f"engine.add({name!r}, {prompt}, max_tokens={max_tokens})")
        for when, name in aborts:
            if when == number and name in engine.unfinished:
                history.run(f"engine.abort({name!r})")
        if not todo and not engine.unfinished:
            return
        history.run("step = engine.step()")
        check()
        history.check("engine.wrong == []", "says", timeline(history))
    if "finish" in history.implementation.exercise.laws:
        history.check("engine.unfinished == []", "finish", timeline(history))
    history.check("engine.unfinished == []", "says", timeline(history))


def check_outputs(history, load, gone=()):
    for name, prompt, max_tokens, _ in load:
        if name not in gone:
            said = said_alone(prompt, max_tokens)
            history.check(f"engine.outputs[{name!r}] == {said}", "says", timeline(history))


# -- 9.1 ---------------------------------------------------------------------------------------------------------------


def new_hashes(impl):
    return impl.history("ROOT_HASH", "hash_block_tokens")


@pytest.mark.exercise("9.1", "smoke")
def test_a_hash_is_bytes(impl):
    history = new_hashes(impl)
    history.run("h = hash_block_tokens(ROOT_HASH, [1, 2, 3, 4])")
    history.check("isinstance(h, bytes)", "bytes")
    history.check("len(h) >= 16", "bytes")
    history.check("hash_block_tokens(ROOT_HASH, [1, 2, 3, 4]) == h", "equal")


@pytest.mark.exercise("9.1", "examples")
@pytest.mark.parametrize(
    "one, other, law",
    [
        ("ROOT_HASH, [1, 2, 3, 4]", "ROOT_HASH, [1, 2, 3, 5]", "tokens"),
        ("ROOT_HASH, [1, 2, 3, 4]", "ROOT_HASH, [5, 2, 3, 4]", "tokens"),
        ("ROOT_HASH, [1, 2, 3, 4]", "ROOT_HASH, [2, 1, 3, 4]", "tokens"),
        ("ROOT_HASH, [1, 23]", "ROOT_HASH, [12, 3]", "tokens"),
        ("ROOT_HASH, [7, 7]", "ROOT_HASH, [7, 7 + 256]", "tokens"),
        ("ROOT_HASH, [7, 7]", "ROOT_HASH, [7, 7 + 65536]", "tokens"),
        ("b'one parent', [1, 2]", "b'other parent', [1, 2]", "parent"),
        ("ROOT_HASH, [1, 2], ['tenant-1']", "ROOT_HASH, [1, 2], ['tenant-2']", "keys"),
        ("ROOT_HASH, [1, 2], ['tenant-1']", "ROOT_HASH, [1, 2]", "keys"),
        ("ROOT_HASH, [1, 2], ['ab', 'c']", "ROOT_HASH, [1, 2], ['a', 'bc']", "keys"),
        ("ROOT_HASH, [1, 2], ['a', 'b']", "ROOT_HASH, [1, 2], ['b', 'a']", "keys"),
        ("ROOT_HASH, [1, 2], ['a', 'a']", "ROOT_HASH, [1, 2], ['a']", "keys"),
        ("ROOT_HASH, [1, 2], ['']", "ROOT_HASH, [1, 2]", "keys"),
    ],
)
def test_worked_differences(impl, one, other, law):
    history = new_hashes(impl)
    history.check(f"hash_block_tokens({one}) != hash_block_tokens({other})", law)
    for arguments in (one, other):
        print(f"{history.value(f'hash_block_tokens({arguments})').hex()[:16]}...  {arguments}")


@pytest.mark.exercise("9.1", "examples")
def test_any_kind_of_sequence_will_do(impl):
    history = new_hashes(impl)
    history.run("h = hash_block_tokens(ROOT_HASH, [4, 5, 6], ['k'])")
    history.check("hash_block_tokens(ROOT_HASH, (4, 5, 6), ('k',)) == h", "equal")
    history.check("hash_block_tokens(ROOT_HASH, range(4, 7), ['k']) == h", "equal")
    history.check("hash_block_tokens(bytes(ROOT_HASH), [4, 5, 6], ['k']) == h", "equal")


@pytest.mark.exercise("9.1", "examples")
def test_small_changes_change_half_of_the_bits(impl):
    history = new_hashes(impl)
    history.run("hashes = [hash_block_tokens(ROOT_HASH, [7, 100 + i]) for i in range(33)]")
    history.check("{len(h) for h in hashes} == {len(hashes[0])}", "spread")
    history.run(
        "changed = [sum((a ^ b).bit_count() for a, b in zip(*pair)) for pair in zip(hashes, hashes[1:])]"
    )
    history.check("0.4 < sum(changed) / (8 * len(hashes[0]) * 32) < 0.6", "spread")


def hash_of_chain(history, name, blocks, keys):
    parent = "ROOT_HASH"
    for index, tokens in enumerate(blocks):
        extra = keys if index == 0 else []
        history.run(f"{name} = hash_block_tokens({parent}, {tokens}, {extra})")
        parent = name


chains = st.lists(st.lists(st.integers(0, 2), min_size=2, max_size=2), min_size=1, max_size=3)
extra_keys = st.lists(st.sampled_from(["", "a", "b", "ab"]), max_size=2)


@pytest.mark.exercise("9.1", "properties")
@settings(max_examples=150)
@given(chains, extra_keys, chains, extra_keys)
def test_equal_hash_is_equal_prefix(impl, blocks, keys, other_blocks, other_keys):
    history = new_hashes(impl)
    hash_of_chain(history, "one", blocks, keys)
    hash_of_chain(history, "other", other_blocks, other_keys)
    same = (blocks, keys) == (other_blocks, other_keys)
    history.check(f"(one == other) == {same}", "prefix")


@pytest.mark.exercise("9.1", "properties")
@settings(max_examples=60)
@given(chains, extra_keys, st.randoms(use_true_random=False))
def test_a_chain_with_its_blocks_in_another_order(impl, blocks, keys, random):
    history, shuffled = new_hashes(impl), list(blocks)
    random.shuffle(shuffled)
    hash_of_chain(history, "one", blocks, keys)
    hash_of_chain(history, "other", shuffled, keys)
    history.check(f"(one == other) == {shuffled == blocks}", "prefix")


@pytest.mark.exercise("9.1", "properties")
@settings(max_examples=30)
@given(loads(), st.integers(2, 3), st.integers(2, 8))
def test_an_engine_with_this_hash(impl, load, block_size, budget):
    history = engine_with(
        impl, "hash_block_tokens", block_size=block_size, max_num_batched_tokens=budget, max_num_seqs=2
    )
    play(history, load)
    check_outputs(history, load)


# -- 9.2 ---------------------------------------------------------------------------------------------------------------


def check_hit(impl, cached, num_tokens, block_size):
    """`cached`: for each full block its reference count, or None where it is not cached."""
    history = impl.history("find_longest_cache_hit", imports=[BLOCK])
    held = [
        f"b'hash {i}': KVCacheBlock({i + 1}, ref_cnt={refs})"
        for i, refs in enumerate(cached)
        if refs is not None
    ]
    history.run(f"cached = {{{', '.join(held)}}}")
    history.run(f"hashes = [b'hash %d' % i for i in range({len(cached)})]")
    history.run("asked = []")
    history.run("look_up = lambda block_hash: asked.append(block_hash) or cached.get(block_hash)")
    history.run(f"hit = find_longest_cache_hit(hashes, {num_tokens}, {block_size}, look_up)")
    history.run("found = [block.block_id for block in hit]")
    chain = [*cached, None].index(None)
    most = min(chain, (num_tokens - 1) // block_size)
    expected = list(range(1, most + 1))

    def picture():
        row = ["-" if refs is None else i + 1 for i, refs in enumerate(cached)]
        found = history.value("found")
        blanks = [""] * (len(cached) - max(most, len(found)))
        hits = {"cached": row, "expected": expected + blanks, "yours": found + blanks}
        return f"{num_tokens} tokens, block size {block_size}\n{compare(hits)}"

    run = list(range(1, chain + 1))
    history.check(f"found == {run}[: len(found)]", "chain", picture)
    history.check(f"len(found) * {block_size} <= {num_tokens} - 1", "left", picture)
    history.check(f"found == {expected}", "longest", picture)
    history.check(f"len(asked) <= {most + 1}", "budget", picture)
    return picture


@pytest.mark.exercise("9.2", "smoke")
def test_nothing_is_cached(impl):
    check_hit(impl, [], 1, 4)


@pytest.mark.exercise("9.2", "examples")
@pytest.mark.parametrize(
    "cached, num_tokens",
    [
        ([0, 0], 9),  # one token is left behind both
        ([0, 0], 8),  # the second block has the last token
        ([0, None, 0], 13),  # a gap
        ([None, 0, 0], 13),  # the first block is gone
        ([2, 0, 1], 15),  # whoever holds them
        ([], 3),
        ([0], 4),
        ([None, None], 9),
    ],
)
def test_worked_hits(impl, cached, num_tokens):
    print(f"{check_hit(impl, cached, num_tokens, 4)()}\n")


@pytest.mark.exercise("9.2", "properties")
@settings(max_examples=120)
@given(st.integers(1, 4), st.data())
def test_any_hit(impl, block_size, data):
    edges = st.sampled_from([block_size, block_size + 1, 2 * block_size, 2 * block_size + 1])
    num_tokens = data.draw(edges | st.integers(1, 5 * block_size))
    num_full = num_tokens // block_size
    refs = st.sampled_from([0, 0, 1, 2, None])
    cached = data.draw(st.lists(refs, min_size=num_full, max_size=num_full))
    check_hit(impl, cached, num_tokens, block_size)


@pytest.mark.exercise("9.2", "properties")
@settings(max_examples=30)
@given(loads(), st.integers(2, 3), st.integers(2, 8))
def test_an_engine_with_these_hits(impl, load, block_size, budget):
    history = engine_with(
        impl, "find_longest_cache_hit", block_size=block_size, max_num_batched_tokens=budget, max_num_seqs=2
    )
    play(history, load)
    check_outputs(history, load)


# -- 9.3 ---------------------------------------------------------------------------------------------------------------


class Story:
    """Requests that come and go on a real manager, and the records of its blocks."""

    def __init__(self, num_blocks, block_size):
        self.manager = KVCacheManager(num_blocks, block_size)
        self.live = {}
        self.freed = dict.fromkeys(range(1, num_blocks), (0, 0))  # block -> (call number, index)
        self.told = [f"{num_blocks - 1} blocks of {block_size}"]
        self.num_freed = 0

    def begin(self, name, tokens):
        """Compute `tokens`, if there is room."""
        request = Request(name, list(tokens), SamplingParams())
        hit = self.manager.get_computed_blocks(request)
        num_new = len(tokens) - len(hit) * self.manager.block_size
        if self.manager.allocate_slots(request, num_new, hit) is not None:
            self.manager.cache_blocks(request, len(tokens))
            self.live[name] = request
            ids = self.manager.block_ids(name)
            self.told.append(f"{name} has {len(tokens)} tokens in blocks {ids}, hit {ids[: len(hit)]}")

    def end(self, name):
        """Give its blocks back."""
        ids = self.manager.block_ids(name)
        self.manager.forget(self.live.pop(name))
        self.num_freed += 1
        blocks = self.manager.pool.blocks
        self.freed |= {i: (self.num_freed, index) for index, i in enumerate(ids) if blocks[i].ref_cnt == 0}
        self.told.append(f"free number {self.num_freed}: {name} gives back {ids}")

    @property
    def queue(self):
        return [block.block_id for block in self.manager.pool.free_queue]

    def records(self):
        """Arguments of BlockRecord."""
        blocks = self.manager.pool.blocks[1:]
        return [(b.block_id, b.ref_cnt, b.block_hash is not None, *self.freed[b.block_id]) for b in blocks]


def check_order(impl, story):
    history = impl.history("BlockRecord", "eviction_order", "lost_content")
    records, queue = story.records(), story.queue
    history.run(f"blocks = [BlockRecord{', BlockRecord'.join(map(str, records))}]")
    history.run("order = list(eviction_order(blocks))")

    def picture():
        known = {record[0]: record for record in records}
        rows = {
            "findable": ["+" if known[i][2] else "-" for i in queue],
            "freed_at": [known[i][3] for i in queue],
            "index": [known[i][4] for i in queue],
            "expected": queue,
            "yours": history.value("order"),
        }
        return "\n".join([*story.told, "", compare(rows)])

    held = [i for i, ref_cnt, *_ in records if ref_cnt]
    useful = [i for i, _, is_findable, *_ in records if is_findable and i in queue]
    history.check(f"[i for i in order if i in {held}] == []", "held", picture)
    history.check(f"sorted(order) == {sorted(queue)}", "all", picture)
    num_useless = len(queue) - len(useful)
    history.check(f"sorted(order[:{num_useless}]) == {sorted(queue[:num_useless])}", "useless", picture)
    together = defaultdict(list)
    for i in queue:
        together[i in useful, story.freed[i][0]].append(i)
    by_age = [sorted(ids) for (is_useful, _), ids in together.items() if is_useful]
    mine = history.value("order")
    if by_age != [sorted(ids) for ids in grouped(mine[num_useless:], story)]:
        history.check(f"order == {queue}", "lru", picture)
    for (_, when), ids in together.items():
        if when:
            history.check(f"[i for i in order if i in {ids}] == {ids}", "tails", picture)
    history.check(f"order[:{num_useless}] == {queue[:num_useless]}", "useless", picture)
    history.check(f"order == {queue}", "lru", picture)
    check_lost(history, story, useful, picture)
    return picture


def grouped(block_ids, story):
    """Runs of blocks that were freed by the same call."""
    runs, last = [], None
    for i in block_ids:
        if story.freed[i][0] != last:
            runs.append([])
        runs[-1].append(i)
        last = story.freed[i][0]
    return runs


def check_lost(history, story, useful, picture):
    queue = story.queue
    for count in range(len(queue) + 1):
        lost = [i for i in queue[:count] if i in useful]
        history.check(f"lost_content(blocks, {count}) == {lost}", "lost", picture)
    history.refuses(f"lost_content(blocks, {len(queue) + 1})", "refuses", picture)


@pytest.mark.exercise("9.3", "smoke")
def test_nothing_was_ever_used(impl):
    check_order(impl, Story(5, 4))


@pytest.mark.exercise("9.3", "examples")
def test_ten_blocks_and_two_requests(impl):
    """The numbers of a published test: 10 blocks of 16, prompts of 55 and 53 tokens with 48 in common."""
    story = Story(11, 16)
    story.begin("a", range(55))
    story.begin("b", [*range(48), 900, 901, 902, 903, 904])
    print(f"{check_order(impl, story)()}\n")
    story.end("a")
    print(f"{check_order(impl, story)()}\n")
    story.end("b")
    picture = check_order(impl, story)
    assert story.queue == [5, 4, 6, 7, 8, 9, 10, 3, 2, 1]
    print(f"{picture()}\n")


@pytest.mark.exercise("9.3", "examples")
def test_a_hit_makes_a_chain_young_again(impl):
    story = Story(9, 2)
    story.begin("a", [1, 2, 3, 4])
    story.end("a")
    story.begin("b", [5, 6, 7, 8])
    story.end("b")
    check_order(impl, story)
    story.begin("c", [1, 2, 3, 4, 9])
    check_order(impl, story)
    story.end("c")
    print(f"{check_order(impl, story)()}\n")


moves = st.lists(st.tuples(st.sampled_from(["begin", "begin", "end"]), st.integers(0, 9)), max_size=14)
PROMPTS = [[7] * n for n in (1, 2, 4, 5, 7)] + [
    [7, 7, 8, 8],
    [8] * 4,
    [8, 8, 7, 7, 6],
    [9] * 3,
    [9, 9, 8, 8, 7, 7],
]


@pytest.mark.exercise("9.3", "properties")
@settings(max_examples=120)
@given(st.integers(5, 12), moves)
def test_any_story(impl, num_blocks, moves):
    story = Story(num_blocks, 2)
    for number, (move, which) in enumerate(moves):
        if move == "begin":
            story.begin(f"r{number}", PROMPTS[which])
        elif story.live:
            story.end(sorted(story.live)[which % len(story.live)])
    check_order(impl, story)


# -- 9.4 ---------------------------------------------------------------------------------------------------------------


class Computed:
    """All prefixes that some step has computed, noted from outside."""

    def __init__(self, history, has_room):
        self.history, self.has_room = history, has_room
        self.prefixes = set()

    def check(self):
        """After a step: of everybody's tokens, the cache gives what was computed, and no more."""
        step, requests = self.history.value("step"), self.history.value("engine").requests
        for name, count in step.num_tokens.items():
            tokens = requests[name].all_token_ids
            self.prefixes |= {tuple(tokens[:n]) for n in range(step.num_computed[name] + count + 1)}
        block_size = self.history.value("engine.manager.block_size")
        for request in requests.values():
            tokens = request.all_token_ids
            done = max(n for n in range(len(tokens) + 1) if n == 0 or tuple(tokens[:n]) in self.prefixes)
            most = min(done, len(tokens) - 1) // block_size * block_size
            found = f"engine.num_tokens_found({tokens})"
            self.history.check(f"{found} <= {most}", "computed", timeline(self.history))
            if self.has_room:
                self.history.check(f"{found} == {most}", "found", timeline(self.history))


def play_manager(impl, load, aborts=(), outcome_only=False, **fields):
    history = impl.history("KVCacheManager", imports=[TOY])
    history.run(f"engine = ToyEngine(manager_class=KVCacheManager, caching=True, {as_arguments(fields)})")
    check = Computed(history, fields["num_blocks"] > 60).check
    play(history, load, (lambda: None) if outcome_only else check, aborts)
    check_outputs(history, load, [name for _, name in aborts])
    history.check("engine.num_held == 0", "idle", timeline(history))
    return history


@pytest.mark.exercise("9.4", "smoke")
def test_two_requests_in_whole_blocks(impl):
    load = [("a", [1, 2, 3, 4, 5], 2, 0), ("b", [1, 2, 3, 4, 6], 2, 1)]
    play_manager(impl, load, num_blocks=64, block_size=4, max_num_batched_tokens=8)


@pytest.mark.exercise("9.4", "examples")
def test_the_second_answer(impl):
    load = [("a", [1, 2, 3, 4, 5, 6, 7, 8, 9], 1, 0), ("b", [1, 2, 3, 4, 5, 6, 7, 8, 9], 1, 1)]
    fields = {"num_blocks": 64, "block_size": 4, "max_num_batched_tokens": 6}
    history = play_manager(impl, load, [(1, "a")], outcome_only=True, **fields)
    print(f"a is aborted after a step; b asks the same\n{history.value('engine').timeline()}\n")


@pytest.mark.exercise("9.4", "examples")
def test_a_chunk_that_ends_inside_a_block(impl):
    load = [("a", [1, 2, 3, 4, 5, 6, 7, 8, 9], 1, 0), ("b", [1, 2, 3, 4, 5, 6, 7, 8, 9], 1, 1)]
    fields = {"num_blocks": 64, "block_size": 4, "max_num_batched_tokens": 6}
    history = play_manager(impl, load, aborts=[(1, "a")], **fields)
    print(f"a computes 6 of 9 tokens and is aborted; b asks the same\n{history.value('engine').timeline()}\n")


@pytest.mark.exercise("9.4", "examples")
def test_a_slow_neighbour(impl):
    load = [("a", [1, 2, 3, 4, 5, 6, 7, 8, 9], 1, 0), ("b", [1, 2, 3, 4, 5, 6, 7, 8, 9], 1, 1)]
    fields = {"max_num_batched_tokens": 8, "long_prefill_token_threshold": 1}
    history = play_manager(impl, load, num_blocks=64, block_size=4, **fields)
    print(f"one token a step for each\n{history.value('engine').timeline()}\n")


@pytest.mark.exercise("9.4", "properties")
@settings(max_examples=60)
@given(loads(), st.integers(2, 4), st.integers(0, 6), st.booleans(), st.data())
def test_any_load_of_the_manager(impl, load, block_size, more_budget, has_room, data):
    most = max(len(prompt) + max_tokens for _, prompt, max_tokens, _ in load)
    names = st.sampled_from([job[0] for job in load])
    aborts = data.draw(st.lists(st.tuples(st.integers(1, 4), names), max_size=2))
    fields = {
        "num_blocks": 64 if has_room else 2 - (-most // block_size),
        "block_size": block_size,
        "max_num_seqs": 2,
        "max_num_batched_tokens": 2 + more_budget,
        "long_prefill_token_threshold": data.draw(st.sampled_from([0, 1, 3])),
    }
    play_manager(impl, load, aborts, **fields)
