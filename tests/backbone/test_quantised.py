"""Layers with integers for weights: the kernels against floats, and networks that hold them."""

import pytest
import torch
import torch.nn.functional as F

from lm.backbone import BackboneConfig, LanguageModel
from lm.backbone import quantised as module
from lm.backbone.quantised import QuantisedLinear, dequantised, put_quantised, unpacked
from lm.compression.rounding import to_int4, to_int8

ROUND = {8: to_int8, 4: lambda weight: to_int4(weight, 32)}


def layer(
    bits: int, inputs: int = 64, outputs: int = 128, bias: bool = True
) -> tuple[QuantisedLinear, torch.Tensor]:
    torch.manual_seed(0)
    weight = torch.randn(outputs, inputs)
    made = QuantisedLinear(inputs, outputs, bias, bits, 0 if bits == 8 else 32)
    state = ROUND[bits](weight) | ({"bias": torch.randn(outputs)} if bias else {})
    made.load_state_dict(state)
    return made, weight


@torch.no_grad()
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("rows", [1, 5, module.FEW + 1])
@pytest.mark.parametrize("sizes", [(64, 128), (96, 40), (32, 7)])
def test_a_product_is_that_of_the_floats(bits, rows, sizes):
    """By a kernel where there is one for the shape, and without: 40 and 7 outputs have none with 4 bits."""
    made, _ = layer(bits, *sizes)
    x = torch.randn(2, rows, sizes[0])
    expected = F.linear(x, made.weight, made.bias)
    torch.testing.assert_close(made(x), expected, atol=0.02 * float(expected.abs().max()), rtol=0)
    assert made(x).dtype == torch.float32 and made(x.bfloat16()).dtype == torch.bfloat16


def test_numbers_are_the_nearest_that_there_are():
    _, weight = layer(8)
    made, _ = layer(8)
    step = made.scales.float()
    assert ((made.weight - weight).abs() <= 0.5 * step * 1.01 + 127 * step * 2**-8).all()
    assert (made.weight - weight).abs().max() < 0.02 * weight.abs().max()
    four, _ = layer(4)
    groups = weight.view(128, 2, 32)
    span = (groups.amax(-1) - groups.amin(-1)) / 15
    plain = (span[..., None] / 2).square().expand_as(groups)  # no error of plain rounding is larger
    error = (four.weight - weight).view(128, 2, 32).square()
    assert error.mean() < plain.mean() / 3 * 1.2, "half a step at most, a third of its square in the mean"


@pytest.mark.parametrize("bits", [8, 4])
def test_zeros_ones_and_equal_numbers_survive(bits):
    for weight in (torch.zeros(64, 32), torch.ones(64, 32), torch.full((64, 32), -3.0)):
        made = QuantisedLinear(32, 64, False, bits, 0 if bits == 8 else 32)
        made.load_state_dict(ROUND[bits](weight))
        assert torch.isfinite(made.weight).all()
        torch.testing.assert_close(made.weight, weight, atol=0.02, rtol=0.01)


def test_two_integers_lie_in_a_byte():
    values = torch.arange(16, dtype=torch.uint8).repeat(2, 2)
    packed = values[:, ::2] | (values[:, 1::2] << 4)
    assert packed.shape == (2, 16) and torch.equal(unpacked(packed), values)


@torch.no_grad()
@pytest.mark.parametrize("bits", [8, 4])
def test_a_network_with_integers_is_one_with_their_floats(bits):
    torch.manual_seed(0)
    config = BackboneConfig(hidden_size=64, num_layers=2, num_heads=2, vocab_size=50, residual_init="scaled")
    plain = LanguageModel(config).eval()
    names = [name for name, each in plain.named_modules() if isinstance(each, torch.nn.Linear)]
    weights = dict(plain.state_dict())
    for name in names:
        rounded = ROUND[bits](weights.pop(f"{name}.weight"))
        weights |= {f"{name}.{kind}": value for kind, value in rounded.items()}
    small = LanguageModel(config).eval()
    put_quantised(small, names, bits, 0 if bits == 8 else 32)
    small.load_weights(weights)
    assert small.num_parameters() == plain.num_parameters()
    floats = LanguageModel(config).eval()
    floats.load_weights(dequantised(weights, names))
    tokens = torch.randint(50, (2, 70))  # more rows than a kernel gets
    torch.testing.assert_close(small(tokens), floats(tokens), atol=1e-5, rtol=1e-5)
    assert set(dequantised(weights, names)) == set(plain.state_dict())
