"""What a rank reads of a checkpoint: its own shards and nothing else. No processes: a number is enough to load."""

from __future__ import annotations

import pytest
import torch

from minivllm.model_config import ModelConfig
from minivllm.models import loader
from minivllm.models.loader import load_model
from minivllm.ops import attention_backend
from minivllm.parallel.group import PipelineParallel, TensorParallel


@pytest.fixture
def read(monkeypatch):
    """Name of checkpoint tensor -> shapes of the pieces that were read of it."""
    pieces: dict[str, list[tuple[int, ...]]] = {}

    class Slices:
        """A tensor in a file, as safetensors gives it: what is asked of this one is read."""

        def __init__(self, of_file, name):
            self.of_file, self.name = of_file, name

        def __getattr__(self, attribute):
            return getattr(self.of_file, attribute)

        def __getitem__(self, index):
            piece = self.of_file[index]
            pieces.setdefault(self.name, []).append(tuple(piece.shape))
            return piece

    class Watched(loader.FileTensor):
        def __init__(self, file, name):
            super().__init__(file, name)
            self._slice = Slices(self._slice, name)

    monkeypatch.setattr(loader, "FileTensor", Watched)
    return pieces


def load(folder, **ranks):
    backend = attention_backend("torch", torch.device("cpu"))
    return load_model(ModelConfig.from_pretrained(folder), torch.float32, "cpu", backend=backend, **ranks)


def numel(shapes):
    return sum(int(torch.Size(shape).numel()) for shape in shapes)


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
@pytest.mark.parametrize("rank", [0, 3])
def test_a_tensor_rank_reads_its_share_of_every_matrix(family, rank, models, read):
    model = load(models[family], tp=TensorParallel(rank, 4))
    config = ModelConfig.from_pretrained(models[family])
    layer = f"model.layers.{config.num_hidden_layers - 1}"
    hidden, inner, head_dim = config.hidden_size, config.intermediate_size, config.head_dim
    assert read[f"{layer}.mlp.up_proj.weight"] == [(inner // 4, hidden)]
    assert read[f"{layer}.mlp.down_proj.weight"] == [(hidden, inner // 4)]
    assert read[f"{layer}.self_attn.q_proj.weight"] == [(head_dim, hidden)]  # one of four heads
    assert read[f"{layer}.self_attn.k_proj.weight"] == [(head_dim, hidden)]  # one kv head, shared or not
    assert read[f"{layer}.self_attn.o_proj.weight"] == [(hidden, head_dim)]
    ids = [26, 26, 26, 101 - 3 * 26][rank]
    assert read["model.embed_tokens.weight"] == [(ids, hidden)]
    assert all(len(pieces) == 1 for pieces in read.values())
    assert sum(map(numel, read.values())) <= sum(parameter.numel() for parameter in model.parameters())


def test_a_stage_reads_nothing_of_other_stages(models, read):
    for stage, names in enumerate(
        [{"model.embed_tokens.weight"}, set(), {"model.norm.weight", "lm_head.weight"}]
    ):
        read.clear()
        load(models["llama"], pp=PipelineParallel(stage, 3))
        of_layers = {name for name in read if name.startswith("model.layers.")}
        assert {name.split(".")[2] for name in of_layers} == {str(stage)}
        assert read.keys() - of_layers == names


def test_the_last_stage_holds_the_embedding_where_it_is_the_head(models, read):
    load(models["qwen2"], pp=PipelineParallel(1, 2))
    assert read["model.embed_tokens.weight"] == [(101, 64)]


def test_a_tensor_that_no_stage_has_a_place_for_is_refused_by_every_stage(models, monkeypatch):
    weights = loader.read_weights

    def with_one_more(folder):
        yield from weights(folder)
        yield "model.layers.3.mlp.up_proj.weight", torch.ones(1)  # there are layers 0, 1 and 2

    monkeypatch.setattr(loader, "read_weights", with_one_more)
    for stage in range(2):
        with pytest.raises(ValueError, match=r"layers\.3\.mlp\.up_proj\.weight has no place"):
            load(models["llama"], pp=PipelineParallel(stage, 2))


def test_dummy_weights_of_ranks_and_stages_are_pieces_of_the_same_model(models):
    whole = load(models["llama"], load_format="dummy", seed=3).layers[2].mlp.down_proj.weight
    last = load(models["llama"], load_format="dummy", seed=3, pp=PipelineParallel(2, 3)).layers[2]
    assert torch.equal(last.mlp.down_proj.weight, whole)
    second = load(models["llama"], load_format="dummy", seed=3, tp=TensorParallel(1, 2)).layers[2]
    assert torch.equal(second.mlp.down_proj.weight, whole[:, 48:])
