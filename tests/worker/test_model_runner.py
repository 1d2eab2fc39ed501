"""ModelRunner: what reaches the model is the flat batch of plain lists, and only finished prompts are sampled."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import minivllm.worker.model_runner
from minivllm.attention.metadata import AttentionMetadata
from minivllm.config import EngineConfig
from minivllm.core.scheduler_output import BlockOperations, NewRequestData, SchedulerOutput
from minivllm.model_config import KVCacheSpec
from minivllm.request import Request
from minivllm.sampling_params import SamplingParams
from minivllm.worker.model_runner import ModelRunner

V = 50


class Recorder(torch.nn.Module):
    """Remembers what it was given; its hidden state is the token id, its answer the id plus one."""

    def kv_cache_specs(self):
        return [KVCacheSpec(1, 2, "float32")] * 2

    def embed(self, input_ids):
        self.input_ids = input_ids.tolist()
        return input_ids[:, None].float()

    def forward(self, x, positions, kv_caches, metadata, wanted=None):
        self.positions, self.metadata = positions.tolist(), metadata
        self.keys = [cache.key.clone() for cache in kv_caches]
        return x if wanted is None else x[wanted]

    def compute_logits(self, hidden):
        self.num_logits = len(hidden)
        return torch.nn.functional.one_hot(hidden[:, 0].long() + 1, V).float()


@pytest.fixture(scope="module")
def make_runner():
    def make(**fields):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(minivllm.worker.model_runner, "load_model", lambda *args, **kwargs: Recorder())
            config = EngineConfig(
                **({"max_num_seqs": 6, "max_num_batched_tokens": 80, "block_size": 4} | fields)
            )
            device = torch.device("cpu")
            runner = ModelRunner(config, SimpleNamespace(vocab_size=V), torch.float32, device)
        runner.initialize_kv_cache(40, 3, 32)
        return runner

    return make


def new(name, tokens, blocks, num_prompt=None, temperature=0):
    """NewRequestData of a request whose first `num_prompt` tokens are its prompt."""
    num_prompt = len(tokens) if num_prompt is None else num_prompt
    request = Request(name, tokens[:num_prompt], SamplingParams(temperature=temperature), max_tokens=100)
    for token in tokens[num_prompt:]:
        request.append_output_token(token)
    return NewRequestData(request, tokens, blocks)


def step(scheduled, computed, new_requests=(), **fields):
    return SchedulerOutput(scheduled, computed, new_requests, **fields)


@st.composite
def batches(draw):
    """name -> (known tokens, tokens computed before, tokens scheduled now, blocks)."""
    free = draw(st.permutations(range(1, 40)))
    batch = {}
    for number in range(draw(st.integers(1, 5))):
        tokens = draw(st.lists(st.integers(0, V - 2), min_size=1, max_size=15))
        computed = draw(st.integers(0, len(tokens) - 1))
        scheduled = draw(st.integers(1, len(tokens) - computed))
        num_blocks = -(-(computed + scheduled) // 4) + draw(st.integers(0, 1))
        batch[f"r{number}"] = (tokens, computed, scheduled, [free.pop() for _ in range(num_blocks)])
    return batch


@settings(max_examples=80)
@given(batches(), st.randoms(use_true_random=False))
def test_the_flat_batch_equals_the_one_from_plain_lists(make_runner, batch, random):
    runner = make_runner()
    order = random.sample(sorted(batch), len(batch))  # rows and schedule need not have one order
    output = runner.execute_model(
        step(
            {name: batch[name][2] for name in order},
            {name: batch[name][1] for name in order},
            [new(name, batch[name][0], batch[name][3]) for name in batch],
        )
    )
    model = runner.model
    rows = [batch[name] for name in order]
    assert model.input_ids == [t for tokens, start, count, _ in rows for t in tokens[start : start + count]]
    assert model.positions == [p for _, start, count, _ in rows for p in range(start, start + count)]
    expected = AttentionMetadata.from_lists(
        [count for _, _, count, _ in rows],
        [start + count for _, start, count, _ in rows],
        [r[3] for r in rows],
        4,
    )
    for name in ("slot_mapping", "query_start_loc", "seq_lens"):
        assert getattr(model.metadata, name).tolist() == getattr(expected, name).tolist()
        assert getattr(model.metadata, name).dtype == getattr(expected, name).dtype
    width = model.metadata.block_tables.shape[1]
    assert width == -(-max(start + count for _, start, count, _ in rows) // 4)
    tables = np.zeros((len(rows), max(width, expected.block_tables.shape[1])), dtype=int)
    tables[:, : expected.block_tables.shape[1]] = expected.block_tables.numpy()
    for r, (_, start, count, _) in enumerate(rows):
        used = -(-(start + count) // 4)
        assert model.metadata.block_tables[r, :used].tolist() == tables[r, :used].tolist()
    assert model.metadata.max_query_len == max(count for _, _, count, _ in rows)
    assert model.metadata.max_seq_len == max(start + count for _, start, count, _ in rows)
    done = {name: [t[-1] + 1] for name, (t, start, count, _) in batch.items() if start + count == len(t)}
    assert output.sampled_token_ids == done
    assert not done or model.num_logits == len(done)


def test_a_row_grows_by_what_was_sampled_and_by_new_blocks(make_runner):
    runner = make_runner()
    output = runner.execute_model(
        step({"a": 4, "b": 2}, {"a": 0, "b": 0}, [new("a", [5, 6, 7, 8], [3]), new("b", [9, 9], [4])])
    )
    assert output.sampled_token_ids == {"a": [9], "b": [10]}
    output = runner.execute_model(
        step({"a": 1, "b": 1}, {"a": 4, "b": 2}, block_updates={"a": [(1, 17)], "b": []})
    )
    assert runner.model.input_ids == [9, 10] and runner.model.positions == [4, 2]
    assert runner.model.metadata.slot_mapping.tolist() == [17 * 4, 4 * 4 + 2]
    assert output.sampled_token_ids == {"a": [10], "b": [11]}


def test_finished_and_preempted_rows_are_gone_before_newcomers_take_their_seats(make_runner):
    runner = make_runner(max_num_seqs=2)
    runner.execute_model(step({"a": 1, "b": 1}, {"a": 0, "b": 0}, [new("a", [5], [1]), new("b", [6], [2])]))
    output = runner.execute_model(
        step(
            {"c": 2, "a": 1},
            {"c": 0, "a": 0},
            [new("c", [7, 8], [1]), new("a", [20], [3])],  # another request of a name that has just finished
            finished_request_ids=["a", "never seen"],
            preempted_request_ids=["b"],
        )
    )
    assert runner.model.input_ids == [7, 8, 20] and output.sampled_token_ids == {"c": [9], "a": [21]}
    output = runner.execute_model(step({}, {}, finished_request_ids=["a", "c"]))
    assert output.sampled_token_ids == {} and len(runner.batch) == 0


def test_a_resumed_request_brings_its_output_and_is_sampled_at_the_right_position(make_runner):
    """Its draw must be number 2, not number 0: positions count output tokens, whatever is computed again."""
    runner = make_runner()
    data = new("a", [5, 6, 7, 8], [3], num_prompt=2, temperature=1)
    seen = []
    sampler = runner.sampler
    runner.sampler = lambda logits, metadata: (
        seen.append(metadata.positions.tolist()) or sampler(logits, metadata)
    )
    runner.execute_model(step({"a": 3}, {"a": 0}, [data]))
    assert seen == []
    runner.execute_model(step({"a": 1}, {"a": 3}))
    runner.execute_model(step({"a": 1}, {"a": 4}, block_updates={"a": [(1, 9)]}))
    assert seen == [[2], [3]]


def test_blocks_are_moved_before_the_model_runs_swapped_out_first(make_runner):
    runner = make_runner()
    for layer, cache in enumerate(runner.kv_caches):
        for block in range(40):
            cache.key[block] = cache.value[block] = 100 * layer + block
    moves = BlockOperations(swap_out=[(5, 1), (6, 2)], swap_in=[], copy=[(7, 5), (5, 6)])
    runner.execute_model(step({"a": 1}, {"a": 0}, [new("a", [5], [1])], block_operations=moves))
    for layer, keys in enumerate(runner.model.keys):
        assert keys[5].unique().item() == 100 * layer + 7
        assert keys[6].unique().item() == 100 * layer + 5  # what 5 held before
    moves = BlockOperations(swap_out=[(5, 3)], swap_in=[(1, 5), (2, 8)], copy=[(8, 9)])
    runner.execute_model(step({"a": 1}, {"a": 1}, block_operations=moves))
    for layer, keys in enumerate(runner.model.keys):
        held = [keys[block].unique().item() - 100 * layer for block in (5, 8, 9)]
        assert held == [5, 6, 6]
        assert runner.swap_caches[layer].key[3].unique().item() == 100 * layer + 7
        assert runner.swap_caches[layer].value[3].unique().item() == 100 * layer + 7
