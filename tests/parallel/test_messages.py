"""Messages arrive as they were sent, whole, and nothing but a message is accepted."""

from __future__ import annotations

import re
import socket
import threading
from pathlib import Path

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minivllm import SamplingParams
from minivllm.config import EngineConfig
from minivllm.core.scheduler_output import BlockOperations, NewRequestData, SchedulerOutput
from minivllm.request import Request
from minivllm.sampling.logprobs import TokenLogprobs
from minivllm.sampling_params import StructuredOutputsParams
from minivllm.worker.messages import (
    Channel,
    Sampled,
    Start,
    Step,
    decode_command,
    decode_reply,
    encode_command,
    encode_reply,
)
from minivllm.worker.model_runner import ModelRunnerOutput, PromptLogprobs
from minivllm.worker.worker import Place

PACKAGE = Path(__file__).parents[2] / "minivllm"
names = st.text(max_size=8)
numbers = st.integers(0, 2**31)
tokens = st.lists(numbers, max_size=5)
pairs = st.lists(st.tuples(numbers, numbers), max_size=3).map(tuple)
params = st.builds(
    SamplingParams,
    temperature=st.floats(0, 2),
    top_p=st.floats(0.01, 1),
    seed=st.none() | st.integers(-(2**62), 2**62),
    stop=st.none() | names.filter(bool) | st.lists(names.filter(bool), max_size=2),
    stop_token_ids=tokens,
    logit_bias=st.none() | st.dictionaries(numbers, st.floats(-100, 100), max_size=3),
    allowed_token_ids=st.none() | st.lists(numbers, min_size=1, max_size=3),
    bad_words=st.none() | st.lists(names.filter(bool), max_size=2),
    logprobs=st.none() | st.integers(-1, 5),
) | st.just(SamplingParams(structured_outputs=StructuredOutputsParams(choice=["a", "b"])))
requests = st.builds(
    Request,
    request_id=names,
    prompt_token_ids=tokens,
    sampling_params=params,
    stop_token_ids=st.frozensets(numbers, max_size=3),
    seed=st.integers(-(2**63), 2**63 - 1),
    bad_words_token_ids=st.lists(tokens, max_size=2),
    priority=st.integers(-5, 5),
    deadline=st.none() | st.floats(0, 1e9),
)
steps = st.builds(
    SchedulerOutput,
    num_scheduled_tokens=st.dictionaries(names, numbers, max_size=3),
    num_computed_tokens=st.dictionaries(names, numbers, max_size=3),
    new_requests=st.lists(st.builds(NewRequestData, requests, tokens, tokens), max_size=2),
    block_updates=st.dictionaries(names, pairs, max_size=2),
    block_operations=st.builds(BlockOperations, pairs, pairs, pairs),
    spec_token_ids=st.dictionaries(names, tokens, max_size=2),
    chosen_token_ids=st.dictionaries(names, numbers, max_size=2),
    grammar_bitmasks=st.dictionaries(names, st.binary(max_size=9), max_size=2),
    preempted_request_ids=st.lists(names, max_size=2),
    finished_request_ids=st.lists(names, max_size=2),
)


def plain(value):
    """Dataclasses and sequences as plain lists and dicts, so that a tuple equals a list."""
    if hasattr(value, "__dataclass_fields__"):
        return {name: plain(getattr(value, name)) for name in value.__dataclass_fields__}
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    return value


@given(steps, st.lists(st.dictionaries(names, tokens, max_size=2), max_size=2))
def test_a_step_arrives_as_it_was_sent(scheduler_output, sampled):
    step = Step(scheduler_output, sampled)
    arrived = decode_command(encode_command(step))
    assert plain(arrived) == plain(step)
    assert list(arrived.scheduler_output.num_scheduled_tokens) == list(scheduler_output.num_scheduled_tokens)


logprobs = st.builds(TokenLogprobs, tokens, st.lists(st.floats(max_value=0), max_size=3), st.integers(1, 9))


@given(
    st.dictionaries(names, tokens, max_size=2),
    st.dictionaries(names, st.lists(logprobs, max_size=2), max_size=2),
    st.dictionaries(names, st.builds(PromptLogprobs, numbers, st.lists(logprobs, max_size=2)), max_size=2),
)
def test_an_output_arrives_as_it_was_sent(sampled, of_tokens, of_prompts):
    output = ModelRunnerOutput(sampled, of_tokens, of_prompts)
    assert plain(decode_reply(encode_reply(Sampled(output)))) == plain(Sampled(output))


def test_a_configuration_arrives_as_it_was_sent():
    start = Start(
        EngineConfig(hf_overrides={"a": {"b": 1}}, kv_cache_memory_bytes=5),
        7,
        {"draw": [("f", "n")]},
        Place(1, 2, 3, "x"),
    )
    assert plain(decode_command(encode_command(start))) == plain(start)


def test_a_siblings_tokens_do_not_travel():
    sibling = Request("other", [1] * 500, SamplingParams())
    new = NewRequestData(Request("one", [1, 2], SamplingParams(), fork_from=sibling), [1, 2], [3])
    message = encode_command(Step(SchedulerOutput({}, {}, [new])))
    assert b"other" not in message
    assert new.request.fork_from is sibling  # the scheduler's own is as it was


@pytest.mark.parametrize(
    "message",
    [b"", b"null", b"[]", b'{"kind": "eval"}', b'{"kind": "step"}', b"\x80\x04N.", b'{"kind": "stop"'],
)
def test_anything_else_is_refused(message):
    with pytest.raises(pydantic.ValidationError):
        decode_command(message)


UNPICKLES = re.compile(
    r"^\s*(?:import|from) (?:pickle|marshal|shelve|dill|cloudpickle|joblib|multiprocessing|xmlrpc|zmq)\b"
    r"|object_list|recv_pyobj|recv_object|allow_pickle=True|weights_only=False"
    r"|torch\.load\((?![^)]*weights_only=True)|dist\.(?:gather_object|all_gather_object|broadcast_object)"
    r"|distributed\.rpc|torch\.multiprocessing",
    re.M,
)


def test_nothing_in_the_package_unpickles():
    """multiprocessing's queues and pipes pickle, too. Ray pickles by nature, and says so: its executor is the one
    exception, and passes nothing but bytes."""
    files = [*PACKAGE.rglob("*.py"), *(PACKAGE.parent / "kernels").rglob("*.py")]
    assert len(files) > 100
    found = [(file.name, UNPICKLES.findall(file.read_text(encoding="utf-8"))) for file in files]
    assert [one for one in found if one[1]] == []


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "    from multiprocessing.connection import Client",
        "dist.broadcast_object_list(x)",
        "dist.all_gather_object(x, y)",
        "torch.load(path)",
        "torch.load(path, map_location=device)",
        "np.load(path, allow_pickle=True)",
        "socket.recv_pyobj()",
    ],
)
def test_the_search_would_find(line):
    assert UNPICKLES.search(f"x = 1\n{line}\n")


@given(st.lists(st.binary(max_size=300_000), max_size=3), st.integers(1, 5000))
def test_messages_are_whole_however_they_are_cut(messages, cut):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        stream = b"".join(len(message).to_bytes(4, "big") + message for message in messages)

        def send():
            for start in range(0, len(stream), max(cut, len(stream) // 50)):
                ours.sendall(stream[start : start + max(cut, len(stream) // 50)])
            ours.close()

        sender = threading.Thread(target=send)
        sender.start()
        channel = Channel(theirs)
        received = []
        while (message := channel.receive()) is not None:
            received.append(message)
        sender.join()
    assert received == messages


def test_half_a_message_is_none():
    ours, theirs = socket.socketpair()
    with theirs:
        ours.sendall(b"\x00\x00\x00\x09abc")
        ours.close()
        assert Channel(theirs).receive() is None
