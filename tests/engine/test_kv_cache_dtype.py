"""An engine whose KV cache is smaller than the model's type: more blocks, and the same answer in any company.

Rounding to 8 bits makes a near-tie of every key that lies between two numbers: another order of a sum can tip it, and
move a logit by a few hundredths. So where answers part, the two tokens must have been that close.
"""

import pytest
import torch

from minivllm import SamplingParams
from minivllm.config import EngineConfig
from minivllm.kernels._triton import HAS_TRITON
from minivllm.model_config import KVCacheSpec
from minivllm.worker.device import resolve_kv_cache_dtype
from minivllm.worker.kv_cache import determine_num_blocks

CPU = torch.device("cpu")
MARGIN = 0.1  # of log-probabilities
NUM_TOKENS = 12
PROMPTS = [[5 + i, 7, 250 - i, *range(30, 30 + 3 * i)] for i in range(8)]
GREEDY = SamplingParams(temperature=0, max_tokens=NUM_TOKENS, ignore_eos=True, logprobs=5)
COMPANY = {
    "in one batch": {},
    "in pieces, with preemption": {
        "block_size": 3,
        "num_gpu_blocks_override": 16,
        "max_model_len": 40,
        "max_num_batched_tokens": 8,
    },
    "swapped": {
        "block_size": 3,
        "num_gpu_blocks_override": 16,
        "max_model_len": 40,
        "preemption_mode": "swap",
        "swap_space": 0.001,
    },
    "padded": {"enforce_eager": False},
    "drafted by an n-gram": {"speculative_config": {"method": "ngram", "num_speculative_tokens": 3}},
}


@pytest.fixture(scope="module")
def make_engine(make_engine):
    """In float32 also on a GPU."""
    return lambda **fields: make_engine(**({"dtype": "float32"} | fields))


def assert_same_but_for_near_ties(said, expected):
    """Lists of CompletionOutput, one for each prompt."""
    equal = 0
    for got, right in zip(said, expected, strict=True):
        parted = [i for i in range(NUM_TOKENS) if got.token_ids[i] != right.token_ids[i]]
        equal += not parted
        if parted:
            before = right.logprobs[parted[0]]
            near = before[right.token_ids[parted[0]]].logprob - before[got.token_ids[parted[0]]].logprob
            assert abs(near) < MARGIN
    assert equal >= len(said) * 3 // 4


def play(engine, drain, prompts=PROMPTS):
    for number, prompt in enumerate(prompts):
        engine.add_request(str(number), prompt, GREEDY)
    last = {output.request_id: output.outputs[0] for output in drain(engine)}
    return [last[str(number)] for number in range(len(prompts))]


@pytest.fixture(scope="module")
def alone(make_engine, answer):
    """The answers of an engine with an 8-bit cache and naive attention, one request after the other."""
    engine = make_engine(kv_cache_dtype="fp8", attention_backend="naive", enable_prefix_caching=False)
    return [answer(engine, prompt, GREEDY).outputs[0] for prompt in PROMPTS]


@pytest.mark.parametrize("company", COMPANY)
def test_in_any_company_a_request_says_what_it_says_alone(make_engine, drain, assert_idle, alone, company):
    engine = make_engine(kv_cache_dtype="fp8", **({"max_model_len": 64} | COMPANY[company]))
    assert_same_but_for_near_ties(play(engine, drain), alone)
    assert ("num_gpu_blocks_override" in COMPANY[company]) == (engine.stats().num_preemptions > 0)
    assert_idle(engine)


def test_a_cached_prefix_says_the_same(make_engine, answer, alone):
    engine = make_engine(kv_cache_dtype="fp8", block_size=2)
    for _ in range(2):
        outputs = [answer(engine, prompt, GREEDY) for prompt in PROMPTS]
    assert all(output.num_cached_tokens > 0 for output in outputs)
    assert_same_but_for_near_ties([output.outputs[0] for output in outputs], alone)


def test_drafts_of_a_model_lie_in_8_bits_too(make_engine, drain, tiny_model, alone):
    drafting = {"model": str(tiny_model), "num_speculative_tokens": 2}
    engine = make_engine(kv_cache_dtype="fp8", speculative_config=drafting)
    caches = engine.executor.runner.kv_caches
    assert len(caches) == 4 and {tensor.dtype for cache in caches for tensor in cache} == {
        torch.float8_e4m3fn
    }
    assert_same_but_for_near_ties(play(engine, drain), alone)


def test_choices_share_and_copy_blocks_of_8_bits(make_engine, answer, assert_idle):
    """Prompts of every length modulo the block size: in most the last, shared block is written to."""
    params = SamplingParams(n=3, temperature=1.0, seed=4, max_tokens=8, ignore_eos=True)
    said = []
    for block_size in (1, 4, 16):  # blocks of one token are never copied
        engine = make_engine(kv_cache_dtype="fp8", block_size=block_size)
        outputs = [answer(engine, prompt, params).outputs for prompt in PROMPTS[:4]]
        said.append([[choice.token_ids for choice in choices] for choices in outputs])
        assert_idle(engine)
    assert said[0] == said[1] == said[2]
    assert any(len({tuple(choice) for choice in choices}) > 1 for choices in said[0])


@pytest.mark.parametrize("name", ["fp8", "fp8_e5m2", "bfloat16", "float16"])
def test_the_answer_is_a_rounding_away_from_the_models_own(make_engine, answer, name):
    """Not equal, or nothing was rounded; but close: the first token's log-probabilities move by a few hundredths."""
    one = SamplingParams(temperature=0, max_tokens=1, logprobs=5)
    largest = 0.0
    engine, plain = make_engine(kv_cache_dtype=name), make_engine()
    for prompt in PROMPTS:
        got, right = (answer(e, prompt, one).outputs[0].logprobs[0] for e in (engine, plain))
        largest = max(largest, *(abs(got[t].logprob - right[t].logprob) for t in got.keys() & right.keys()))
    assert 0 < largest < {"fp8": 0.5, "fp8_e5m2": 1.0, "bfloat16": 0.05, "float16": 0.01}[name]


def test_8_bits_are_twice_the_blocks_of_16_and_four_times_those_of_32(make_engine):
    sizes = {}
    for name in ("auto", "bfloat16", "fp8", "fp8_e4m3", "fp8_e5m2"):
        engine = make_engine(kv_cache_dtype=name, num_gpu_blocks_override=None, kv_cache_memory_bytes=2**16)
        sizes[name] = engine.stats().num_gpu_blocks
        assert engine.executor.report()[0].kv_cache_bytes == 2**16
    assert sizes == {"auto": 16, "bfloat16": 32, "fp8": 64, "fp8_e4m3": 64, "fp8_e5m2": 64}
    llama = [KVCacheSpec(32, 128, "float8_e4m3fn")] * 32  # 256 KiB for a token instead of 512
    assert determine_num_blocks(EngineConfig(kv_cache_memory_bytes=80 * 2**20), llama, 4096, CPU) == 20


def test_which_type_a_name_means():
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        assert resolve_kv_cache_dtype("auto", dtype) == dtype
        assert resolve_kv_cache_dtype("fp8", dtype) == torch.float8_e4m3fn
        assert resolve_kv_cache_dtype("fp8_e4m3", dtype) == torch.float8_e4m3fn
        assert resolve_kv_cache_dtype("fp8_e5m2", dtype) == torch.float8_e5m2
    assert resolve_kv_cache_dtype("bfloat16", torch.float32) == torch.bfloat16
    assert resolve_kv_cache_dtype("float16", torch.float16) == torch.float16


@pytest.mark.parametrize(("name", "dtype"), [("bfloat16", "float16"), ("float16", "bfloat16")])
def test_two_kinds_of_16_bits_do_not_combine(make_engine, name, dtype):
    with pytest.raises(ValueError, match=rf"kv_cache_dtype '{name}' needs dtype {name} or float32.*{dtype}"):
        make_engine(kv_cache_dtype=name, dtype=dtype)


@pytest.mark.engine_smoke
@pytest.mark.skipif(not HAS_TRITON, reason="Triton has no wheel for this system")
@pytest.mark.parametrize("eager", [True, False])
def test_with_the_kernels_it_says_the_same(make_engine, drain, alone, eager):
    """At most 20 steps, two layers."""
    engine = make_engine(
        kv_cache_dtype="fp8", attention_backend="triton", enforce_eager=eager, block_size=8, max_model_len=64
    )
    assert_same_but_for_near_ties(play(engine, drain, PROMPTS[:3]), alone[:3])
