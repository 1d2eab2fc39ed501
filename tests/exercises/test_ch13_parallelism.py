"""Grader of chapter 13: parallelism.

Ranks are threads of one process. The oracles: the dense product in float64, with whole numbers, so that no order of
adding up can matter; plain lookups; heads counted one by one; and an inverse cumulative sum for a single process.
"""

import math
from itertools import accumulate

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from minivllm.course.grading import compare
from minivllm.sampling.random import derive_seed, uniform

TORCH = "import torch"
RANKS = "from minivllm.parallel.threads import Ranks"
SHARDED = "from minivllm.course.extra.sharded import build, numbers, same"
SIZES = st.sampled_from([1, 2, 4])
SEEDS = st.integers(0, 99)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def check_talk(history, **counts):
    """Every rank has said exactly this."""
    size = history.value("ranks").plan.tensor
    history.check(f"[log.count for log in ranks.logs] == {[counts if size > 1 else {}] * size}", "talk")


def matrix(tensor):
    """The first rows and columns, to look at."""
    return "\n".join("  ".join(f"{x:6.0f}" for x in row[:8]) for row in np.atleast_2d(tensor.numpy())[:4])


def beside(expected, found):
    """Two matrices, one below the other."""
    return (
        f"expected, {list(expected.shape)}\n{matrix(expected)}\nyours, {list(found.shape)}\n{matrix(found)}"
    )


# -- 13.1 --------------------------------------------------------------------------------------------------------------

HIDDEN, LAYERS, HEADS, KV_HEADS = 4096, 32, 32, 8


@pytest.mark.exercise("13.1", "smoke")
def test_numbers(impl):
    history = impl.history("busy_percent")
    history.check("isinstance(busy_percent(), (int, float))", "busy")


@pytest.mark.exercise("13.1", "examples")
@pytest.mark.parametrize(
    ("name", "law", "expected"),
    [
        ("sums_of_a_layer", "sums", len(["o_proj", "down_proj"])),
        ("sums_of_a_step", "sums", LAYERS * len(["o_proj", "down_proj"]) + len(["embed_tokens"])),
        ("bytes_of_a_sum", "sizes", np.zeros(HIDDEN, dtype=np.float16).nbytes),
        ("heads_of_a_rank", "heads", len(np.array_split(np.arange(HEADS), 8)[0])),
        ("kv_heads_of_a_rank", "heads", len({head * KV_HEADS // HEADS for head in range(HEADS // 16)})),
        ("kv_bytes_of_a_rank", "heads", 128 // KV_HEADS),
        ("layers_of_the_last_stage", "stages", min(map(len, np.array_split(np.arange(30), 4)))),
        ("bytes_between_stages", "sizes", np.zeros(HIDDEN, dtype=np.float16).nbytes),
        ("busy_percent", "busy", 100 * sum(step % 4 == 0 for step in range(400)) / 400),
        ("messages_between_replicas", "replicas", 0),
    ],
)
def test_predictions(impl, name, law, expected):
    history = impl.history(name)
    history.check(f"{name}() == {expected}", law)
    print(f"{name.replace('_', ' ')}: {expected}")


@pytest.mark.exercise("13.1", "properties")
def test_predictions_agree_with_one_another(impl):
    names = (
        "heads_of_a_rank",
        "kv_heads_of_a_rank",
        "kv_bytes_of_a_rank",
        "sums_of_a_step",
        "sums_of_a_layer",
    )
    history = impl.history(*names)
    history.check("heads_of_a_rank() * 8 == 32", "heads")
    history.check("kv_bytes_of_a_rank() == 128 // 8 * kv_heads_of_a_rank()", "heads")
    history.check("sums_of_a_step() == 32 * sums_of_a_layer() + 1", "sums")


@pytest.mark.exercise("13.1", "budget")
def test_nothing_is_computed(impl):
    history = impl.history("messages_between_replicas")
    history.check("messages_between_replicas() == 0", "replicas")


# -- 13.2 --------------------------------------------------------------------------------------------------------------


def dense(x, weight, bias):
    """y = x W^T + b in float64."""
    out = x.double().numpy() @ weight.double().numpy().T
    return torch.from_numpy(out + (0 if bias is None else bias.double().numpy())).float()


def begin(impl, names, size, seed, tokens, inner):
    history = impl.history(*names, imports=[TORCH, RANKS, SHARDED])
    history.run(f"ranks = Ranks({size})")
    history.run(f"x = numbers({seed}, {tokens}, {inner})")
    return history


def check_column(impl, size, shares, inner, bias, seed, tokens=3):
    """Matrices of `shares[i] * size` outputs each."""
    history = begin(impl, ["MergedColumnParallelLinear"], size, seed, tokens, inner)
    outs = {f"part_{i}": share * size for i, share in enumerate(shares)}
    history.run("tensors = {}")
    for i, (name, total) in enumerate(outs.items()):
        history.run(f'tensors["block.{name}.weight"] = numbers({seed + 10 + i}, {total}, {inner})')
        if bias:
            history.run(f'tensors["block.{name}.bias"] = numbers({seed + 20 + i}, {total})')
    history.run(
        f"make = lambda context: MergedColumnParallelLinear({inner}, {outs}, bias={bias}, context=context)"
    )
    history.run("layers = build(ranks, make, tensors)")
    history.run("outs = ranks.run(lambda rank: layers[rank](x))")
    tensors, x = history.value("tensors"), history.value("x")
    for rank in range(size):
        at = 0
        for name, share in zip(outs, shares, strict=True):
            whole = dense(x, tensors[f"block.{name}.weight"], tensors.get(f"block.{name}.bias"))
            expected = whole[:, rank * share : (rank + 1) * share]
            wanted = f"torch.tensor({expected.tolist()})"
            history.check(
                f"same(outs[{rank}][:, {at}:{at + share}], {wanted})",
                "concat",
                lambda rank=rank, e=expected: beside(e, history.value(f"outs[{rank}]")),
            )
            at += share
        stored = (inner + bias) * sum(shares)
        history.check(f"sum(p.numel() for p in layers[{rank}].parameters()) == {stored}", "share")
    check_talk(history)
    return history


def check_row(impl, size, share, out, bias, seed, tokens=3):
    history = begin(impl, ["RowParallelLinear"], size, seed, tokens, share * size)
    history.run(f'tensors = {{"block.layer.weight": numbers({seed + 10}, {out}, {share * size})}}')
    if bias:
        history.run(f'tensors["block.layer.bias"] = numbers({seed + 20}, {out})')
    history.run(
        f"make = lambda context: RowParallelLinear({share * size}, {out}, bias={bias}, context=context)"
    )
    history.run("layers = build(ranks, make, tensors)")
    history.run(f"outs = ranks.run(lambda rank: layers[rank](x[:, rank * {share} : (rank + 1) * {share}]))")
    tensors = history.value("tensors")
    expected = dense(history.value("x"), tensors["block.layer.weight"], tensors.get("block.layer.bias"))
    for rank in range(size):
        history.check(
            f"same(outs[{rank}], torch.tensor({expected.tolist()}))",
            "sum",
            lambda rank=rank: beside(expected, history.value(f"outs[{rank}]")),
        )
        stored = share * out + (out if bias else 0)
        history.check(f"sum(p.numel() for p in layers[{rank}].parameters()) == {stored}", "share")
    check_talk(history, all_reduce=1)
    return expected


@pytest.mark.exercise("13.2", "smoke")
def test_one_rank_is_a_plain_layer(impl):
    check_column(impl, 1, [2], 3, False, 0)
    check_row(impl, 1, 3, 2, False, 0)


@pytest.mark.exercise("13.2", "examples")
def test_worked_pair_of_layers(impl):
    check_column(impl, 2, [2], 3, True, 1, tokens=1)
    expected = check_row(impl, 2, 2, 3, True, 1, tokens=1)
    print(f"4 inputs on 2 ranks, 3 outputs: every rank returns\n{matrix(expected)}\n")


@pytest.mark.exercise("13.2", "examples")
def test_two_matrices_of_different_sizes_in_one(impl):
    check_column(impl, 2, [2, 1], 3, True, 2)


@pytest.mark.exercise("13.2", "properties")
@settings(max_examples=25)
@given(SIZES, st.lists(st.integers(1, 3), min_size=1, max_size=3), st.integers(1, 4), st.booleans(), SEEDS)
def test_any_column_parallel_layer(impl, size, shares, inner, bias, seed):
    check_column(impl, size, shares, inner, bias, seed)


@pytest.mark.exercise("13.2", "properties")
@settings(max_examples=25)
@given(SIZES, st.integers(1, 3), st.integers(1, 4), st.booleans(), SEEDS)
def test_any_row_parallel_layer(impl, size, share, out, bias, seed):
    check_row(impl, size, share, out, bias, seed)


@pytest.mark.exercise("13.2", "properties")
@settings(max_examples=12)
@given(st.sampled_from([2, 4]), st.integers(1, 3), SEEDS)
def test_a_feed_forward_block_costs_one_sum(impl, size, share, seed):
    names = ["MergedColumnParallelLinear", "RowParallelLinear"]
    history = begin(impl, names, size, seed, 2, 3)
    inner = share * size
    for i, (name, shape) in enumerate({"gate": (inner, 3), "up": (inner, 3), "layer": (3, inner)}.items()):
        history.run(f"{name} = numbers({seed + 1 + i}, *{shape})")
    history.run(
        f'first = build(ranks, lambda context: MergedColumnParallelLinear(3, {{"gate": {inner}, "up": {inner}}}, '
        'bias=False, context=context), {"block.gate.weight": gate, "block.up.weight": up})'
    )
    history.run(
        f"second = build(ranks, lambda context: RowParallelLinear({inner}, 3, bias=False, context=context), "
        '{"block.layer.weight": layer})'
    )
    history.run(
        f"outs = ranks.run(lambda rank: second[rank](first[rank](x)[:, :{share}] * first[rank](x)[:, {share}:]))"
    )
    x, gate, up, layer = (history.value(name) for name in ("x", "gate", "up", "layer"))
    expected = dense(dense(x, gate, None) * dense(x, up, None), layer, None)
    for rank in range(size):
        history.check(
            f"same(outs[{rank}], torch.tensor({expected.tolist()}))",
            "sum",
            lambda rank=rank: beside(expected, history.value(f"outs[{rank}]")),
        )
    check_talk(history, all_reduce=1)


@pytest.mark.exercise("13.2", "budget")
@pytest.mark.parametrize(
    "made",
    [
        'MergedColumnParallelLinear(4, {"gate": 6, "up": 4}, bias=False, context=LayerContext(tp=ranks.tp[1]))',
        "RowParallelLinear(6, 4, bias=False, context=LayerContext(tp=ranks.tp[1]))",
    ],
)
def test_what_does_not_divide(impl, made):
    context = "from minivllm.layers.context import LayerContext"
    history = impl.history(
        "MergedColumnParallelLinear", "RowParallelLinear", imports=[TORCH, RANKS, SHARDED, context]
    )
    history.run("ranks = Ranks(4)")
    check_refused(history, made, "divide")


def check_refused(history, expression, law):
    """Demand a ValueError."""
    history.run("refused = False")
    history.run(f"try:\n    {expression}\nexcept ValueError:\n    refused = True")
    history.check("refused", law)


# -- 13.3 --------------------------------------------------------------------------------------------------------------


def rows_of(ids, weight):
    """One row after the other."""
    return torch.tensor([weight[i].tolist() for i in ids]).reshape(len(ids), weight.shape[1])


def check_embedding(impl, size, vocab, hidden, ids, seed):
    history = impl.history("VocabParallelEmbedding", imports=[TORCH, RANKS, SHARDED])
    history.run(f"ranks = Ranks({size})")
    history.run(f"weight = numbers({seed}, {vocab}, {hidden}) + 10")
    history.run(
        f"layers = build(ranks, lambda context: VocabParallelEmbedding({vocab}, {hidden}, context), "
        '{"block.layer.weight": weight})'
    )
    history.run(f"ids = [torch.tensor({ids}) for _ in ranks.tp]")
    history.run("outs = ranks.run(lambda rank: layers[rank](ids[rank]))")
    expected = rows_of(ids, history.value("weight"))
    for rank in range(size):
        history.check(
            f"same(outs[{rank}], torch.tensor({expected.tolist()}))",
            "rows" if size > 1 else "alone",
            lambda rank=rank: beside(expected, history.value(f"outs[{rank}]")),
        )
        history.check(f"ids[{rank}].tolist() == {ids}", "pure")
    check_talk(history, all_reduce=1)


def check_head(impl, size, vocab, hidden, num_rows, seed):
    history = impl.history("ParallelLMHead", imports=[TORCH, RANKS, SHARDED])
    history.run(f"ranks = Ranks({size})")
    history.run(
        f"weight, hidden = numbers({seed}, {vocab}, {hidden}), numbers({seed + 1}, {num_rows}, {hidden})"
    )
    history.run(
        f"layers = build(ranks, lambda context: ParallelLMHead({vocab}, {hidden}, context, None), "
        '{"block.layer.weight": weight})'
    )
    history.run("outs = ranks.run(lambda rank: layers[rank](hidden))")
    expected = dense(history.value("hidden"), history.value("weight"), None)
    for rank in range(size):
        history.check(
            f"same(outs[{rank}], torch.tensor({expected.tolist()}))",
            "logits",
            lambda rank=rank: beside(expected, history.value(f"outs[{rank}]")),
        )
    check_talk(history, all_gather=1)


@pytest.mark.exercise("13.3", "smoke")
def test_one_rank_looks_up(impl):
    check_embedding(impl, 1, 5, 2, [0, 4], 0)
    check_head(impl, 1, 5, 2, 1, 0)


@pytest.mark.exercise("13.3", "examples")
@pytest.mark.parametrize("size", [2, 4])
def test_worked_vocabulary(impl, size):
    check_embedding(impl, size, 8, 2, list(range(8)), 1)
    check_head(impl, size, 8, 3, 2, 1)
    print(f"8 ids on {size} ranks: rank r holds {8 // size} of them, from {8 // size} * r on\n")


@pytest.mark.exercise("13.3", "examples")
def test_seven_ids_on_four_ranks(impl):
    check_embedding(impl, 4, 7, 2, [6, 5, 0, 6, 1, 2, 3, 4], 2)
    check_head(impl, 4, 7, 3, 2, 2)


@st.composite
def vocabularies(draw):
    """A size, a vocabulary that may not divide by it, and ids, often the first and last of a rank's range."""
    size, vocab = draw(SIZES), draw(st.integers(1, 11))
    each = math.ceil(vocab / size)
    edges = sorted({i for r in range(size) for i in (r * each, (r + 1) * each - 1) if i < vocab})
    ids = draw(st.lists(st.sampled_from(edges) | st.integers(0, vocab - 1), min_size=1, max_size=6))
    return size, vocab, ids


@pytest.mark.exercise("13.3", "properties")
@settings(max_examples=30)
@given(vocabularies(), st.integers(1, 3), SEEDS)
@example((4, 5, [4, 0]), 1, 0)
def test_any_ids(impl, case, hidden, seed):
    size, vocab, ids = case
    check_embedding(impl, size, vocab, hidden, ids, seed)


@pytest.mark.exercise("13.3", "properties")
@settings(max_examples=20)
@given(vocabularies(), st.integers(1, 3), st.integers(1, 3), SEEDS)
@example((4, 5, []), 2, 1, 3)
def test_any_logits(impl, case, hidden, num_rows, seed):
    check_head(impl, case[0], case[1], hidden, num_rows, seed)


@pytest.mark.exercise("13.3", "budget")
def test_many_ids_are_one_message(impl):
    check_embedding(impl, 2, 6, 1, [i % 6 for i in range(50)], 0)


# -- 13.4 --------------------------------------------------------------------------------------------------------------


def divides(heads, kv_heads, size):
    return heads % size == 0 and (kv_heads % size == 0 or size % kv_heads == 0)


def check_heads(impl, heads, kv_heads, size):
    history = impl.history("share_heads")
    history.run(f"shares = [share_heads({heads}, {kv_heads}, rank, {size}) for rank in range({size})]")
    shares = history.value("shares")

    def drawn():
        rows = {"query head": range(heads), "expected": [], "yours": []}
        for head in range(heads):
            rows["expected"].append(head * kv_heads // heads)
            found = [s for s in shares if s.first_head <= head < s.first_head + s.num_heads]
            rows["yours"].append(
                found[0].first_kv_head
                + (head - found[0].first_head) * found[0].num_kv_heads // found[0].num_heads
                if found
                else "-"
            )
        return f"{heads} query heads read {kv_heads} kv heads, on {size} ranks\n{compare(rows)}"

    for rank in range(size):
        mine = f"shares[{rank}]"
        history.check(f"{mine}.num_heads == {heads // size}", "queries", drawn)
        history.check(f"{mine}.first_head == {rank * (heads // size)}", "queries", drawn)
        reads = sorted(
            {head * kv_heads // heads for head in range(rank * heads // size, (rank + 1) * heads // size)}
        )
        history.check(f"{mine}.num_kv_heads == {len(reads)}", "minimal", drawn)
        history.check(f"{mine}.first_kv_head == {reads[0]}", "local", drawn)
    return drawn()


@pytest.mark.exercise("13.4", "smoke")
def test_one_rank_holds_all_heads(impl):
    check_heads(impl, 4, 2, 1)


@pytest.mark.exercise("13.4", "examples")
@pytest.mark.parametrize(
    ("heads", "kv_heads", "size"), [(8, 8, 4), (8, 4, 2), (8, 2, 4), (8, 1, 4), (4, 4, 4)]
)
def test_worked_heads(impl, heads, kv_heads, size):
    print(check_heads(impl, heads, kv_heads, size), "\n")


@pytest.mark.exercise("13.4", "properties")
@settings(max_examples=80)
@given(st.integers(1, 6), st.integers(1, 4), st.integers(1, 12))
@example(2, 2, 4)
@example(6, 1, 4)
@example(3, 4, 4)
@example(3, 2, 2)
def test_any_heads(impl, kv_heads, group, size):
    heads = kv_heads * group
    if divides(heads, kv_heads, size):
        check_heads(impl, heads, kv_heads, size)
    else:
        history = impl.history("share_heads")
        check_refused(history, f"share_heads({heads}, {kv_heads}, {size - 1}, {size})", "refuse")


@pytest.mark.exercise("13.4", "budget")
def test_many_ranks(impl):
    check_heads(impl, 128, 8, 64)


# -- 13.5 --------------------------------------------------------------------------------------------------------------


def check_places(impl, tensor, pipeline):
    history = impl.history("Plan")
    history.run(f"plan = Plan({tensor}, {pipeline})")
    grid = [[s * tensor + place for place in range(tensor)] for s in range(pipeline)]
    history.check(f"plan.tensor_groups() == {grid}", "neighbours")
    for stage, group in enumerate(grid):
        for place, rank in enumerate(group):
            history.check(f"tuple(plan.place({rank})) == {(stage, place)}", "places")
    history.check(f"plan.output_rank == {grid[-1][0]}", "output")
    return grid


def check_layers(impl, num_layers, num_stages):
    history = impl.history("layer_ranges")
    if num_layers < num_stages:
        check_refused(history, f"layer_ranges({num_layers}, {num_stages})", "refuse")
        return None
    history.run(f"stages = layer_ranges({num_layers}, {num_stages})")
    sizes = [len(piece) for piece in np.array_split(np.arange(num_layers), num_stages)]  # large ones first
    left = num_layers % num_stages
    sizes = sorted(sizes)[: num_stages - left - 1] + sorted(sizes)[num_stages - left :] + [min(sizes)]
    ends = list(accumulate(sizes))
    rows = {"stage": range(num_stages), "expected": sizes}

    def drawn():
        return compare(rows | {"yours": [len(stage) for stage in history.value("stages")]})

    history.check(
        f"[layer for stage in stages for layer in stage] == {list(range(num_layers))}", "cover", drawn
    )
    history.check(f"len(stages) == {num_stages}", "cover", drawn)
    history.check("max(map(len, stages)) - min(map(len, stages)) <= 1", "even", drawn)
    wanted = [list(range(end - size, end)) for size, end in zip(sizes, ends, strict=True)]
    history.check(f"[list(stage) for stage in stages] == {wanted}", "rest", drawn)
    return drawn()


@pytest.mark.exercise("13.5", "smoke")
def test_one_rank_and_one_stage(impl):
    check_places(impl, 1, 1)
    check_layers(impl, 3, 1)


@pytest.mark.exercise("13.5", "examples")
@pytest.mark.parametrize(("num_layers", "num_stages"), [(8, 4), (6, 4), (7, 2), (30, 4)])
def test_worked_stages(impl, num_layers, num_stages):
    print(check_layers(impl, num_layers, num_stages), "\n")


@pytest.mark.exercise("13.5", "examples")
def test_worked_places(impl):
    print(f"tensor 2, pipeline 3: {check_places(impl, 2, 3)}\n")


@pytest.mark.exercise("13.5", "properties")
@settings(max_examples=40)
@given(st.integers(1, 5), st.integers(1, 5))
def test_any_plan(impl, tensor, pipeline):
    check_places(impl, tensor, pipeline)


@pytest.mark.exercise("13.5", "properties")
@settings(max_examples=60)
@given(st.integers(1, 40), st.integers(1, 12))
def test_any_number_of_layers(impl, num_layers, num_stages):
    check_layers(impl, num_layers, num_stages)


@pytest.mark.exercise("13.5", "budget")
def test_a_large_cluster(impl):
    check_places(impl, 8, 64)
    check_layers(impl, 126, 64)


# -- 13.6 --------------------------------------------------------------------------------------------------------------


def one_process(logits, seeds, request_numbers, positions, engine_seed):
    """One request after the other, with plain sums in float64."""
    tokens = []
    for row, seed, number, position in zip(logits, seeds, request_numbers, positions, strict=True):
        used = derive_seed(engine_seed, number) if seed is None else seed
        random = float(uniform(np.array([used]), np.array([position]))[0])
        weights = np.exp(row.double().numpy() - row.max().item())
        bounds = np.cumsum(weights / weights.sum())
        tokens.append(int(np.searchsorted(bounds, random, side="right")))
    return tokens


@st.composite
def last_steps(draw):
    size, vocab = draw(SIZES), draw(st.integers(2, 9))
    rows = draw(st.integers(1, 4))
    seeds = draw(st.lists(st.none() | st.sampled_from([0, 1, 7]), min_size=rows, max_size=rows))
    positions = draw(st.lists(st.integers(0, 5), min_size=rows, max_size=rows))
    return size, vocab, seeds, positions, draw(st.integers(0, 9)), draw(SEEDS)


def check_next(impl, case):
    size, vocab, seeds, positions, engine_seed, seed = case
    request_numbers = [3 + i for i in range(len(seeds))]
    each = math.ceil(vocab / size)
    history = impl.history("next_tokens", imports=[TORCH, RANKS, SHARDED])
    history.run(f"ranks = Ranks({size})")
    history.run(f"logits = numbers({seed}, {len(seeds)}, {vocab}) / 4")
    padding = each * size - vocab
    history.run(
        f"padded = torch.nn.functional.pad(logits, (0, {padding}), value=3.0)   # what nobody may draw"
    )
    history.run(
        f"outs = ranks.run(lambda rank: next_tokens(ranks.tp[rank], padded[:, rank * {each} : (rank + 1) * {each}], "
        f"{vocab}, {seeds}, {request_numbers}, {positions}, {engine_seed}))"
    )
    expected = one_process(history.value("logits"), seeds, request_numbers, positions, engine_seed)
    found = [out.tolist() for out in history.value("outs")]

    def drawn():
        rows = {"request": range(len(seeds)), "seed": seeds, "expected": expected}
        tables = [compare(rows | {"yours": tokens}) for tokens in found]
        return "\n".join(f"rank {rank}\n{table}" for rank, table in enumerate(tables))

    history.check(f"max(out.max().item() for out in outs) < {vocab}", "inside", drawn)
    for rank in range(1, size):
        history.check(f"outs[{rank}].tolist() == outs[0].tolist()", "agree", drawn)
    history.check(f"outs[0].tolist() == {expected}", "same", drawn)
    check_talk(history, all_gather=1)
    return drawn()


@pytest.mark.exercise("13.6", "smoke")
def test_one_rank_draws(impl):
    check_next(impl, (1, 4, [5], [0], 0, 0))


@pytest.mark.exercise("13.6", "examples")
@pytest.mark.parametrize("seeds", [[1, 2, 3], [None, 2, 0], [None, None, None]])
def test_worked_draws(impl, seeds):
    print(check_next(impl, (2, 6, seeds, [0, 1, 2], 5, 4)), "\n")


@pytest.mark.exercise("13.6", "properties")
@settings(max_examples=40)
@given(last_steps())
@example((4, 9, [None, None, None, None], [0, 0, 0, 0], 0, 1))
def test_any_requests(impl, case):
    check_next(impl, case)


@pytest.mark.exercise("13.6", "properties")
def test_requests_without_a_seed_differ(impl):
    history = impl.history("next_tokens", imports=[TORCH, RANKS, SHARDED])
    history.run("ranks = Ranks(1)")
    history.run("flat = torch.zeros(12, 50)   # every token is equally likely")
    history.run(
        "tokens = {seed: next_tokens(ranks.tp[0], flat, 50, [None] * 12, range(12), [0] * 12, seed).tolist() "
        "for seed in (0, 1)}"
    )
    history.check("len(set(tokens[0])) > 6", "spread")
    history.check("tokens[0] != tokens[1]", "spread")


@pytest.mark.exercise("13.6", "budget")
def test_a_large_batch_is_one_gather(impl):
    check_next(impl, (2, 8, [None] * 32, [1] * 32, 3, 5))
