"""The oracle, and the sampler's own way in: requests become rows, rows become metadata."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from minivllm.request import Request
from minivllm.sampling.metadata import sampling_rows
from minivllm.sampling.sampler import Sampler


@pytest.fixture(scope="session")
def oracle():
    """The module oracle.py (tests are no package, so it cannot be imported by name)."""
    spec = importlib.util.spec_from_file_location("sampling_oracle", Path(__file__).parent / "oracle.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def sample():
    """sample(logits [R][V], rows) -> R tokens; a row is (params, seed, prompt, output, kwargs of Request).

    With `picked` the step holds only these rows of the batch, in this order, and the logits are theirs.
    """

    def run(logits, rows, picked=None):
        requests = []
        for number, (params, seed, prompt, output, kwargs) in enumerate(rows):
            request = Request(f"r{number}", list(prompt), params, seed=seed, **kwargs)
            for token in output:
                request.append_output_token(token)
            requests.append(request)
        logits = logits if isinstance(logits, torch.Tensor) else torch.tensor(logits)
        token_ids = np.zeros((len(rows), max(r.num_tokens for r in requests) + 1), dtype=np.int32)
        for row, request in zip(token_ids, requests, strict=True):
            row[: request.num_tokens] = request.all_token_ids
        table = sampling_rows(requests, logits.shape[1], torch.device("cpu"))
        num_tokens = np.array([r.num_tokens for r in requests])
        picked = np.arange(len(rows)) if picked is None else np.array(picked)
        return Sampler()(logits, table.select(picked, num_tokens, token_ids=token_ids)).tolist()

    return run
