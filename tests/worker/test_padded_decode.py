"""Decode steps padded to buckets: the same hidden states, in few shapes, from tensors that never move."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from minivllm import LLM, SamplingParams
from minivllm.config import EngineConfig
from minivllm.worker.padded_decode import PaddedDecode, bucket_sizes
from minivllm.worker.step_buffers import StepBuffers


def test_buckets():
    assert bucket_sizes(1) == [1]
    assert bucket_sizes(6) == [1, 2, 4, 6]
    assert bucket_sizes(24) == [1, 2, 4, 8, 16, 24]
    assert bucket_sizes(300)[-4:] == [256, 272, 288, 300]
    for most in range(1, 400):
        sizes = bucket_sizes(most)
        assert sizes == sorted(set(sizes)) and sizes[0] == 1 and sizes[-1] == most
        gaps = [b - a for a, b in zip(sizes, sizes[1:], strict=False)]
        assert max(gaps, default=0) <= (8 if most <= 256 else 16)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("llama")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=61,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=48,
        max_position_embeddings=128,
        initializer_range=0.3,
        bos_token_id=None,
        eos_token_id=None,
    )
    LlamaForCausalLM(config).save_pretrained(path)
    return path


ROOM = {
    "device": "cpu",  # where there is a GPU, too: a recording that is replayed cannot be watched
    "num_gpu_blocks_override": 80,
    "block_size": 4,
    "max_num_seqs": 6,
    "max_num_batched_tokens": 40,
}


@pytest.fixture(scope="module")
def engines(folder):
    return {eager: LLM(str(folder), enforce_eager=eager, **ROOM) for eager in (True, False)}


def test_without_enforce_eager_false_nothing_is_padded(engines):
    assert EngineConfig().enforce_eager
    assert engines[True].llm_engine.executor.runner.padded_decode is None
    assert isinstance(engines[False].llm_engine.executor.runner.padded_decode, PaddedDecode)


@settings(max_examples=10)
@given(
    lens=st.lists(st.tuples(st.integers(1, 30), st.integers(1, 12)), min_size=1, max_size=9),
    seed=st.integers(0, 2**16),
)
def test_padded_and_eager_give_the_same_tokens(engines, lens, seed):
    generator = torch.Generator().manual_seed(seed)
    prompts = [{"prompt_token_ids": torch.randint(61, (n,), generator=generator).tolist()} for n, _ in lens]
    params = [SamplingParams(temperature=0, max_tokens=most) for _, most in lens]
    results = []
    for llm in engines.values():
        outputs = llm.generate(prompts, params, use_tqdm=False)
        results.append([list(output.outputs[0].token_ids) for output in outputs])
    assert results[0] == results[1]


def test_decode_steps_have_bucket_shapes_and_fixed_addresses(folder):
    llm = LLM(str(folder), enforce_eager=False, **ROOM)
    model, seen = llm.llm_engine.executor.runner.model, []
    forward = model.forward

    def watched(x, positions, kv_caches, metadata, *wanted):
        if metadata.max_query_len == 1 and len(x) == len(metadata.seq_lens):
            tensors = (positions, metadata.slot_mapping, metadata.seq_lens, metadata.block_tables)
            seen.append(
                (
                    len(x),
                    *(t.data_ptr() for t in tensors),
                    metadata.block_tables.shape[1],
                    metadata.max_seq_len,
                )
            )
        return forward(x, positions, kv_caches, metadata, *wanted)

    model.forward = watched
    params = [SamplingParams(temperature=0, max_tokens=3 + 2 * i) for i in range(5)]
    llm.generate([{"prompt_token_ids": [i + 1] * (i + 2)} for i in range(5)], params, use_tqdm=False)
    assert {size for size, *_ in seen} == {1, 2, 4, 6}  # 5 and 3 requests are padded
    assert len({rest for _, *rest in map(tuple, seen) for rest in [tuple(rest)]}) == 1


def test_padding_writes_to_the_null_block_only(folder):
    """Whatever lies in the buffers' tail: five requests in a bucket of six, and no block but theirs is touched."""
    llm = LLM(str(folder), enforce_eager=False, **ROOM)
    runner = llm.llm_engine.executor.runner
    for cache in runner.kv_caches:
        for tensor in cache:
            tensor.fill_(7.0)
    buffers = runner.buffers
    buffers.slot_mapping.fill_(55 * 4)
    buffers.block_tables.fill_(55)
    buffers.seq_lens.fill_(100)
    prompts = [{"prompt_token_ids": [i + 1]} for i in range(5)]
    llm.generate(prompts, SamplingParams(temperature=0, max_tokens=3), use_tqdm=False)
    for cache in runner.kv_caches:
        for tensor in cache:
            changed = {int(block) for block in (tensor != 7.0).flatten(1).any(1).nonzero()}
            assert 0 in changed and len(changed) == 6 and 55 not in changed
            assert (tensor[0, 1:] == 7.0).all()


class Recorder:
    """A model that keeps what it was given."""

    def embed(self, input_ids):
        self.input_ids = input_ids.tolist()
        return input_ids[:, None]

    def forward(self, x, positions, kv_caches, metadata):
        self.positions, self.metadata = positions.tolist(), metadata
        return x


@settings(max_examples=60)
@given(st.integers(1, 20), st.integers(0, 19), st.integers(0, 2**16))
def test_padding_requests_are_tokens_0_that_look_at_themselves(max_num_seqs, num_requests, seed):
    """Whatever earlier steps left in the buffers; the real requests stay as they are."""
    num_requests = 1 + num_requests % max_num_seqs
    buffers, model = StepBuffers(32, max_num_seqs, 40, 4, torch.device("cpu")), Recorder()
    generator = torch.Generator().manual_seed(seed)
    tensors = {name: value for name, value in vars(buffers).items() if isinstance(value, torch.Tensor)}
    for tensor in tensors.values():
        tensor.copy_(torch.randint(1, 99, tensor.shape, generator=generator))
    buffers.query_start_loc[: num_requests + 1] = torch.arange(num_requests + 1)
    before = {name: tensor.tolist()[:num_requests] for name, tensor in tensors.items()}
    sizes = {"max_num_seqs": max_num_seqs, "max_model_len": 40, "block_size": 4}
    hidden = PaddedDecode(model, buffers, [], **sizes).run(num_requests)
    assert hidden[:, 0].tolist() == before["input_ids"]
    metadata = model.metadata
    bucket = min(size for size in bucket_sizes(max_num_seqs) if size >= num_requests)
    num_padding = bucket - num_requests
    assert model.input_ids == before["input_ids"] + [0] * num_padding
    assert model.positions == before["positions"] + [0] * num_padding
    assert metadata.slot_mapping.tolist() == before["slot_mapping"] + [0] * num_padding
    assert metadata.seq_lens.tolist() == before["seq_lens"] + [1] * num_padding
    assert metadata.block_tables.tolist() == before["block_tables"] + [[0] * 10] * num_padding
    assert metadata.query_start_loc.tolist() == list(range(bucket + 1))
    assert (metadata.max_query_len, metadata.max_seq_len, metadata.block_size) == (1, 40, 4)


@pytest.mark.gpu
def test_cuda_graphs_give_the_tokens_of_eager_steps(folder):
    prompts = [{"prompt_token_ids": [i + 1] * (3 * i + 1)} for i in range(5)]
    params = SamplingParams(temperature=0, max_tokens=12)
    said = []
    for eager in (True, False):
        llm = LLM(str(folder), dtype="float32", enforce_eager=eager, **ROOM | {"device": "cuda"})
        outputs = llm.generate(prompts, params, use_tqdm=False)
        said.append([list(output.outputs[0].token_ids) for output in outputs])
    assert llm.llm_engine.executor.runner.padded_decode.recordings
    assert said[0] == said[1]
