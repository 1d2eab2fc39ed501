"""The engines of tests/engine, which are no package: a rule that is exact, and a tiny random model."""

import importlib.util
from pathlib import Path

import pytest

import minivllm.spec_decode.draft_model


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
