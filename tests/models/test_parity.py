"""Logits and greedy tokens equal transformers', for every family and every way of feeding the tokens.

The models are small and random, with weights large enough that the next token depends on the whole context.
"""

import random
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from minivllm.attention.metadata import AttentionMetadata, LayerKVCache
from minivllm.model_config import ModelConfig
from minivllm.models.decoder import DecoderModel
from minivllm.models.loader import load_model
from minivllm.ops import attention_backend

BLOCK_SIZE = 4
LENGTHS = (37, 5, 1, 22)  # requests that share a batch
MAX_DIFFERENCE = 1e-4  # of logits whose standard deviation is above 1; seen: below 3e-5
NEW_TOKENS = 32

SMALL = {
    "vocab_size": 101,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.25,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
    "attn_implementation": "eager",
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN = {"rope_type": "yarn", "rope_theta": 5000.0, "factor": 4.0, "original_max_position_embeddings": 32}
SLIDING = {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1}

VARIANTS: dict[str, PreTrainedConfig] = {
    "llama": LlamaConfig(**SMALL),
    "llama-no-gqa-tied": LlamaConfig(**SMALL | {"num_key_value_heads": 4}, tie_word_embeddings=True),
    "llama-one-kv-head": LlamaConfig(**SMALL | {"num_key_value_heads": 1}),
    "llama-3-rope": LlamaConfig(**SMALL, rope_parameters=LLAMA3),
    "llama-linear-rope": LlamaConfig(
        **SMALL, rope_parameters={"rope_type": "linear", "factor": 3.0, "rope_theta": 1e4}
    ),
    "llama-yarn-rope": LlamaConfig(**SMALL, rope_parameters=YARN),
    "llama-biases": LlamaConfig(**SMALL, attention_bias=True, mlp_bias=True),
    "llama-head-dim": LlamaConfig(**SMALL, head_dim=24),
    "mistral": MistralConfig(**SMALL, sliding_window=None),
    "mistral-window": MistralConfig(**SMALL, sliding_window=6),
    "mistral-window-head-dim": MistralConfig(**SMALL, sliding_window=9, head_dim=32),
    "qwen2": Qwen2Config(**SMALL, tie_word_embeddings=True),
    "qwen2-untied": Qwen2Config(**SMALL),
    "qwen2-window": Qwen2Config(**SMALL, **SLIDING),
    "qwen3": Qwen3Config(**SMALL, head_dim=32, tie_word_embeddings=True),
    "qwen3-untied-biases": Qwen3Config(**SMALL, head_dim=16, attention_bias=True),
    "qwen3-window": Qwen3Config(**SMALL, head_dim=16, **SLIDING),
}
CLASSES: dict[str, type[PreTrainedModel]] = {
    "llama": LlamaForCausalLM,
    "mistral": MistralForCausalLM,
    "qwen2": Qwen2ForCausalLM,
    "qwen3": Qwen3ForCausalLM,
}


def reference_model(config: PreTrainedConfig) -> PreTrainedModel:
    """A random model whose norms and biases differ from 1 and 0, so that a forgotten one shows."""
    torch.manual_seed(3)
    model = CLASSES[config.model_type](config).float().eval()
    for name, parameter in model.named_parameters():
        if "norm" in name:
            parameter.data.uniform_(0.5, 1.5)
        elif name.endswith("bias"):
            parameter.data.normal_(std=0.2)
    return model


@dataclass
class Pair:
    """transformers' model and ours, with the same weights, and transformers' logits of a few prompts."""

    reference: PreTrainedModel
    ours: DecoderModel
    prompts: list[list[int]]
    logits: list[Tensor]  # one [length, V] per prompt


@pytest.fixture(scope="module", params=VARIANTS)
def pair(request, tmp_path_factory) -> Pair:
    folder = tmp_path_factory.mktemp(request.param)
    reference = reference_model(VARIANTS[request.param])
    reference.save_pretrained(folder)
    ours = load_model(
        ModelConfig.from_pretrained(folder), torch.float32, "cpu", backend=attention_backend("torch")
    )
    generator = torch.Generator().manual_seed(7)
    prompts = [torch.randint(0, SMALL["vocab_size"], (n,), generator=generator).tolist() for n in LENGTHS]
    with torch.inference_mode():
        logits = [reference(torch.tensor([prompt])).logits[0] for prompt in prompts]
    return Pair(reference, ours, prompts, logits)


class PagedRun:
    """Feeds tokens of several requests to our model, step by step, through a scattered cache full of NaN."""

    def __init__(self, model: DecoderModel, num_requests: int, max_len: int = 80) -> None:
        self.model = model
        blocks = -(-max_len // BLOCK_SIZE)
        order = torch.randperm(num_requests * blocks, generator=torch.Generator().manual_seed(5)) + 1
        self.tables = order.view(num_requests, blocks).tolist()
        self.lens = [0] * num_requests
        dtype = model.norm.weight.dtype
        shape = (num_requests * blocks + 1, BLOCK_SIZE)
        self.kv_caches = [
            LayerKVCache(*torch.full((2, *shape, s.num_kv_heads, s.head_size), float("nan"), dtype=dtype))
            for s in model.kv_cache_specs()
        ]

    @torch.inference_mode()
    def step(self, work: dict[int, list[int]]) -> dict[int, Tensor]:
        """Feed the next tokens of some requests in one flat batch; logits [tokens, V] of each."""
        starts = {r: self.lens[r] for r in work}
        for r, tokens in work.items():
            self.lens[r] += len(tokens)
        metadata = AttentionMetadata.from_lists(
            [len(tokens) for tokens in work.values()],
            [self.lens[r] for r in work],
            [self.tables[r] for r in work],
            BLOCK_SIZE,
        )
        input_ids = torch.tensor([token for tokens in work.values() for token in tokens])
        positions = torch.cat([torch.arange(starts[r], self.lens[r]) for r in work])
        metadata = replace(metadata, plan=self.model.backend.build_plan(metadata))
        hidden = self.model(self.model.embed(input_ids), positions, self.kv_caches, metadata)
        logits = self.model.compute_logits(hidden).split([len(tokens) for tokens in work.values()])
        return dict(zip(work, logits, strict=True))


def difference(got: list[Tensor], expected: list[Tensor]) -> float:
    return max(float((a - b).abs().max()) for a, b in zip(got, expected, strict=True))


def test_one_prefill(pair, record_property):
    out = PagedRun(pair.ours, len(LENGTHS)).step(dict(enumerate(pair.prompts)))
    record_property("max_abs_logit_difference", difference(list(out.values()), pair.logits))
    assert difference(list(out.values()), pair.logits) < MAX_DIFFERENCE
    assert torch.cat(pair.logits).std() > 1  # else the tolerance would mean little


def test_token_by_token(pair):
    run = PagedRun(pair.ours, len(LENGTHS))
    out: list[list[Tensor]] = [[] for _ in LENGTHS]
    for position in range(max(LENGTHS)):
        work = {r: [prompt[position]] for r, prompt in enumerate(pair.prompts) if position < len(prompt)}
        for r, logits in run.step(work).items():
            out[r].append(logits)
    assert difference([torch.cat(logits) for logits in out], pair.logits) < MAX_DIFFERENCE


@pytest.mark.parametrize("seed", range(3))
def test_random_chunks_in_random_company(pair, seed):
    rng = random.Random(seed)
    run = PagedRun(pair.ours, len(LENGTHS))
    out: list[list[Tensor]] = [[] for _ in LENGTHS]
    while unfinished := [r for r, n in enumerate(LENGTHS) if run.lens[r] < n]:
        work = {}
        for r in rng.sample(unfinished, rng.randint(1, len(unfinished))):
            size = rng.randint(1, LENGTHS[r] - run.lens[r])
            work[r] = pair.prompts[r][run.lens[r] : run.lens[r] + size]
        for r, logits in run.step(work).items():
            out[r].append(logits)
    assert difference([torch.cat(logits) for logits in out], pair.logits) < MAX_DIFFERENCE


def test_greedy_tokens(pair):
    """All requests generate together; transformers generates each alone."""
    run = PagedRun(pair.ours, len(LENGTHS))
    logits = run.step(dict(enumerate(pair.prompts)))
    tokens: list[list[int]] = [[] for _ in LENGTHS]
    for _ in range(NEW_TOKENS):
        for r in range(len(LENGTHS)):
            tokens[r].append(int(logits[r][-1].argmax()))
        logits = run.step({r: [tokens[r][-1]] for r in range(len(LENGTHS))})
    for prompt, ours in zip(pair.prompts, tokens, strict=True):
        options = {"max_new_tokens": NEW_TOKENS, "do_sample": False, "pad_token_id": 0}
        expected = pair.reference.generate(torch.tensor([prompt]), **options)[0, len(prompt) :].tolist()
        assert ours == expected
    assert len({token for row in tokens for token in row}) > 20  # no model that repeats one token


def test_naive_backend_gives_the_same_logits(pair):
    naive = load_model(pair.ours.config, torch.float32, "cpu", backend=attention_backend("naive"))
    short = [1, 2]  # the oracle is slow
    out = PagedRun(naive, len(LENGTHS)).step({r: pair.prompts[r] for r in short})
    assert difference(list(out.values()), [pair.logits[r] for r in short]) < MAX_DIFFERENCE


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("variant", ["llama-3-rope", "mistral-window", "qwen2", "qwen3"])
def test_half_precision_errs_no_more_than_transformers(variant, dtype, tmp_path):
    """Against float32 logits of the same (rounded) weights, our rounding errors are as small as transformers'."""
    config = VARIANTS[variant]
    reference = reference_model(config).to(dtype)
    reference.save_pretrained(tmp_path)
    model_config = ModelConfig.from_pretrained(tmp_path)
    assert model_config.dtype == str(dtype).removeprefix("torch.")
    ours = load_model(model_config, dtype, "cpu", backend=attention_backend("torch"))
    prompt = torch.randint(0, SMALL["vocab_size"], (30,), generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        theirs = reference(prompt[None]).logits[0]
        exact = reference.float()(prompt[None]).logits[0]
    got = PagedRun(ours, 1).step({0: prompt.tolist()})[0]
    assert got.dtype == dtype
    errors = [(logits.float() - exact).pow(2).mean().sqrt() for logits in (got, theirs)]
    assert errors[0] < 1.3 * errors[1]
