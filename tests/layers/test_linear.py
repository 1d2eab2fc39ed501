"""Every rank loads from whole tensors and holds its share: put together, the shares give the whole layer."""

import pytest
import torch
import torch.nn.functional as F

from minivllm.layers.context import LayerContext
from minivllm.layers.embedding import ParallelLMHead, VocabParallelEmbedding
from minivllm.layers.linear import (
    ColumnParallelLinear,
    MergedColumnParallelLinear,
    QKVParallelLinear,
    RowParallelLinear,
)
from minivllm.parallel.group import TensorParallel


def ranks(size):
    """Contexts whose collectives do nothing: the tests sum and concatenate."""
    return [LayerContext(tp=TensorParallel(rank, size)) for rank in range(size)]


def load(layer, name, tensors):
    slots = layer.slots(name)
    assert {key: slot.shape for key, slot in slots.items()} == {k: tuple(t.shape) for k, t in tensors.items()}
    for key, slot in slots.items():
        slot.load(tensors[key])
    return layer


@pytest.mark.parametrize("size", [1, 2, 3])
def test_column_parallel_concatenates(size):
    weight, bias, x = torch.randn(6, 5), torch.randn(6), torch.randn(4, 5)
    tensors = {"m.proj.weight": weight, "m.proj.bias": bias}
    layers = [load(ColumnParallelLinear(5, 6, bias=True, context=c), "m.proj", tensors) for c in ranks(size)]
    torch.testing.assert_close(torch.cat([layer(x) for layer in layers], -1), F.linear(x, weight, bias))


@pytest.mark.parametrize("size", [1, 2, 3])
def test_row_parallel_sums_and_adds_the_bias_once(size):
    weight, bias, x = torch.randn(5, 6), torch.randn(5), torch.randn(4, 6)
    tensors = {"m.proj.weight": weight, "m.proj.bias": bias}
    layers = [load(RowParallelLinear(6, 5, bias=True, context=c), "m.proj", tensors) for c in ranks(size)]
    parts = [layer(piece) for layer, piece in zip(layers, x.chunk(size, -1), strict=True)]
    torch.testing.assert_close(torch.stack(parts).sum(0), F.linear(x, weight, bias))


@pytest.mark.parametrize("size", [1, 2])
def test_merged_columns_keep_gate_beside_up_on_every_rank(size):
    gate, up, x = torch.randn(4, 5), torch.randn(4, 5), torch.randn(3, 5)
    tensors = {"mlp.gate_proj.weight": gate, "mlp.up_proj.weight": up}
    gates, ups = [], []
    for context in ranks(size):
        sizes = {"gate_proj": 4, "up_proj": 4}
        layer = MergedColumnParallelLinear(5, sizes, bias=False, context=context)
        g, u = load(layer, "mlp.gate_up_proj", tensors)(x).chunk(2, -1)
        gates.append(g)
        ups.append(u)
    torch.testing.assert_close(torch.cat(gates, -1), F.linear(x, gate))
    torch.testing.assert_close(torch.cat(ups, -1), F.linear(x, up))


@pytest.mark.parametrize(("kv_heads", "size"), [(2, 1), (4, 1), (4, 2), (4, 4), (2, 4), (1, 4), (1, 2)])
def test_each_rank_has_the_kv_heads_that_its_query_heads_read(kv_heads, size):
    heads, head_dim, hidden = 4, 3, 5
    x = torch.randn(2, hidden)
    full = {
        name: torch.randn(n * head_dim, hidden)
        for name, n in zip("qkv", (heads, kv_heads, kv_heads), strict=True)
    }
    biases = {name: torch.randn(len(weight)) for name, weight in full.items()}
    whole = {name: F.linear(x, full[name], biases[name]).unflatten(-1, (-1, head_dim)) for name in full}
    tensors = {f"a.{name}_proj.weight": weight for name, weight in full.items()}
    tensors |= {f"a.{name}_proj.bias": bias for name, bias in biases.items()}
    for context in ranks(size):
        layer = QKVParallelLinear(hidden, head_dim, heads, kv_heads, bias=True, context=context)
        out = load(layer, "a.qkv_proj", tensors)(x).unflatten(-1, (-1, head_dim))
        q, k, v = out.split((layer.num_heads, layer.num_kv_heads, layer.num_kv_heads), 1)
        for local in range(layer.num_heads):
            head = context.tp.rank * layer.num_heads + local
            mine, its = local * layer.num_kv_heads // layer.num_heads, head * kv_heads // heads
            torch.testing.assert_close(q[:, local], whole["q"][:, head])
            torch.testing.assert_close(k[:, mine], whole["k"][:, its])
            torch.testing.assert_close(v[:, mine], whole["v"][:, its])


def test_what_does_not_divide_is_refused_with_its_name():
    with pytest.raises(
        ValueError, match=r"tensor_parallel_size: num_attention_heads \(4\) does not divide by 3"
    ):
        QKVParallelLinear(5, 2, 4, 4, bias=False, context=ranks(3)[0])
    with pytest.raises(ValueError, match=r"gate_proj features \(5\) does not divide by 2"):
        MergedColumnParallelLinear(4, {"gate_proj": 5}, bias=False, context=ranks(2)[0])


@pytest.mark.parametrize("size", [1, 2, 3])
def test_vocabulary_split_over_ranks(size):
    weight, ids, hidden = torch.randn(7, 4), torch.tensor([6, 0, 3, 3, 5]), torch.randn(2, 4)
    rows, logits = torch.zeros(5, 4), []
    for context in ranks(size):
        embedding = load(VocabParallelEmbedding(7, 4, context), "embed", {"embed.weight": weight})
        head = load(ParallelLMHead(7, 4, context, None), "lm_head", {"lm_head.weight": weight})
        tied = ParallelLMHead(7, 4, context, embedding)
        assert tied.slots("lm_head") == {}
        rows += embedding(ids)
        logits.append(head(hidden))
        torch.testing.assert_close(tied(hidden), logits[-1])
    torch.testing.assert_close(rows, weight[ids])
    torch.testing.assert_close(torch.cat(logits, -1)[:, :7], hidden @ weight.T)
