"""InputBatch against a dictionary of lists, under any order of comings and goings."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minivllm.request import Request
from minivllm.sampling_params import SamplingParams
from minivllm.worker.input_batch import InputBatch

MAX_SEQS, MAX_LEN, B = 4, 12, 3

names = st.sampled_from("abcdef")
operations = st.lists(
    st.tuples(st.just("add"), names, st.lists(st.integers(1, 99), min_size=1, max_size=MAX_LEN - 1))
    | st.tuples(st.just("remove"), names)
    | st.tuples(
        st.just("blocks"), names, st.lists(st.tuples(st.integers(0, 3), st.integers(1, 50)), max_size=3)
    )
    | st.tuples(st.just("replace"), names, st.integers(1, 99))
    | st.tuples(st.just("append"), st.sets(names), st.integers(1, 90)),
    max_size=40,
)


def check(batch, model):
    assert len(batch) == len(model) == len(batch.requests)
    assert sorted(batch.rows) == sorted(model)
    assert sorted(batch.rows.values()) == list(range(len(model)))  # dense
    for name, (tokens, blocks) in model.items():
        row = batch.rows[name]
        assert batch.requests[row].request_id == name
        assert batch.num_tokens[row] == len(tokens)
        assert batch.token_ids[row, : len(tokens)].tolist() == tokens
        assert batch.block_tables[row].tolist() == blocks
        assert batch.num_rejected[row] == batch.requests[row].num_rejected_drafts == len(blocks) + ord(name)


@given(operations)
def test_rows_follow_their_requests(operations):
    batch, model = InputBatch(MAX_SEQS, MAX_LEN, B), {}
    for name, *arguments in operations:
        before = {row: request for request, row in batch.rows.items()}, batch.composition
        if name == "append":
            present = sorted(arguments[0] & {n for n in model if len(model[n][0]) < MAX_LEN})
            if present:
                rows = np.array([batch.rows[n] for n in present])
                tokens = np.arange(len(present)) + arguments[1]
                batch.append_tokens(rows, tokens)
                for n, token in zip(present, tokens.tolist(), strict=True):
                    model[n][0].append(token)
        elif name == "add" and arguments[0] not in model and len(model) < MAX_SEQS:
            tokens = list(arguments[1])
            blocks = [7 + i for i in range(-(-len(tokens) // B))]
            request = Request(arguments[0], tokens, SamplingParams())
            request.num_rejected_drafts = MAX_LEN // B + ord(arguments[0])  # another one for each name
            batch.add(request, tokens, blocks)
            model[arguments[0]] = (tokens, blocks + [0] * (MAX_LEN // B - len(blocks)))
        elif name == "remove":
            batch.remove(arguments[0])
            model.pop(arguments[0], None)
        elif name == "blocks" and arguments[0] in model:
            batch.update_blocks(*arguments)
            for index, block_id in arguments[1]:
                model[arguments[0]][1][index] = block_id
        elif name == "replace" and arguments[0] in model:
            batch.replace_last_token(*arguments)
            model[arguments[0]][0][-1] = arguments[1]
        check(batch, model)
        after = {row: request for request, row in batch.rows.items()}
        assert (after == before[0]) or batch.composition != before[1], (
            "what was derived from the rows is stale"
        )


def test_more_rows_than_there_are_seats_and_twins_are_our_own_mistakes():
    batch = InputBatch(1, 4, 2)
    batch.add(Request("a", [1], SamplingParams()), [1], [1])
    with pytest.raises(AssertionError, match="has a row already"):
        batch.add(Request("a", [1], SamplingParams()), [1], [1])
    with pytest.raises(AssertionError, match="more running requests than max_num_seqs"):
        batch.add(Request("b", [1], SamplingParams()), [1], [1])


def test_a_table_as_long_as_the_context_fits():
    batch = InputBatch(1, 7, 2)
    batch.add(Request("a", [1], SamplingParams()), [5] * 7, [1, 2, 3, 4])
    assert batch.block_tables.shape == (1, 4) and batch.token_ids.shape == (1, 7)
