"""Training heads: what they are to learn, that they learn it, and what is written."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minivllm.spec_decode.medusa import MedusaConfig, MedusaHeads
from minivllm.zoo.medusa import Positions, agreement, join, positions_of, save, train
from minivllm.zoo.medusa_card import card


@settings(max_examples=50)
@given(data=st.data(), length=st.integers(4, 12), k=st.integers(1, 3))
def test_what_is_learned_at_each_position(data, length, k):
    """By loops over one row: the token behind the state, what the model says next, and as far as it is its own text."""

    def numbers(most):
        return data.draw(st.lists(st.integers(0, most), min_size=length, max_size=length))

    ids, said, is_answer = numbers(2), numbers(2), [bool(n) for n in numbers(3)]
    length = max(length, k + 2)
    ids, said, is_answer = (row + row[: length - len(row)] for row in (ids, said, is_answer))
    hidden = torch.arange(length)[None, :, None].float()
    found = positions_of(torch.tensor([ids]), torch.tensor([is_answer]), hidden, torch.tensor([said]), k)
    expected = []
    for t in range(length - 1 - k):
        counts = []
        for head in range(k):
            inside = all(is_answer[t + 1 : t + 3 + head])
            own = all(ids[i] == said[i - 1] for i in range(t + 2, t + 2 + head))
            counts.append(inside and own)
        if counts[0]:
            expected.append((t, ids[t + 1], said[t + 1 : t + 1 + k], counts))
    got = zip(
        found.hidden[:, 0].tolist(),
        found.token.tolist(),
        found.wanted.tolist(),
        found.counts.tolist(),
        strict=True,
    )
    assert list(got) == expected


def cycles(n, vocab_size=12, hidden_size=16, seed=0):
    """States from which the next tokens follow, once the drawn one is known: they go on in steps of 1 or 5."""
    generator = torch.Generator().manual_seed(seed)
    token, stride = (torch.randint(high, (n,), generator=generator) for high in (vocab_size, 2))
    kinds = torch.randn(2, hidden_size, generator=torch.Generator().manual_seed(9))
    wanted = torch.stack([(token + (1 + 4 * stride) * i) % vocab_size for i in (1, 2)], dim=-1)
    return Positions(kinds[stride].half(), token, wanted, torch.ones(n, 2, dtype=torch.bool))


def test_heads_learn_what_follows_from_state_and_token():
    torch.manual_seed(0)
    embedding = torch.randn(12, 16)
    heads = MedusaHeads(2, 16)
    data, others = cycles(600), cycles(300, seed=1)
    assert max(agreement(heads, embedding, others)) < 0.5
    train(heads, embedding, data, 300)
    assert min(agreement(heads, embedding, others)) > 0.95


def test_agreement_looks_only_behind_right_drafts():
    """Heads that say the drawn token again: right where it is wanted. The second draft is looked at in two rows."""
    embedding = torch.eye(4)
    token = torch.tensor([0, 1, 2, 3])
    wanted = torch.tensor([[0, 0], [1, 3], [0, 2], [3, 3]])
    counts = torch.tensor([[True, True], [True, True], [True, True], [True, False]])
    data = Positions(embedding[token].half(), token, wanted, counts)
    assert agreement(MedusaHeads(2, 4), embedding, data) == [3 / 4, 1 / 2]


def test_parts_are_joined_in_order():
    both = join([cycles(3), cycles(4, seed=2)])
    assert len(both.token) == 7 and torch.equal(both.wanted[3:], cycles(4, seed=2).wanted)


def test_what_is_written_is_read_again_and_described(tmp_path):
    heads = MedusaHeads(3, 8)
    for weight in heads.parameters():
        weight.data.copy_(torch.randn(weight.shape).bfloat16())
    save(heads, tmp_path, 12)
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == ["MedusaModel"]
    assert MedusaConfig.from_pretrained(tmp_path) == MedusaConfig(8, 12, 3)
    again = MedusaHeads(3, 8)
    again.load(tmp_path)
    for mine, theirs in zip(heads.parameters(), again.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    text = card(tmp_path, "tutor", [0.5, 0.25, 0.125], tokens=1000, steps=20, batch=256, minutes=2)
    assert "# tutor-medusa" in text and "| 2 | 25.0% |" in text and "20 steps of 256 positions" in text


@pytest.mark.parametrize("k", [1, 4])
def test_a_state_without_an_answer_teaches_nothing(k):
    ids = torch.zeros(2, 9, dtype=torch.int64)
    found = positions_of(ids, torch.zeros(2, 9, dtype=torch.bool), torch.zeros(2, 9, 3), ids, k)
    assert found.hidden.shape == (0, 3) and found.wanted.shape == (0, k)
