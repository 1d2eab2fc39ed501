import torch

from minivllm.layers.activation import SiluAndMul


def test_silu_of_the_first_half_times_the_second():
    x = torch.randn(4, 10)
    before = x.clone()
    gate, up = x[:, :5].double(), x[:, 5:].double()
    torch.testing.assert_close(
        SiluAndMul()(x).double(), gate / (1 + (-gate).exp()) * up, rtol=1e-5, atol=1e-6
    )
    assert torch.equal(x, before)
