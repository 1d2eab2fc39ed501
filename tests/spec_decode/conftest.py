"""The engines of tests/engine, which are no package: a rule that is exact, and a tiny random model."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

import minivllm.spec_decode.draft_model
import minivllm.spec_decode.medusa


def load(name):
    """A module of tests/engine by its path."""
    path = Path(__file__).parents[1] / "engine" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"engine_{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_engine = load("conftest")
tiny_model, make_engine, make_rule_engine = (
    _engine.tiny_model,
    _engine.make_engine,
    _engine.make_rule_engine,
)
answer, assert_idle, drain_fixture = _engine.answer, _engine.assert_idle, _engine.drain_fixture


@pytest.fixture(scope="session")
def make_rule_pair(make_rule_engine, tiny_model):
    """make_rule_pair(rule, draft_rule, num_tokens, **fields): an engine in which a rule drafts for a rule.

    The drafting rule reads its context back through the block tables, too: a draft model that has missed a token, or
    finds somebody else's in its place, is noticed at once.
    """

    def make(rule, draft_rule, num_tokens, more=None, **fields):
        def load_model(model_config, *args, **kwargs):
            return _engine.RuleModel(draft_rule, model_config.vocab_size)

        config = {"model": str(tiny_model), "num_speculative_tokens": num_tokens, **(more or {})}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(minivllm.spec_decode.draft_model, "load_model", load_model)
            return make_rule_engine(rule, speculative_config=config, **fields)

    return make


class Drafted(tuple):
    """A context that heads have thought up."""


class RuleHeads:
    """Heads that think a rule. In a rule model a hidden state is the place of its context, as far as it was read back
    from the KV cache: heads that are given another position's state, or another request's, think of the wrong text.

    A head's answer is a place again, behind which the rule model finds what the head thinks of.
    """

    def __init__(self, model, rules):
        self.model, self.rules = model, rules

    def __call__(self, hidden, embedded, num_heads):
        said = torch.empty(num_heads, len(hidden), 1, dtype=torch.int64)
        for i, (place, token) in enumerate(zip(hidden[:, 0].tolist(), embedded[:, 0].tolist(), strict=True)):
            context = (*self.model.contexts[place], int(token))
            for head in range(num_heads):
                rule = self.rules[min(head, len(self.rules) - 1)]
                said[head, i, 0] = len(self.model.contexts)
                self.model.contexts.append(Drafted((rule, *context)))
                context = (*context, int(np.argmax(rule(context))))
        return said


@pytest.fixture(scope="session")
def make_rule_heads(make_rule_engine, tiny_model):
    """make_rule_heads(rule, draft_rules, num_tokens, **fields): an engine in which heads draft for a rule.

    The first head thinks the first of `draft_rules`, the second the second; the last one is that of all others.
    """

    def make(rule, draft_rules, num_tokens, more=None, **fields):
        def load_medusa(name, num_drafts, model, *args):
            return minivllm.spec_decode.medusa.MedusaProposer(model, RuleHeads(model, draft_rules))

        def model_or_head(context):
            return context[0](context[1:]) if isinstance(context, Drafted) else rule(context)

        config = {
            "method": "medusa",
            "model": str(tiny_model),
            "num_speculative_tokens": num_tokens,
            **(more or {}),
        }
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(minivllm.spec_decode.medusa, "load_medusa", load_medusa)
            return make_rule_engine(model_or_head, speculative_config=config, **fields)

    return make
