"""Heads on hidden states: what they compute, whose state they read, and the sentence for those that do not fit."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from minivllm.config import EngineConfig
from minivllm.sampling_params import SamplingParams
from minivllm.spec_decode.medusa import MedusaHeads, MedusaProposer
from minivllm.spec_decode.proposer import DraftStep
from minivllm.zoo.medusa import save

HIDDEN_SIZE = 32  # of the tiny model


def random_heads(num_heads, hidden_size, seed=0, scale=0.3):
    generator = torch.Generator().manual_seed(seed)
    heads = MedusaHeads(num_heads, hidden_size)
    for weight in heads.parameters():
        weight.data.copy_(scale * torch.randn(weight.shape, generator=generator))
    return heads


@pytest.fixture
def heads_folder(tmp_path, tiny_model):
    """heads_folder(num_heads, hidden_size, vocab_size): a folder with random heads."""

    def make(num_heads=3, hidden_size=HIDDEN_SIZE, vocab_size=None):
        vocab_size = vocab_size or json.loads((tiny_model / "config.json").read_text())["vocab_size"]
        save(random_heads(num_heads, hidden_size), tmp_path / "heads", vocab_size)
        return tmp_path / "heads"

    return make


def silu(x):
    return x / (1 + np.exp(-x))


def test_heads_by_loops():
    """One position and one head at a time, in float64."""
    heads = random_heads(3, 5)
    hidden, token = np.random.default_rng(1).normal(size=(2, 4, 5))
    mix_hidden, mix_token, blocks = (w.detach().double().numpy() for w in heads.parameters())
    with torch.inference_mode():
        said = heads(torch.tensor(hidden).float(), torch.tensor(token).float(), 2)
    assert said.shape == (2, 4, 5)  # the third head is not asked
    for row in range(4):
        normed = token[row] / np.sqrt((token[row] ** 2).mean())
        mixed = hidden[row] + silu(hidden[row] @ mix_hidden + normed @ mix_token)
        for head in range(2):
            expected = mixed + silu(mixed @ blocks[head])
            np.testing.assert_allclose(said[head, row].numpy(), expected, rtol=1e-4, atol=1e-5)


def test_heads_that_have_learned_nothing_say_what_the_model_says():
    hidden = torch.randn(3, 8)
    assert torch.equal(MedusaHeads(2, 8)(hidden, torch.randn(3, 8), 2), hidden.expand(2, 3, 8))


def draft_step(rows, max_drafts, hidden, hidden_rows):
    unused = np.zeros(0)
    return DraftStep(
        rows=rows,
        num_computed=unused,
        num_scheduled=unused,
        max_drafts=max_drafts,
        token_ids=unused,
        num_tokens=unused,
        block_tables=unused,
        sampling_rows=None,
        hidden=hidden,
        hidden_rows=hidden_rows,
    )


@given(data=st.data(), rows=st.permutations(range(7)))
def test_the_newest_state_of_each_request_that_is_drafted_for(data, rows):
    """Requests say none, one or several tokens in a step; the state that counts is the one behind the last."""
    rows = np.array(rows[: data.draw(st.integers(1, 7))])
    num_said = [data.draw(st.integers(0, 3)) for _ in rows]
    max_drafts = np.array([data.draw(st.integers(0, 2)) if said else 0 for said in num_said])
    hidden = torch.arange(sum(num_said))[:, None] * 1.0
    expected, end = [], 0
    for said, drafts in zip(num_said, max_drafts, strict=True):
        end += said
        if drafts:
            expected.append([end - 1.0])
    step = draft_step(rows, max_drafts, hidden, np.repeat(rows, num_said))
    assert step.newest_hidden().tolist() == expected


class Counting:
    """A model and its heads: head h, on state s and token t, says 100 s + 10 t + h."""

    def embed(self, input_ids):
        return input_ids[:, None]

    def __call__(self, hidden, embedded, num_heads):
        return 100 * hidden + 10 * embedded + torch.arange(num_heads)[:, None, None]  # [k, m, 1]

    def compute_logits(self, hidden):
        return torch.nn.functional.one_hot(hidden[:, 0].long(), 1000)


def test_each_request_gets_its_own_drafts_and_no_more_than_are_wanted():
    """Row 2 wants one draft and row 0 three; row 1 wants none. Their newest tokens are 7, 5 and 6."""
    token_ids = np.array([[4, 5, 0], [6, 0, 0], [1, 1, 7]])
    hidden = torch.tensor([[9.0], [1.0], [2.0], [3.0]])  # row 2 has said two tokens
    step = draft_step(np.array([2, 0, 1]), np.array([1, 3, 0]), hidden, np.array([2, 2, 0, 1]))
    step = replace(step, token_ids=token_ids, num_tokens=np.array([2, 1, 3]))
    drafts = MedusaProposer(Counting(), Counting()).propose(step)
    assert {row: draft.token_ids for row, draft in drafts.items()} == {2: [170], 0: [250, 251, 252]}


@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_any_heads_leave_the_answers_as_they_are(temperature, heads_folder, make_engine, assert_idle):
    """A real model, chunked prompts, and heads that are mostly wrong; drawn from one token that is left."""
    config = {"method": "medusa", "model": str(heads_folder()), "num_speculative_tokens": 3}
    params = SamplingParams(temperature=temperature, top_k=1, max_tokens=20, ignore_eos=True)
    said = []
    for speculative_config in (None, config):
        engine = make_engine(speculative_config=speculative_config, max_num_batched_tokens=12)
        for number in range(6):
            engine.add_request(
                str(number), [5 + number, 7, 250 - number, *range(40, 40 + 3 * number)], params
            )
        last = {}
        while engine.has_unfinished_requests():
            last.update({output.request_id: output.outputs[0].token_ids for output in engine.step()})
        assert_idle(engine)
        said.append(last)
    assert said[0] == said[1]
    assert engine.stats().num_draft_tokens > 100


K = {"num_speculative_tokens": 3}


def test_heads_that_do_not_fit_get_a_sentence(heads_folder, make_engine):
    def refused(sentence, folder, **fields):
        with pytest.raises(ValueError, match=sentence):
            make_engine(speculative_config={"method": "medusa", "model": str(folder), **K, **fields})

    refused("made for hidden states of size 16, and the model has 32", heads_folder(hidden_size=16))
    refused("made for a vocabulary of 3072, and the model has 296", heads_folder(vocab_size=3072))
    refused("num_speculative_tokens must be at most 2, the heads of .*, not 3", heads_folder(num_heads=2))
    refused("'tutor-draft' holds no Medusa heads: method draft_model", "tutor-draft")
    refused("'nobody' is neither a folder nor a hub id", "nobody")
    folder = heads_folder()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_heads": 0}))
    refused("config.json: num_heads must be a positive whole number, got 0", folder)


def test_weights_that_do_not_fit_get_a_sentence(heads_folder, make_engine):
    file = heads_folder() / "model.safetensors"
    weights = load_file(file)

    def refused(sentence, changed):
        save_file(changed, file)
        with pytest.raises(ValueError, match=sentence):
            make_engine(speculative_config={"method": "medusa", "model": str(file.parent), **K})

    refused(
        "no place for the tensor 'lm_heads.0.weight'", {**weights, "lm_heads.0.weight": torch.zeros(2, 2)}
    )
    refused(
        r"tensor blocks must have shape \[3, 32, 32\], got \[2, 32, 32\]",
        {**weights, "blocks": weights["blocks"][:2].clone()},
    )
    refused("the tensor mix_token is missing", {n: w for n, w in weights.items() if n != "mix_token"})


def test_heads_are_no_draft_model_and_no_model(heads_folder, make_engine):
    folder = str(heads_folder())
    with pytest.raises(ValueError, match="holds Medusa heads and no model: set method to medusa"):
        make_engine(speculative_config={"model": folder, **K})
    with pytest.raises(ValueError, match="method medusa needs tensor_parallel_size 1"):
        EngineConfig(speculative_config={"method": "medusa", "model": folder, **K}, tensor_parallel_size=2)
