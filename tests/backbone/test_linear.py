"""Our linear layer against torch's, whichever library multiplies."""

import pytest
import torch
import torch.nn.functional as F

from lm.backbone import linear as linears
from lm.backbone.linear import Linear, multiplies_bf16_fast, prefers_onednn, product, product_of_columns


@pytest.fixture(params=["torch", "onednn"])
def library(request, monkeypatch):
    """Either library on any x86 processor, as if the other were the slower one."""
    if request.param == "onednn" and not torch.backends.mkldnn.is_available():
        pytest.skip("this torch has no oneDNN")
    monkeypatch.setattr(linears, "prefers_onednn", lambda: request.param == "onednn")
    return request.param


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(5, 24), (40, 24), (3, 17, 24), (0, 24), (2, 1, 24)])
def test_values_and_gradients(library, shape, bias):
    torch.manual_seed(0)
    layer = Linear(24, 36, bias=bias)
    x, grad = torch.randn(shape, requires_grad=True), torch.randn(*shape[:-1], 36)
    leaves = [x, *layer.parameters()]
    expected = F.linear(x, layer.weight, layer.bias)
    y = layer(x)
    assert y.is_contiguous()
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)
    wanted = torch.autograd.grad(expected, leaves, grad)
    for ours, theirs in zip(torch.autograd.grad(y, leaves, grad), wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("trained", ["weight", "x", "neither"])
def test_what_is_frozen_gets_no_gradient(library, trained):
    layer = Linear(24, 36).requires_grad_(trained == "weight")
    x = torch.randn(40, 24, requires_grad=trained == "x")
    y = layer(x).sum()
    assert y.requires_grad == (trained != "neither")
    if y.requires_grad:
        y.backward()
        assert (x.grad is None, layer.weight.grad is None) == (trained != "x", trained != "weight")


@pytest.mark.parametrize(("width", "out"), [(24, 90), (90, 24)])
def test_products_of_matrices_in_any_order_of_memory(library, width, out):
    x, grad, weight = torch.randn(width, 50).t(), torch.randn(50, out), torch.randn(out, width)
    torch.testing.assert_close(product(grad, weight), grad @ weight, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(product_of_columns(grad, x), grad.t() @ x, rtol=1e-5, atol=1e-4)


def test_autocast_and_other_types_are_torch_s(library):
    layer, x = Linear(24, 36), torch.randn(40, 24)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(x), F.linear(x, layer.weight, layer.bias))
        assert layer(x).dtype == torch.bfloat16
    double = layer.double()
    assert torch.equal(double(x.double()), F.linear(x.double(), double.weight, double.bias))


def test_it_compiles(library):
    torch._dynamo.reset()
    layer, x = Linear(24, 36), torch.randn(40, 24, requires_grad=True)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), layer(x), rtol=1e-5, atol=1e-5)
    ours, theirs = (torch.autograd.grad(f(x).square().sum(), x)[0] for f in (compiled, layer))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-4)


def test_what_the_processor_is_decides(monkeypatch):
    known = {"architecture": "x86_64", "cpu_name": "AMD EPYC", "avx2": True, "avx512_bf16": True}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known)

    def decided() -> tuple[bool, bool]:
        prefers_onednn.cache_clear()
        return prefers_onednn(), multiplies_bf16_fast(torch.device("cpu"))

    try:
        assert decided() == (True, True)
        known |= {"avx512_bf16": False, "cpu_name": "Intel(R) Xeon(R) Platinum"}
        assert decided() == (False, False)
        known |= {"amx_bf16": True}
        assert decided() == (False, True)
        known |= {"architecture": "aarch64", "amx_bf16": False, "cpu_name": "Neoverse"}
        assert decided() == (False, False)
    finally:
        prefers_onednn.cache_clear()
    assert not multiplies_bf16_fast(torch.device("mps"))
