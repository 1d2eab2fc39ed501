"""Two engines to test: one with a tiny random model, and one whose model is a rule that the test writes down.

The rule model computes nothing, but it uses the KV cache like a real one: it writes each token and its position into
the token's slot, reads the whole context back through the block tables, and asks the rule for the logits after it. So
any mistake in batching, paging, caching or preemption changes its answer, exactly and at once.
"""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

import minivllm.engine
import minivllm.worker.model_runner
from minivllm.config import EngineConfig
from minivllm.engine import LLMEngine
from minivllm.model_config import KVCacheSpec

CORPUS = ["the cat sat on the mat, and that was the end of it. " * 5, "你好，世界！🙂 café " * 5]
CHAT_TEMPLATE = (
    "{% for m in messages %}{{ '<|start|>' + m['role'] + ': ' + m['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant: ' }}{% endif %}"
)
EOS = 1  # <|end|>
NUM_PADDING_IDS = 6  # the model knows a few ids more than the tokenizer, as many models do


def make_tokenizer():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=290,
        special_tokens=["<|start|>", "<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|end|>", chat_template=CHAT_TEMPLATE
    )


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """The folder of a random Qwen3 with a byte-level tokenizer; large variance, so that greedy tokens do not repeat."""
    folder = tmp_path_factory.mktemp("tiny_model")
    tokenizer = make_tokenizer()
    tokenizer.save_pretrained(folder)
    config = Qwen3Config(
        vocab_size=len(tokenizer) + NUM_PADDING_IDS,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        intermediate_size=48,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        initializer_range=0.3,
        eos_token_id=EOS,
        bos_token_id=None,
    )
    torch.manual_seed(0)
    Qwen3ForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def reference_logits(tiny_model):
    """token ids -> logits [T][V] of the next token after each position, by transformers in float64."""
    model = Qwen3ForCausalLM.from_pretrained(tiny_model).double().eval()

    def logits(token_ids):
        with torch.inference_mode():
            return model(torch.tensor([token_ids])).logits[0].tolist()

    return logits


@pytest.fixture(scope="session")
def sampling_oracle():
    """The module tests/sampling/oracle.py (tests are no package, so it cannot be imported by name)."""
    path = Path(__file__).parents[1] / "sampling" / "oracle.py"
    spec = importlib.util.spec_from_file_location("sampling_oracle", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def make_engine(tiny_model):
    """make_engine(**fields of EngineConfig): an engine with the tiny model. The tokenizer is loaded only once."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)

    def make(**fields):
        room = {"num_gpu_blocks_override": 100, "max_num_seqs": 8, "max_num_batched_tokens": 64}
        config = EngineConfig(model=str(tiny_model), **(room | fields))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(minivllm.engine, "load_tokenizer", lambda *args: tokenizer)
            return LLMEngine(config)

    return make


class RuleModel(torch.nn.Module):
    """Says what the rule says: rule(context) is the next token, or an array of V logits."""

    def __init__(self, rule, vocab_size):
        super().__init__()
        self.rule, self.vocab_size = rule, vocab_size
        self.contexts = []

    def kv_cache_specs(self):
        return [KVCacheSpec(num_kv_heads=1, head_size=2, dtype="float32")]

    def embed(self, input_ids):
        return input_ids[:, None].float()

    def forward(self, x, positions, kv_caches, metadata, wanted=None):
        for cache in kv_caches[0]:
            rows = cache.view(-1, 2)
            assert (metadata.slot_mapping >= metadata.block_size).all(), (
                "a token is written to the null block"
            )
            rows[metadata.slot_mapping] = torch.stack([x[:, 0], positions.float()], dim=1)
        self.contexts = []
        starts = metadata.query_start_loc.tolist()
        for r, seq_len in enumerate(metadata.seq_lens.tolist()):
            place = torch.arange(seq_len)
            blocks = metadata.block_tables[r][place // metadata.block_size].long()
            read = kv_caches[0].key[blocks, place % metadata.block_size, 0]  # [seq_len, 2]
            assert read[:, 1].tolist() == place.tolist(), "the context's slots hold other positions"
            tokens = tuple(map(int, read[:, 0].tolist()))
            num_new = starts[r + 1] - starts[r]
            self.contexts += [tokens[: seq_len - num_new + i + 1] for i in range(num_new)]
        return (torch.arange(len(x)) if wanted is None else wanted)[:, None]

    def compute_logits(self, hidden):
        rows = []
        for index in hidden[:, 0].tolist():
            said = self.rule(self.contexts[index])
            if isinstance(said, int):
                said = np.where(np.arange(self.vocab_size) == said, 0.0, -50.0)
            rows.append(said)
        return torch.from_numpy(np.stack(rows)).float()


@pytest.fixture(scope="session")
def make_rule_engine(make_engine):
    """make_rule_engine(rule, **fields of EngineConfig): an engine whose model is the rule."""

    def make(rule, **fields):
        def load_model(model_config, *args, **kwargs):
            return RuleModel(rule, model_config.vocab_size)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(minivllm.worker.model_runner, "load_model", load_model)
            return make_engine(**fields)

    return make


@pytest.fixture(scope="session")
def make_speaker(make_rule_engine):
    """make_speaker(tokens, **fields): an engine that answers with these tokens, over and over.

    The answer begins after the last <|start|> (token 0), so every prompt should end with it.
    """

    def make(tokens, **fields):
        def rule(context):
            return tokens[context[::-1].index(0) % len(tokens)]

        return make_rule_engine(rule, **fields)

    return make


def drain(engine):
    """Every RequestOutput until nothing is left; block book-keeping is checked after each step."""
    outputs = []
    while engine.has_unfinished_requests():
        outputs += engine.step()
        engine.kv_cache_manager.check_integrity()
    return outputs


@pytest.fixture(name="drain", scope="session")
def drain_fixture():
    """drain(engine): every RequestOutput until nothing is left."""
    return drain


@pytest.fixture(scope="session")
def answer():
    """answer(engine, prompt, params): run one request, and return its last RequestOutput."""

    def run(engine, prompt, params, request_id="one"):
        engine.add_request(request_id, prompt, params)
        return drain(engine)[-1]

    return run


@pytest.fixture(scope="session")
def assert_idle():
    """assert_idle(engine): nothing is left behind anywhere."""

    def check(engine):
        assert engine.step() == [] and not engine.has_unfinished_requests()
        engine.check_integrity()
        stats = engine.stats()
        assert stats.num_free_blocks == stats.num_gpu_blocks - 1 and stats.kv_cache_usage == 0
        assert stats.num_running_reqs == stats.num_waiting_reqs == 0
        assert not engine.scheduler.requests and not engine.output_processor._calls
        assert len(engine.executor.runner.batch) == 0

    return check
