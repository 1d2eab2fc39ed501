"""Which backend is chosen, and that a whole engine says the same with each of them."""

import importlib.util

import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from minivllm import LLM, SamplingParams, ops
from minivllm.attention.metadata import AttentionMetadata, LayerKVCache
from minivllm.kernels import _triton
from minivllm.ops import attention_backend, has_cpp, has_triton

needs_triton = pytest.mark.skipif(not has_triton(), reason="Triton has no wheel for this system")
needs_cpp = pytest.mark.skipif(not has_cpp(), reason="the C++ kernels cannot be built here")


@needs_triton
def test_auto_is_triton_on_a_gpu():
    assert attention_backend("auto", "cuda").name == attention_backend("auto", "cuda:1").name == "triton"
    assert attention_backend("torch", "cuda").name == "torch"


@pytest.mark.parametrize(("is_built", "name"), [(True, "cpp"), (False, "torch")])
def test_auto_is_cpp_on_a_cpu_that_has_it(monkeypatch, is_built, name):
    monkeypatch.setattr(ops, "has_cpp", lambda: is_built)
    assert attention_backend("auto", "cpu").name == name
    assert attention_backend("torch", "cpu").name == "torch"


@pytest.mark.parametrize(("device", "is_built"), [("cuda", True), ("cpu", False)])
def test_where_cpp_cannot_run_the_sentence_says_what_to_do(monkeypatch, device, is_built):
    monkeypatch.setattr(ops, "has_cpp", lambda: is_built)
    with pytest.raises(ValueError, match=f"'cpp' needs device cpu and a C.. compiler.*'{device}'.*'auto'"):
        attention_backend("cpp", device)


def test_where_triton_cannot_run_the_sentence_says_what_to_do(monkeypatch):
    if has_triton():
        monkeypatch.setattr(_triton, "INTERPRETED", False)
        with pytest.raises(
            ValueError, match=r"'triton': .* on a CUDA device, not on 'cpu'.*TRITON_INTERPRET=1.*'auto'"
        ):
            attention_backend("triton", "cpu")
    monkeypatch.setattr(_triton, "HAS_TRITON", False)
    with pytest.raises(ValueError, match="'triton': Triton is not installed"):
        attention_backend("triton", "cuda")
    monkeypatch.setattr(ops, "has_triton", lambda: False)
    assert attention_backend("auto", "cuda").name == "torch"


@needs_triton
@pytest.mark.parametrize(
    ("query_lens", "padding", "processors", "kernel"),
    [
        ([1, 1], 0, 1, "paged_attention"),
        ([1, 1], 0, 64, "paged_attention_split_kv"),
        ([1, 2], 0, 64, "varlen_attention"),
        ([1, 1], 1, 64, "varlen_attention"),  # a token that no request owns
    ],
)
def test_each_batch_gets_its_kernel(monkeypatch, query_lens, padding, processors, kernel):
    module = importlib.import_module(f"minivllm.kernels.{kernel}")
    called = []
    monkeypatch.setattr(module, f"{kernel}_triton", lambda *args, **options: called.append((args, options)))
    monkeypatch.setattr(ops, "_num_processors", lambda device: processors)
    monkeypatch.setattr(_triton, "INTERPRETED", True)  # tensors on the CPU, even where there is a GPU
    metadata = AttentionMetadata.from_lists(query_lens, [600, 700], [[1] * 50] * 2, 16)
    cache = LayerKVCache(*torch.zeros(2, 3, 16, 2, 4))
    query = torch.zeros(sum(query_lens) + padding, 4, 4)
    attention_backend("triton").attend(query, cache, metadata, scale=0.25, window=7)
    ((args, options),) = called
    assert args[0] is query and args[1:3] == tuple(cache)
    assert options["scale"] == 0.25 and options["window"] == 7


@pytest.fixture(scope="module")
def two_layers(tmp_path_factory):
    """A random model of two layers, whose greedy tokens depend on the whole context."""
    folder = tmp_path_factory.mktemp("two_layers")
    config = Qwen3Config(
        vocab_size=97,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=20,
        intermediate_size=48,
        max_position_embeddings=256,
        initializer_range=0.3,
        eos_token_id=None,
        bos_token_id=None,
    )
    torch.manual_seed(0)
    Qwen3ForCausalLM(config).save_pretrained(folder)
    return folder


PROMPTS = [{"prompt_token_ids": list(range(5, 5 + n))} for n in (1, 8, 33)]


def run(folder, backend, **options):
    """Greedy tokens and their logprobs: prompts in pieces beside decoding requests, at most 20 steps."""
    llm = LLM(
        str(folder),
        attention_backend=backend,
        device="cpu" if backend == "cpp" else "auto",
        dtype="float32",
        num_gpu_blocks_override=64,
        block_size=8,
        max_num_seqs=3,
        max_num_batched_tokens=24,
        **options,
    )
    params = SamplingParams(temperature=0, max_tokens=6, logprobs=0)
    outputs = [output.outputs[0] for output in llm.generate(PROMPTS, params, use_tqdm=False)]
    tokens = [list(output.token_ids) for output in outputs]
    return tokens, torch.tensor([output.cumulative_logprob for output in outputs])


@pytest.fixture(scope="module")
def expected(two_layers):
    tokens, logprobs = run(two_layers, "torch")
    assert len({token for row in tokens for token in row}) > 6
    return tokens, logprobs


@pytest.mark.engine_smoke
@pytest.mark.parametrize(
    ("backend", "eager"),
    [
        ("naive", True),
        pytest.param("cpp", True, marks=needs_cpp),
        pytest.param("cpp", False, marks=needs_cpp),
        pytest.param("triton", True, marks=needs_triton),
        pytest.param("triton", False, marks=needs_triton),
    ],
)
def test_a_whole_engine_says_the_same_with_every_backend(two_layers, expected, backend, eager):
    tokens, logprobs = run(two_layers, backend, enforce_eager=eager)
    assert tokens == expected[0]
    torch.testing.assert_close(logprobs, expected[1], atol=2e-4, rtol=0)
