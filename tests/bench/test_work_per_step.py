"""A guard on speed that no slow machine can turn red: the work of a decode step, counted instead of timed."""

import sys
from collections import Counter

import pytest
from torch.utils._python_dispatch import TorchDispatchMode

from minivllm import LLM, SamplingParams, ops

NUM_REQUESTS, NUM_TOKENS = 6, 12


class CountOperations(TorchDispatchMode):
    """Names of the torch operations that run, views left out."""

    def __init__(self):
        super().__init__()
        self.names = Counter()

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        if not function.is_view:
            self.names[str(function)] += 1
        return function(*arguments, **(options or {}))


def run(backend):
    """(operations per step, steps, tokens computed) of a short run."""
    llm = LLM("tutor", attention_backend=backend, num_gpu_blocks_override=200)
    params = SamplingParams(temperature=0, max_tokens=NUM_TOKENS, ignore_eos=True, detokenize=False)
    prompts = [[5 + i, 40 + i, 7] for i in range(NUM_REQUESTS)]
    runner, tokens = llm.llm_engine.executor.runner, []
    execute = runner.execute_model
    runner.execute_model = lambda step: tokens.append(step.total_num_scheduled_tokens) or execute(step)
    with CountOperations() as counted:
        llm.generate(prompts, params, use_tqdm=False)
    tokens = [n for n in tokens if n]
    return counted.names.total() / len(tokens), len(tokens), sum(tokens)


@pytest.mark.parametrize(
    ("backend", "most"),
    [
        pytest.param("cpp", 6, marks=pytest.mark.skipif(not ops.has_cpp(), reason="no C++ kernels here")),
        ("torch", 120),
    ],
)
def test_a_decode_step_takes_no_more_torch_operations_than_it_did(backend, most):
    per_step, steps, tokens = run(backend)
    assert steps == NUM_TOKENS  # the first computes all prompts, and no step is empty
    assert tokens == NUM_REQUESTS * (3 + NUM_TOKENS - 1)  # nothing is computed twice
    assert per_step <= most


def python_calls(num_requests):
    """How many Python functions a decode step of so many requests calls, the model and its sampling included."""
    llm = LLM("tutor", attention_backend="torch", num_gpu_blocks_override=200)
    params = SamplingParams(temperature=0, max_tokens=NUM_TOKENS, ignore_eos=True, detokenize=False)
    for number in range(num_requests):
        llm.llm_engine.add_request(str(number), [5 + number, 40 + number, 7], params)
    llm.llm_engine.step()  # the prompts
    llm.llm_engine.step()
    counted = Counter()
    sys.setprofile(lambda frame, event, _: counted.update([event]))
    try:
        llm.llm_engine.step()
    finally:
        sys.setprofile(None)
    return counted["call"]


def test_a_decode_step_calls_no_more_python_for_a_request_than_it_did():
    """What a request costs beside the model: scheduling, taking in its token, and its output."""
    assert (python_calls(40) - python_calls(8)) / 32 <= 34
