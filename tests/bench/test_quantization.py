"""The measurements that need a GPU say so; perplexity is what the formula says."""

import math
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from minivllm.bench.quantization import matrix_sizes, perplexity
from minivllm.bench.quantization_layers import eight_bit_error
from minivllm.quantization.awq_linear import AWQLinear
from minivllm.quantization.weight_only import WeightOnlyLinear
from minivllm.zoo.rows import Row


@pytest.mark.parametrize("command", ["kernels", "decode-floor", "gpu"])
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_there_is_one_clear_sentence(command):
    done = subprocess.run(
        [sys.executable, "-m", "minivllm.bench", command], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.strip() == f"bench {command}: needs a CUDA device, and torch sees none here."


class Uniform:
    """Gives the n-th token of a prompt the probability 1 / (n + 1)."""

    def generate(self, prompts, params, use_tqdm):
        assert params.prompt_logprobs == 0
        for prompt in prompts:
            entries = [
                {token: SimpleNamespace(logprob=-math.log(n + 1))}
                for n, token in enumerate(prompt["prompt_token_ids"])
            ]
            yield SimpleNamespace(prompt_logprobs=[None, *entries[1:]])


def test_perplexity_is_the_geometric_mean_over_answers_only():
    rows = [Row([5, 6, 7, 8], ["", "", "glossary", "glossary"]), Row([9, 9], ["text", "text"])]
    # Answers: the tokens at 2 and 3 of the first row, and at 1 of the second (its first has no probability).
    assert perplexity(Uniform(), rows) == pytest.approx((3 * 4 * 2) ** (1 / 3))


@pytest.mark.parametrize(
    ("method", "num_bytes"),
    [
        (AWQLinear(32), 64 * 16 // 2 + 2 * 16 * 4 + 2 * 16 // 2),  # numbers, float32 scales, zero points
        (WeightOnlyLinear(torch.int8), 64 * 16 + 16 * 4),
    ],
)
def test_the_size_of_a_matrix_counts_its_scales_and_no_other_layer(method, num_bytes):
    model = torch.nn.Module()
    model.down_proj = torch.nn.Module()
    method.create_weights(model.down_proj, 64, 16, torch.float32, torch.device("cpu"))
    model.norm = torch.nn.LayerNorm(64)
    model.embed_tokens = torch.nn.Embedding(10, 64)
    assert matrix_sizes(model) == (num_bytes, 64 * 16)


def test_the_error_of_eight_bits_is_that_of_the_outputs():
    """One weight between two numbers of int8: 0.5 of a step of 1."""
    weight, x = torch.tensor([[127.0, 3.5], [127.0, 2.0]]), torch.tensor([[0.0, 2.0], [5.0, 4.0]])
    assert eight_bit_error(x, [weight], torch.int8) == pytest.approx((1.0**2 + 2.0**2) / 4)
    assert eight_bit_error(x, [weight, torch.zeros(2, 2)], torch.int8) == pytest.approx(5 / 8)
