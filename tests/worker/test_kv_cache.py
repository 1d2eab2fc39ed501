"""How many blocks there are, and what they are made of."""

import pytest
import torch

from minivllm.config import EngineConfig
from minivllm.model_config import KVCacheSpec
from minivllm.worker import kv_cache
from minivllm.worker.kv_cache import allocate_kv_caches, bytes_per_block, determine_num_blocks, move_blocks

CPU = torch.device("cpu")
LLAMA_2_7B = [KVCacheSpec(32, 128, "float16")] * 32


def num_blocks(specs=LLAMA_2_7B, max_model_len=4096, **fields):
    return determine_num_blocks(EngineConfig(**fields), specs, max_model_len, CPU)


def test_a_token_of_llama_2_7b_takes_half_a_mebibyte():
    assert bytes_per_block(LLAMA_2_7B, 1) == 512 * 1024
    assert bytes_per_block(LLAMA_2_7B, 16) == 8 * 2**20
    mixed = [KVCacheSpec(2, 8, "float32"), KVCacheSpec(1, 8, "bfloat16")]
    assert bytes_per_block(mixed, 3) == 3 * (2 * 2 * 8 * 4 + 2 * 1 * 8 * 2)


def test_the_number_of_blocks_is_what_was_said_else_what_the_bytes_hold():
    assert num_blocks(num_gpu_blocks_override=7, kv_cache_memory_bytes=1) == 7
    assert num_blocks(kv_cache_memory_bytes=80 * 2**20) == 10
    assert num_blocks(kv_cache_memory_bytes=88 * 2**20 - 1) == 10
    assert num_blocks(kv_cache_memory_bytes=40 * 2**20, block_size=8) == 10


def test_no_more_than_all_requests_of_full_length_can_use():
    assert num_blocks(kv_cache_memory_bytes=2**60, max_num_seqs=3, max_model_len=33) == 1 + 3 * 3


def test_a_tenth_of_the_memory_of_a_cpu_and_at_most_4_gib(monkeypatch):
    monkeypatch.setattr(kv_cache, "total_memory", lambda device: 10 * 2**30)
    assert num_blocks() == 128
    monkeypatch.setattr(kv_cache, "total_memory", lambda device: 2**50)
    assert num_blocks() == 512


@pytest.mark.parametrize("budget", [1, 8 * 2**20, 16 * 2**20 - 1])
def test_less_than_two_blocks_is_a_sentence(budget):
    with pytest.raises(ValueError, match="at least 2 are needed: raise kv_cache_memory_bytes"):
        num_blocks(kv_cache_memory_bytes=budget)
    assert num_blocks(kv_cache_memory_bytes=16 * 2**20) == 2


def test_tensors_are_n_b_k_d_and_zero():
    specs = [KVCacheSpec(2, 8, "float32"), KVCacheSpec(1, 4, "bfloat16")]
    caches = allocate_kv_caches(specs, 5, 3, CPU)
    assert [tuple(tensor.shape) for tensor in caches[0]] == [(5, 3, 2, 8)] * 2
    assert [tuple(tensor.shape) for tensor in caches[1]] == [(5, 3, 1, 4)] * 2
    assert [cache.key.dtype for cache in caches] == [torch.float32, torch.bfloat16]
    assert all(not tensor.any() for cache in caches for tensor in cache)
    caches[0].key[1] = 7
    assert not caches[0].value.any()  # memory of its own


def test_move_blocks_copies_whole_blocks_of_every_layer_and_nothing_else():
    specs = [KVCacheSpec(1, 2, "float32")] * 2
    source, target = (allocate_kv_caches(specs, n, 3, CPU) for n in (6, 4))
    for cache in source:
        for tensor in cache:
            tensor.copy_(torch.arange(6.0)[:, None, None, None].expand_as(tensor))
    move_blocks(source, target, [(5, 1), (2, 3)])
    for cache in target:
        for tensor in cache:
            assert tensor[:, 0, 0, 0].tolist() == [0, 5, 0, 2]
            assert (tensor == tensor[:, :1, :1, :1]).all()


def test_the_swap_space_is_counted_in_blocks():
    specs = [KVCacheSpec(1, 2, "float32")]  # 16 bytes a token
    config = EngineConfig(swap_space=1000 / 2**30, preemption_mode="swap", block_size=4)
    assert kv_cache.num_swap_blocks(config, specs) == 15
    with pytest.raises(ValueError, match="preemption_mode 'swap' needs swap_space"):
        kv_cache.num_swap_blocks(
            EngineConfig(swap_space=60 / 2**30, preemption_mode="swap", block_size=4), specs
        )
    assert kv_cache.num_swap_blocks(EngineConfig(), specs) == 0
