"""Counted operations: against torch's own counter on the real model, and piece by piece."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from minivllm import zoo
from minivllm.course.extra.ch01_attention import grouped_attention
from minivllm.course.extra.plain_model import PlainModel
from minivllm.course.flops import forward_flops
from minivllm.model_config import ModelConfig

CONFIG = ModelConfig.from_pretrained(zoo.path("tutor"))


@pytest.mark.parametrize("num_tokens", [1, 7])
def test_the_count_is_torch_s_when_the_masked_half_is_added(num_tokens):
    """The plain attention of chapter 01 multiplies the whole square; the formula counts what is seen."""
    model = PlainModel(grouped_attention)
    with FlopCounterMode(display=False) as counter:
        model.logits(range(100, 100 + num_tokens))
    counted = forward_flops(CONFIG, 0, num_tokens, num_logits=num_tokens)
    layers, heads, head_dim = CONFIG.num_hidden_layers, CONFIG.num_attention_heads, CONFIG.head_dim
    hidden_pairs = num_tokens * (num_tokens - 1) // 2
    assert counter.get_total_flops() == counted.total + 4 * layers * heads * head_dim * hidden_pairs


@given(st.integers(0, 50), st.integers(0, 50), st.integers(0, 50))
def test_pieces_of_a_text_add_up(start, middle, stop):
    start, middle, stop = sorted((start, middle, stop))
    whole = forward_flops(CONFIG, start, stop, 0)
    parts = [forward_flops(CONFIG, start, middle, 0), forward_flops(CONFIG, middle, stop, 0)]
    assert whole.total == sum(part.total for part in parts)


def test_one_token_costs_two_operations_a_weight():
    """The embedding is tied: its matrix is multiplied once, for the logits."""
    one = forward_flops(CONFIG, 0, 1)
    assert one.matrices + one.head == 2 * CONFIG.num_params
