"""Training: it learns, it goes on from a checkpoint as if nothing had happened, and its parts do what they say."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer

from minivllm import zoo
from minivllm.zoo.dialogue import Mixture
from minivllm.zoo.lexicon import load_lexicon
from minivllm.zoo.optim import orthogonalize
from minivllm.zoo.recipes import Recipe, learning_rate
from minivllm.zoo.rows import make_row
from minivllm.zoo.train import run
from minivllm.zoo.trainer import Trainer

TINY = Recipe(
    hidden_size=32,
    num_layers=1,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    intermediate_size=64,
    tokens=4 * 512,
    tokens_per_step=512,
    lengths=((0.0, {128: 1.0}), (0.5, {128: 0.5, 256: 0.5})),
)


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.from_file(str(zoo.path("tutor") / "tokenizer.json"))


@pytest.fixture(scope="module")
def lexicon():
    return load_lexicon()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_resumed_training_ends_with_the_same_weights(tmp_path, tokenizer, lexicon, workers):
    def trainer() -> Trainer:
        return Trainer(TINY, tokenizer, lexicon, workers=workers)

    run(trainer(), tmp_path / "whole", save_every=1e9)
    first = trainer()
    first.step()
    first.step()
    first.save(tmp_path / "parts")
    second = trainer()
    second.load(tmp_path / "parts")
    run(second, tmp_path / "parts", save_every=1e9)

    whole, parts = (load_file(tmp_path / name / "weights.safetensors") for name in ("whole", "parts"))
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    progress = [json.loads((tmp_path / name / "progress.json").read_text()) for name in ("whole", "parts")]
    assert progress[0] == progress[1]
    assert progress[0]["tokens"] >= TINY.tokens


def test_two_workers_see_the_gradient_of_one(tokenizer, lexicon):
    one, two = (Trainer(TINY, tokenizer, lexicon, workers=workers) for workers in (1, 2))
    for trainer in (one, two):
        trainer.step()
    for left, right in zip(one.model.parameters(), two.model.parameters(), strict=True):
        torch.testing.assert_close(left.grad, right.grad, rtol=1e-4, atol=1e-6)


def test_the_loss_falls(tokenizer, lexicon):
    trainer = Trainer(replace(TINY, tokens=10**9, lengths=((0.0, {64: 1.0}),)), tokenizer, lexicon)
    losses = [trainer.step() for _ in range(60)]
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])


def test_bfloat16_products_give_about_the_same_gradients(tokenizer, lexicon):
    exact, mixed = (
        Trainer(TINY, tokenizer, lexicon, workers=2, is_mixed=is_mixed) for is_mixed in (False, True)
    )
    for trainer in (exact, mixed):
        trainer.step()
    ours, theirs = (
        torch.cat([weight.grad.flatten() for weight in trainer.model.parameters()])
        for trainer in (exact, mixed)
    )
    assert torch.cosine_similarity(ours, theirs, dim=0) > 0.99
    assert not torch.equal(ours, theirs)


@pytest.mark.parametrize("length", [128, 700])
def test_rows_learn_answers_only(tokenizer, lexicon, length):
    for seed in range(10):
        row = make_row(lexicon, tokenizer, f"row:{seed}", length, Mixture(text=0.0))
        assert len(row.ids) == len(row.skills) == length
        text = "".join(
            tokenizer.decode([token], skip_special_tokens=False)
            for token, skill in zip(row.ids, row.skills, strict=True)
            if skill
        )
        assert "<|im_start|>" not in text
        learned = tokenizer.decode(row.ids, skip_special_tokens=False).count("<|im_end|>")
        assert 0 < text.count("<|im_end|>") <= learned / 2


def test_orthogonalize_sets_singular_values_to_about_one():
    torch.manual_seed(0)
    for shape in ((3, 24, 16), (2, 16, 24), (1, 8, 8)):
        matrices = torch.randn(shape)
        left, _, right = torch.linalg.svd(matrices, full_matrices=False)
        values = torch.linalg.svdvals(orthogonalize(matrices))
        assert values.min() > 0.3 and values.max() < 1.3
        agreement = (orthogonalize(matrices) * (left @ right)).sum((-2, -1)) / min(shape[-2:])
        assert agreement.min() > 0.6


def test_learning_rate_warms_up_stays_and_decays():
    assert learning_rate(0, 0.0) == pytest.approx(0.02)
    assert learning_rate(1000, 0.3) == 1.0
    assert learning_rate(1000, 1.0) == 0.0
    assert learning_rate(1000, 0.775) == pytest.approx(0.5)
