"""Our linear layer against torch's, whichever library multiplies."""

import pytest
import torch
import torch.nn.functional as F
from torch._dynamo.testing import CompileCounter

from lm.backbone import BackboneConfig, LanguageModel
from lm.backbone import linear as linears
from lm.backbone.linear import Linear, multiplies_bf16_fast, prefers_onednn, product, product_of_columns


@pytest.fixture(params=["torch", "onednn"])
def library(request, monkeypatch):
    """Either library on any x86 processor, as if the other were the slower one."""
    if request.param == "onednn" and not torch.backends.mkldnn.is_available():
        pytest.skip("this torch has no oneDNN")
    monkeypatch.setattr(linears, "ONEDNN", request.param == "onednn")
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


@pytest.mark.parametrize("trained", ["weight", "x", "bias", "nothing"])
def test_what_is_frozen_gets_no_gradient(library, trained):
    layer = Linear(24, 36)
    leaves = {"weight": layer.weight, "bias": layer.bias, "x": torch.randn(40, 24)}
    for name, leaf in leaves.items():
        leaf.requires_grad_(name == trained)
    y = layer(leaves["x"]).sum()
    assert y.requires_grad == (trained != "nothing")
    if y.requires_grad:
        y.backward()
        assert [name for name, leaf in leaves.items() if leaf.grad is not None] == [trained]


def test_a_single_vector(library):
    layer, x = Linear(24, 36), torch.randn(24)
    assert torch.equal(layer(x), F.linear(x, layer.weight, layer.bias))


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


def test_blocks_compile_to_one_graph_for_all_layers_and_lengths(library):
    torch._dynamo.reset()
    counter = CompileCounter()
    shape = {"hidden_size": 32, "num_layers": 4, "num_heads": 2, "vocab_size": 61, "max_seq_len": 64}
    model = LanguageModel(BackboneConfig(**shape, qk_norm=True))
    for block in model.backbone.blocks:
        block.compile(backend=counter, fullgraph=True)
    for length in (16, 24, 32, 40):
        tokens = torch.randint(61, (2, length))
        with torch.compiler.set_stance("force_eager"):
            expected = model(tokens)
        torch.testing.assert_close(model(tokens), expected, rtol=1e-5, atol=1e-4)
    assert counter.frame_count <= 2, "one for the first length, one for any"


def test_what_the_processor_is_decides(monkeypatch):
    known = {"architecture": "x86_64", "cpu_name": "AMD EPYC", "avx2": True, "avx512_bf16": True}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known)

    def decided() -> tuple[bool, bool]:
        return prefers_onednn(), multiplies_bf16_fast(torch.device("cpu"))

    assert decided() == (True, True)
    known |= {"avx512_bf16": False, "cpu_name": "Intel(R) Xeon(R) Platinum"}
    assert decided() == (False, False)
    known |= {"amx_bf16": True}
    assert decided() == (False, True)
    known |= {"architecture": "aarch64", "amx_bf16": False, "cpu_name": "Neoverse"}
    assert decided() == (False, False)
    known.clear()
    assert decided() == (False, False)
    assert not multiplies_bf16_fast(torch.device("mps"))
