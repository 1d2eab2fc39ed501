"""Rotary angles against transformers' own, and the rotation against complex multiplication."""

import pytest
import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from minivllm import ops
from minivllm.layers.context import LayerContext
from minivllm.layers.rotary import RotaryEmbedding, scaled_frequencies

SCALINGS = [
    {"rope_type": "linear", "factor": 4.0},
    {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 2.0, "high_freq_factor": 9.0},
    {"rope_type": "yarn", "factor": 4.0},
    {"rope_type": "yarn", "factor": 40.0, "beta_fast": 20.0, "beta_slow": 2.0, "truncate": False},
    {"rope_type": "yarn", "factor": 16.0, "attention_factor": 1.5},
    {"rope_type": "yarn", "factor": 16.0, "mscale": 0.7, "mscale_all_dim": 1.3},
    {"rope_type": "yarn", "factor": 1.0},
]


@pytest.mark.parametrize(
    "scaling", SCALINGS, ids=lambda scaling: f"{scaling['rope_type']}-{scaling['factor']:g}"
)
@pytest.mark.parametrize("head_dim", [32, 64])
def test_frequencies_equal_transformers(scaling, head_dim):
    scaling = scaling | {"original_max_position_embeddings": 256}
    config = LlamaConfig(
        hidden_size=head_dim,
        num_attention_heads=1,
        head_dim=head_dim,
        max_position_embeddings=4096,
        rope_parameters=scaling | {"rope_theta": 50000.0},
    )
    expected, expected_factor = ROPE_INIT_FUNCTIONS[scaling["rope_type"]](config, torch.device("cpu"))
    frequencies, factor = scaled_frequencies(head_dim, 50000.0, scaling)
    torch.testing.assert_close(frequencies, expected, rtol=1e-5, atol=0)
    assert factor == pytest.approx(expected_factor)


def test_an_unknown_type_is_refused():
    with pytest.raises(ValueError, match=r"rope_type 'longrope' is not supported, only default, linear"):
        scaled_frequencies(8, 1e4, {"rope_type": "longrope"})


def test_rotation_is_multiplication_by_a_unit_complex_number():
    head_dim, theta = 8, 100.0
    rotary = RotaryEmbedding(head_dim, 50, theta, None, LayerContext())
    positions = torch.tensor([0, 1, 7, 49])
    x = torch.randn(4, 3, head_dim, dtype=torch.float32)
    got = ops.rotary(x, *rotary(positions))
    pairs = torch.complex(x[..., :4].double(), x[..., 4:].double())
    frequencies = theta ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    turned = (
        pairs * torch.polar(torch.ones(4, 4, dtype=torch.float64), positions[:, None] * frequencies)[:, None]
    )
    torch.testing.assert_close(got, torch.cat((turned.real, turned.imag), -1).float(), atol=1e-5, rtol=1e-5)


def test_scores_depend_on_the_distance_only():
    rotary = RotaryEmbedding(16, 200, 1e4, {"rope_type": "linear", "factor": 2.0}, LayerContext())
    q, k = torch.randn(2, 1, 1, 16)

    def score(query_position: int, key_position: int) -> float:
        rotated = [
            ops.rotary(x, *rotary(torch.tensor([p]))) for x, p in ((q, query_position), (k, key_position))
        ]
        return float((rotated[0] * rotated[1]).sum())

    assert score(9, 4) == pytest.approx(score(105, 100), abs=1e-4)
    assert score(9, 4) != pytest.approx(score(9, 5), abs=1e-4)


def test_tables_are_kept_in_the_dtype_of_the_model_but_computed_in_float32():
    rotary = RotaryEmbedding(4, 5000, 1e4, None, LayerContext(torch.bfloat16))
    cos, _ = rotary(torch.tensor([4999]))
    assert cos.dtype == torch.bfloat16
    assert cos[0, 0, 0].item() == pytest.approx(float(torch.tensor(4999.0).cos()), abs=4e-3)
