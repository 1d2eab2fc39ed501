"""Grader of chapter 12: speculative decoding.

The oracles compare lists of tokens place by place, add up the probability of every way in which a token can come out,
and write down every combination of right and wrong drafts.
"""

from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

NUMPY = "import numpy as np"
TORCH = "import torch"
POOL = "from minivllm.core.block_pool import BlockPool"
TABLE = "from minivllm.core.block_table import BlockTable"


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Small tensors: more threads only get in one another's way."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# -- 12.1 --------------------------------------------------------------------------------------------------------------


def places(tokens, length):
    """Where an earlier occurrence of the last `length` tokens ends."""
    end = tokens[len(tokens) - length :]
    return [i + length for i in range(len(tokens) - length) if tokens[i : i + length] == end]


def expected_drafts(tokens, shortest, longest, num_drafts):
    """(drafts, the places among which they were chosen), by comparing every place with every end of the text."""
    for length in range(min(longest, len(tokens) - 1), shortest - 1, -1):
        if behind := places(tokens, length):
            long_enough = [start for start in behind if start + num_drafts <= len(tokens)]
            start = max(long_enough) if long_enough else min(behind)
            return tokens[start : start + num_drafts], behind
    return [], []


def law_of(found, tokens, behind, num_drafts):
    """Which law is broken, if `found` was drafted: another place for the same end, another end, or neither."""
    if not behind:
        return "none"
    if found in [tokens[start : start + num_drafts] for start in behind]:
        return "latest"
    others = [start for length in range(1, len(tokens)) for start in places(tokens, length)]
    return "longest" if found in [tokens[start : start + num_drafts] for start in others] else "behind"


def check_look_up(history, tokens, shortest, longest, num_drafts):
    expected, behind = expected_drafts(tokens, shortest, longest, num_drafts)
    history.run(f"text = np.array({tokens})")
    history.run(f"drafts = look_up(text, {shortest}, {longest}, {num_drafts})")
    history.check("type(drafts) is list and all(isinstance(token, int) for token in drafts)", "behind")
    history.check(f"len(drafts) <= {num_drafts}", "behind")
    picture = f"text:      {tokens}\nexpected:  {expected}\nyours:     {history.value('drafts')}"
    law = law_of(history.value("drafts"), tokens, behind, num_drafts)
    history.check(f"drafts == {expected}", law, picture)
    history.check(f"text.tolist() == {tokens}", "unchanged")
    return expected


@pytest.mark.exercise("12.1", "smoke")
def test_a_list_of_tokens(impl):
    check_look_up(impl.history("look_up", imports=[NUMPY]), [7, 8, 9, 4, 5, 7, 8], 1, 3, 3)


TEXTS = [  # tokens, shortest, longest, num_drafts
    ([1, 2, 3, 4], 1, 3, 3),  # nothing comes twice
    ([5], 1, 3, 3),
    ([1, 2, 9, 3, 2, 1, 2], 1, 3, 2),  # 1 2 stood at the start; a single 2 stood later
    ([1, 2, 9, 3, 2, 1, 2], 3, 3, 2),  # too short
    ([1, 2, 7, 0, 1, 2, 8, 0, 1, 2], 1, 2, 2),  # the latest of two
    ([1, 2, 7, 0, 1, 2, 8, 1, 2], 1, 2, 4),  # behind the later one there are only three
    ([5, 5, 5, 5], 1, 3, 2),  # an occurrence that overlaps with the end
    ([1, 2, 3, 4, 9, 2, 3, 4, 8, 1, 2, 3, 4], 1, 3, 2),  # no more than three tokens are compared
]


@pytest.mark.exercise("12.1", "examples")
@pytest.mark.parametrize(("tokens", "shortest", "longest", "num_drafts"), TEXTS)
def test_worked_texts(impl, tokens, shortest, longest, num_drafts):
    history = impl.history("look_up", imports=[NUMPY])
    drafts = check_look_up(history, tokens, shortest, longest, num_drafts)
    print(f"{tokens}, n-grams of {shortest} to {longest}, {num_drafts} drafts: {drafts}")


@pytest.mark.exercise("12.1", "properties")
@settings(max_examples=150)
@given(st.data())
def test_any_text(impl, data):
    num_different = data.draw(st.integers(1, 4))
    tokens = data.draw(st.lists(st.integers(1, num_different), min_size=1, max_size=16))
    shortest = data.draw(st.integers(1, 3))
    longest = data.draw(st.integers(shortest, 5))
    history = impl.history("look_up", imports=[NUMPY])
    check_look_up(history, tokens, shortest, longest, data.draw(st.integers(1, 5)))


# -- 12.2 --------------------------------------------------------------------------------------------------------------

GRID = 16  # probabilities are multiples of 1 / GRID


@st.composite
def distributions(draw, size):
    cuts = sorted(draw(st.lists(st.integers(0, GRID), min_size=size - 1, max_size=size - 1)))
    return [b - a for a, b in zip([0, *cuts], [*cuts, GRID], strict=True)]


def cells(p, q):
    """Every (draft, random number, probability of this case); between two numbers nothing changes but at p / q."""
    found = []
    for x, (px, qx) in enumerate(zip(p, q, strict=True)):
        edges = [0.0, *([px / qx] if 0 < px < qx else []), 1.0] if qx else []
        for low, high in zip(edges, edges[1:], strict=False):
            for part in range(4):
                found.append((x, low + (high - low) * (part + 0.5) / 4, qx / GRID * (high - low) / 4))
    return found


def decide(history, p, q, drafts, random):
    """Run the rule for n positions; p and q are rows of whole numbers, in sixteenths."""
    history.run(f"p = torch.tensor({p}, dtype=torch.float32) / {GRID}")
    history.run(f"q = torch.tensor({q}, dtype=torch.float32) / {GRID}")
    history.run(f"drafts, random = torch.tensor({drafts}), torch.tensor({random}, dtype=torch.float64)")
    history.run("is_accepted, weights = rejection_sample(p, q, drafts, random)")
    history.check("is_accepted.dtype == torch.bool and is_accepted.shape == drafts.shape", "rows")
    history.check("weights.shape == p.shape", "rows")
    history.check("bool((weights >= 0).all() and (weights.sum(dim=-1) > 0).all())", "drawable")


def check_distribution(history, p, q):
    """Add up how often each token comes out."""
    cases = cells(p, q)
    drafts, random = [x for x, _, _ in cases], [u for _, u, _ in cases]
    decide(history, [p] * len(cases), [q] * len(cases), drafts, random)
    chance = [0.0] * len(p)
    accepted, weights = history.value("is_accepted.tolist()"), history.value("weights.tolist()")
    for (x, _, share), is_accepted, row in zip(cases, accepted, weights, strict=True):
        if p[x] >= q[x] and not is_accepted:
            said = f"p({x}) is {p[x]}/16, q({x}) is {q[x]}/16, and the draft {x} is not kept."
            history.fail("sure", said, [f"assert is_accepted[{drafts.index(x)}]"])
        if is_accepted:
            chance[x] += share
        else:
            for token, weight in enumerate(row):
                chance[token] += share * weight / sum(row)
    if any(abs(a - b / GRID) > 1e-5 for a, b in zip(chance, p, strict=True)):
        rows = [
            " ".join([name.ljust(10), *(f"{value:7.4f}" for value in values)])
            for name, values in [
                ("token", range(len(p))),
                ("drafter q", [value / GRID for value in q]),
                ("model p", [value / GRID for value in p]),
                ("yours", chance),
            ]
        ]
        told = ", ".join(f"token {i} {value:.4f}" for i, value in enumerate(chance))
        history.fail("distribution", f"Added up over all cases: {told}.", picture="\n".join(rows))
    return chance


@pytest.mark.exercise("12.2", "smoke")
def test_a_decision_for_each_position(impl):
    history = impl.history("rejection_sample", imports=[TORCH])
    decide(history, [[8, 8, 0], [4, 4, 8]], [[16, 0, 0], [0, 0, 16]], [0, 2], [0.25, 0.75])


@pytest.mark.exercise("12.2", "examples")
def test_each_position_has_its_own_number(impl):
    """p is half of q at the draft: 0.9 says no, 0.1 says yes."""
    history = impl.history("rejection_sample", imports=[TORCH])
    decide(history, [[4, 12], [4, 12]], [[8, 8], [8, 8]], [0, 0], [0.9, 0.1])
    history.check("is_accepted.tolist() == [False, True]", "rows")


@pytest.mark.exercise("12.2", "examples")
@pytest.mark.parametrize(
    ("p", "q"),
    [
        ([8, 4, 4], [8, 4, 4]),  # the drafter is the model
        ([16, 0, 0], [0, 16, 0]),  # and nothing like it
        ([0, 16, 0], [4, 8, 4]),  # a greedy model keeps its one token
        ([4, 8, 4], [0, 0, 16]),  # a draft that was looked up
        ([2, 6, 8], [8, 6, 2]),
    ],
)
def test_worked_pairs(impl, p, q):
    chance = check_distribution(impl.history("rejection_sample", imports=[TORCH]), p, q)
    print(f"p {p}, q {q}, in sixteenths: comes out {[GRID * value for value in chance]}")


@pytest.mark.exercise("12.2", "examples")
def test_the_edges(impl):
    history = impl.history("rejection_sample", imports=[TORCH])
    nearly = 1 - 2**-30
    decide(
        history,
        p=[[0, 8, 8], [8, 8, 0], [4, 4, 8], [8, 8, 0]],
        q=[[16, 0, 0], [8, 8, 0], [0, 0, 0], [0, 0, 0]],
        drafts=[0, 1, -1, -1],
        random=[0.0, nearly, 0.0, 0.5],
    )
    history.check("bool(is_accepted[0]) == False", "forbidden")
    history.check("bool(is_accepted[1]) == True", "sure")
    history.check("is_accepted[2:].tolist() == [False, False]", "no_draft")
    history.check("torch.allclose(weights[2:] / weights[2:].sum(dim=-1, keepdim=True), p[2:])", "no_draft")


@pytest.mark.exercise("12.2", "properties")
@settings(max_examples=60)
@given(st.data(), st.integers(2, 4))
def test_every_pair_of_distributions(impl, data, size):
    p, q = data.draw(distributions(size)), data.draw(distributions(size))
    check_distribution(impl.history("rejection_sample", imports=[TORCH]), p, q)


@pytest.mark.exercise("12.2", "properties")
@settings(max_examples=30)
@given(st.data(), st.integers(2, 4), st.integers(2, 4))
def test_positions_do_not_know_one_another(impl, data, num_positions, size):
    """All positions at once, and each alone."""
    history = impl.history("rejection_sample", imports=[TORCH])
    p = [data.draw(distributions(size)) for _ in range(num_positions)]
    q = [data.draw(distributions(size)) for _ in range(num_positions)]
    drafts = [data.draw(st.sampled_from([x for x in range(size) if row[x]])) for row in q]
    random = [data.draw(st.sampled_from([0.05, 0.35, 0.65, 0.95])) for _ in range(num_positions)]
    decide(history, p, q, drafts, random)
    for i in range(num_positions):
        history.run(
            f"one = rejection_sample(p[{i}:{i + 1}], q[{i}:{i + 1}], drafts[{i}:{i + 1}], random[{i}:{i + 1}])"
        )
        history.check(f"bool(one[0][0]) == {bool(history.value(f'is_accepted[{i}]'))}", "rows")
        history.check(f"torch.allclose(one[1][0], weights[{i}])", "rows")


# -- 12.3 --------------------------------------------------------------------------------------------------------------


def blocks_of(num_tokens, block_size):
    """Blocks that tokens 0 ... num_tokens - 1 lie in, counted one by one."""
    return len({position // block_size for position in range(num_tokens)})


def begin(impl, num_blocks, block_size):
    """A pool that also writes down in which order blocks are given back, and an empty table."""
    history = impl.history("num_rejected", "trim_table", imports=[POOL, TABLE])
    history.run(
        f"pool, table, given_back = BlockPool({num_blocks}, enable_caching=False), BlockTable({block_size}), []"
    )
    history.run("give_back = pool.free_blocks")
    history.run(
        "pool.free_blocks = lambda blocks: [(given_back.append(b.block_id), give_back([b])) for b in blocks]"
    )
    return history


def verify(history, num_known, num_drafts, num_kept, block_size):
    """One step: the last known token and the drafts are written, some drafts are kept, the others taken back."""
    num_written = num_known + num_drafts
    history.run(f"table.append(pool.get_new_blocks(table.num_blocks_missing({num_written})))")
    before = history.value("table.block_ids")
    refs = history.value("[block.ref_cnt for block in table]")
    history.check(f"num_rejected({num_drafts}, {num_kept + 1}) == {num_drafts - num_kept}", "rejected")
    num_counting = num_known + num_kept
    history.run("given_back.clear()")
    history.run(f"table, blocks = trim_table(pool, table, {num_counting}), list(table)")
    stays = blocks_of(num_counting, block_size)
    said = f"{num_written} tokens were written in blocks {before}, and {num_counting} of them count"
    history.check(f"len(table) == {stays}", "fresh", said)
    history.check(f"table.block_ids == {before[:stays]}", "same_blocks", said)
    history.check(f"sorted(given_back) == {sorted(before[stays:])}", "references", said)
    history.check(f"given_back == {before[stays:][::-1]}", "order", said)
    refs = refs[:stays] + [count - 1 for count in refs[stays:]]
    history.check(f"[block.ref_cnt for block in blocks] == {refs}", "references", said)
    return num_counting + 1  # the step also says a token, which is yet to be computed


@pytest.mark.exercise("12.3", "smoke")
def test_one_step_without_a_rejection(impl):
    verify(begin(impl, 8, 4), num_known=3, num_drafts=2, num_kept=2, block_size=4)


STEPS = [  # block size, tokens known, [(drafts, kept), ...]
    (4, 6, [(5, 0)]),  # 6 tokens count: two blocks stay of three
    (4, 7, [(5, 1)]),  # 8 tokens: exactly two blocks
    (4, 8, [(4, 0)]),  # the drafts' block goes
    (2, 1, [(6, 0)]),  # three blocks go at once
    (2, 3, [(4, 4), (4, 1), (3, 0)]),
    (1, 2, [(3, 1), (3, 2)]),
]


@pytest.mark.exercise("12.3", "examples")
@pytest.mark.parametrize(("block_size", "num_known", "steps"), STEPS)
def test_worked_steps(impl, block_size, num_known, steps):
    history = begin(impl, 24, block_size)
    for num_drafts, num_kept in steps:
        num_known = verify(history, num_known, num_drafts, num_kept, block_size)
        ids = history.value("table.block_ids")
        print(f"{num_drafts} drafts, {num_kept} kept: {num_known - 1} tokens in blocks {ids} of {block_size}")


@pytest.mark.exercise("12.3", "properties")
@settings(max_examples=60)
@given(st.data())
def test_the_table_is_that_of_a_run_without_drafts(impl, data):
    block_size = data.draw(st.integers(1, 4))
    history = begin(impl, 60, block_size)
    num_known = data.draw(st.integers(1, 9))
    for _ in range(data.draw(st.integers(1, 4))):
        num_drafts = data.draw(st.integers(1, 6))
        num_known = verify(history, num_known, num_drafts, data.draw(st.integers(0, num_drafts)), block_size)
    history.run(f"fresh_pool, fresh = BlockPool(60, enable_caching=False), BlockTable({block_size})")
    history.run(f"fresh.append(fresh_pool.get_new_blocks(fresh.num_blocks_missing({num_known - 1})))")
    history.check("len(table) == len(fresh)", "fresh")
    history.check("pool.num_free_blocks == fresh_pool.num_free_blocks", "references")


@pytest.mark.exercise("12.3", "properties")
@settings(max_examples=30)
@given(st.integers(1, 4), st.integers(1, 12), st.data())
def test_whoever_shares_a_block_keeps_it(impl, block_size, num_tokens, data):
    """Another request holds all blocks, too: none becomes free, and each that goes loses one reference."""
    history = begin(impl, 30, block_size)
    history.run(f"table.append(pool.get_new_blocks(table.num_blocks_missing({num_tokens})))")
    history.run("pool.touch(table)")
    num_left = data.draw(st.integers(1, num_tokens))
    stays = blocks_of(num_left, block_size)
    history.run("free, blocks = pool.num_free_blocks, list(table)")
    history.run(f"table = trim_table(pool, table, {num_left})")
    history.check("pool.num_free_blocks == free", "references")
    gone = blocks_of(num_tokens, block_size) - stays
    history.check(f"[block.ref_cnt for block in blocks] == {[2] * stays + [1] * gone}", "references")
    history.check(f"len(table) == {stays}", "fresh")


# -- 12.4 --------------------------------------------------------------------------------------------------------------


def tokens_by_hand(agreement, k):
    """Every combination of right and wrong drafts, with its probability and what it says."""
    total = 0.0
    for right in product([True, False], repeat=k):
        probability = 1.0
        for is_right in right:
            probability *= agreement if is_right else 1 - agreement
        said = 1
        for is_right in right:
            if not is_right:
                break
            said += 1
        total += probability * said
    return total


NAMES = ("tokens_per_step", "speedup", "break_even", "best_length")
AGREEMENTS = st.integers(0, 20).map(lambda n: n / 20)


def check_break_even(history, cost, k):
    if cost > k + 1:
        history.check(f"break_even({cost}, {k}) is None", "never")
        return
    history.run(f"even = break_even({cost}, {k})")
    history.check("even is not None", "never")
    history.check("0 <= even <= 1", "even")
    if cost <= 1:
        history.check("even < 1e-6", "even")
        return
    said = tokens_by_hand(history.value("even"), k)
    if abs(said - cost) > 1e-3:
        history.fail(
            "even", f"At {history.value('even'):.6f} a step says {said:.4f} tokens and costs {cost}."
        )


def check_best(history, agreement, cost_per_draft, most):
    history.run(f"best = best_length({agreement}, {cost_per_draft}, {most})")
    history.check(f"isinstance(best, int) and 0 <= best <= {most}", "best")
    speeds = [tokens_by_hand(agreement, k) / (1 + k * cost_per_draft) for k in range(most + 1)]
    best = history.value("best")
    picture = "\n".join(f"{k} drafts: {value:.4f}" for k, value in enumerate(speeds))
    if speeds[best] < max(speeds) - 1e-9:
        history.fail("best", f"{best} drafts are not the fastest.", picture=picture)
    return speeds


@pytest.mark.exercise("12.4", "smoke")
def test_four_numbers(impl):
    history = impl.history(*NAMES)
    history.check("abs(tokens_per_step(0.5, 1) - 1.5) < 1e-9", "tokens")
    history.check("abs(speedup(0.5, 1, 1.5) - 1) < 1e-9", "ratio")
    check_break_even(history, 1.5, 1)
    check_best(history, 0.9, 0.1, 3)


@pytest.mark.exercise("12.4", "examples")
@pytest.mark.parametrize(("agreement", "k"), [(0.0, 4), (1.0, 4), (0.5, 2), (0.8, 4), (0.8, 0)])
def test_tokens_and_ratio(impl, agreement, k):
    history = impl.history(*NAMES)
    expected = tokens_by_hand(agreement, k)
    history.check(f"abs(tokens_per_step({agreement}, {k}) - {expected!r}) < 1e-9", "tokens")
    history.check(f"abs(speedup({agreement}, {k}, 2.0) - {expected / 2!r}) < 1e-9", "ratio")
    print(f"agreement {agreement}, {k} drafts: {expected:.4f} tokens in a step")


@pytest.mark.exercise("12.4", "examples")
@pytest.mark.parametrize(
    ("cost", "k"), [(1.0, 4), (0.9, 2), (2.5, 4), (4.9, 4), (5.5, 4), (1.75, 2), (2.0, 2)]
)
def test_break_even(impl, cost, k):
    history = impl.history(*NAMES)
    check_break_even(history, cost, k)
    print(f"a step with {k} drafts that costs {cost}: {history.value(f'break_even({cost}, {k})')}")


@pytest.mark.exercise("12.4", "examples")
@pytest.mark.parametrize(
    ("agreement", "cost_per_draft", "most"),
    [(0.9, 0.05, 8), (0.8, 0.3, 8), (0.3, 0.5, 8), (1.0, 0.5, 5), (0.5, 0.1, 0)],
)
def test_best_length(impl, agreement, cost_per_draft, most):
    history = impl.history(*NAMES)
    speeds = check_best(history, agreement, cost_per_draft, most)
    print(f"agreement {agreement}, {cost_per_draft} a draft: {' '.join(f'{s:.2f}' for s in speeds)}")


@pytest.mark.exercise("12.4", "examples")
def test_equals(impl):
    """Drafts that are always wrong and cost nothing change nothing: none are needed."""
    impl.history(*NAMES).check("best_length(0.0, 0.0, 4) == 0", "shortest")


@pytest.mark.exercise("12.4", "properties")
@settings(max_examples=60)
@given(AGREEMENTS, st.integers(0, 7), st.integers(1, 40).map(lambda n: n / 10))
def test_any_step(impl, agreement, k, cost):
    history = impl.history(*NAMES)
    expected = tokens_by_hand(agreement, k)
    history.check(f"abs(tokens_per_step({agreement}, {k}) - {expected!r}) < 1e-9", "tokens")
    history.check(f"abs(speedup({agreement}, {k}, {cost}) - {expected / cost!r}) < 1e-9", "ratio")


@pytest.mark.exercise("12.4", "properties")
@settings(max_examples=40)
@given(st.integers(1, 6), st.integers(1, 70).map(lambda n: n / 10 + 0.05))
def test_any_cost(impl, k, cost):
    check_break_even(impl.history(*NAMES), cost, k)


@pytest.mark.exercise("12.4", "properties")
@settings(max_examples=40)
@given(AGREEMENTS, st.integers(0, 20).map(lambda n: n / 20), st.integers(0, 7))
def test_any_length(impl, agreement, cost_per_draft, most):
    check_best(impl.history(*NAMES), agreement, cost_per_draft, most)
