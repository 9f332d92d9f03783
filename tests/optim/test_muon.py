"""Muon against its write-up in float64, one matrix at a time, and against torch's own optimizers."""

import io

import pytest
import torch
from torch import Tensor, nn

from lm.backbone import BackboneConfig, LanguageModel
from lm.optim import Muon, orthogonalize, parameter_groups

SHAPES = [(12, 12), (12, 12), (6, 20), (20, 6), (20, 6), (1, 8), (8, 1)]


def parameters(seed: int = 0) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]


def set_gradients(members: list[nn.Parameter], step: int) -> None:
    generator = torch.Generator().manual_seed(1000 + step)
    for p in members:
        p.grad = torch.randn(p.shape, generator=generator) * 10.0 ** (step - 2)


def newton_schulz(matrix: Tensor, steps: int) -> Tensor:
    """kellerjordan.github.io/posts/muon, in float64."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrix / (matrix.norm() + 1e-7)
    if matrix.shape[0] > matrix.shape[1]:
        x = x.T
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if matrix.shape[0] > matrix.shape[1] else x


class WriteUp:
    """The write-up's update of one matrix, with decoupled weight decay and Nesterov momentum. The momentum is
    a plain sum there; the scale makes no difference to what is orthogonalised."""

    def __init__(self, matrix: Tensor, lr: float, momentum: float, weight_decay: float, steps: int) -> None:
        self.w = matrix.detach().double()
        self.buffer = torch.zeros_like(self.w)
        self.lr, self.momentum, self.weight_decay, self.steps = lr, momentum, weight_decay, steps

    def step(self, gradient: Tensor) -> None:
        self.buffer = self.momentum * self.buffer + gradient.double()
        update = newton_schulz(gradient.double() + self.momentum * self.buffer, self.steps)
        rows, columns = self.w.shape
        self.w = (1 - self.lr * self.weight_decay) * self.w
        self.w = self.w - self.lr * max(1, rows / columns) ** 0.5 * update


@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
@pytest.mark.parametrize(("momentum", "steps"), [(0.95, 5), (0.5, 3), (0.0, 5)])
def test_steps_equal_the_write_up(momentum, steps, weight_decay):
    members = parameters()
    chosen = {"lr": 0.05, "momentum": momentum, "weight_decay": weight_decay, "steps": steps}
    reference = [WriteUp(p, **chosen) for p in members]
    optimizer = Muon(members, **chosen)
    for step in range(6):
        set_gradients(members, step)
        for p, r in zip(members, reference, strict=True):
            r.step(p.grad)
        optimizer.step()
        for p, r in zip(members, reference, strict=True):
            torch.testing.assert_close(p.detach().double(), r.w, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("shape", [(64, 64), (32, 128), (128, 32), (1, 50)])
def test_orthogonal_to_the_tolerance_of_the_quintic(shape):
    noise = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    u, _, vt = torch.linalg.svd(noise, full_matrices=False)
    spread = torch.linspace(1, 0.05, min(shape))  # a random square matrix would have values near 0
    scale = torch.tensor([1e-4, 1.0, 1e4])[:, None, None]
    matrices = scale * (u * spread) @ vt
    result = orthogonalize(matrices)
    assert result.shape == matrices.shape
    values = torch.linalg.svdvals(result)
    assert values.min() > 0.6
    assert values.max() < 1.3
    cosine = (result * (u @ vt)).sum((1, 2)) / result.norm(dim=(1, 2)) / (u @ vt).norm(dim=(1, 2))
    assert cosine.min() > 0.96, "not the nearest orthogonal matrix"


def test_a_batch_is_orthogonalised_matrix_by_matrix():
    matrices = torch.randn(4, 9, 5, generator=torch.Generator().manual_seed(0))
    alone = torch.stack([orthogonalize(m[None])[0] for m in matrices])
    torch.testing.assert_close(orthogonalize(matrices), alone, atol=1e-5, rtol=1e-5)
    assert not orthogonalize(torch.zeros(1, 3, 3)).any(), "no gradient is no direction"


def test_equals_torchs_muon_within_bf16():
    ours, theirs = parameters(), parameters()
    start = [p.detach().clone() for p in ours]
    chosen = {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.1}
    optimizers = Muon(ours, **chosen), torch.optim.Muon(theirs, **chosen, nesterov=True, ns_steps=5)
    for step in range(3):
        set_gradients(ours, step)
        set_gradients(theirs, step)
        for optimizer in optimizers:
            optimizer.step()
    for a, b, before in zip(ours, theirs, start, strict=True):
        assert (a - b).norm() < 0.05 * (b - before).norm()


def test_everything_else_is_torchs_adamw():
    kinds = ("embedding", "vector")
    ours, theirs = parameters(), parameters()
    chosen = {"betas": (0.8, 0.9), "eps": 1e-6}
    groups = [{"kind": kinds[i], "params": ours[i::2]} for i in (0, 1)]
    groups[1]["weight_decay"] = 0.0
    optimizer = Muon(groups, lr=1.0, adamw_lr=0.01, weight_decay=0.2, **chosen)
    torchs = torch.optim.AdamW(
        [{"params": theirs[0::2], "weight_decay": 0.2}, {"params": theirs[1::2], "weight_decay": 0.0}],
        lr=0.01,
        **chosen,
    )
    for step in range(5):
        set_gradients(ours, step)
        set_gradients(theirs, step)
        optimizer.step()
        torchs.step()
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


def network() -> LanguageModel:
    torch.manual_seed(0)
    return LanguageModel(
        BackboneConfig(hidden_size=16, num_layers=2, num_heads=2, vocab_size=31, qk_norm=True)
    )


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        tokens = torch.randint(31, (2, 12), generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        model(tokens[:, :-1], targets=tokens[:, 1:])[0].backward()
        optimizer.step()


def test_a_stop_in_between_changes_nothing():
    straight = network()
    train(straight, Muon(parameter_groups(straight), weight_decay=0.1), range(8))

    first = network()
    optimizer = Muon(parameter_groups(first), weight_decay=0.1)
    train(first, optimizer, range(5))
    file = io.BytesIO()
    torch.save({"model": first.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)

    second = network()
    second.load_state_dict(saved["model"])
    optimizer = Muon(parameter_groups(second), weight_decay=0.7)  # the saved one wins
    optimizer.load_state_dict(saved["optimizer"])
    train(second, optimizer, range(5, 8))
    for (name, a), b in zip(second.named_parameters(), straight.parameters(), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_state_loaded_on_the_cpu_goes_on_on_a_gpu():
    model = network().cuda()
    optimizer = Muon(parameter_groups(model))
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    copy = network().cuda()
    copy.load_state_dict(model.state_dict())
    other = Muon(parameter_groups(copy))
    other.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    for p in copy.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    other.step()
    for a, b in zip(model.parameters(), copy.parameters(), strict=True):
        assert torch.equal(a, b)


def test_learning_rates_by_kind():
    model = network()
    optimizer = Muon(parameter_groups(model), lr=0.03, adamw_lr=0.004, weight_decay=0.1)
    rates = {group["kind"]: (group["lr"], group["weight_decay"]) for group in optimizer.param_groups}
    assert rates == {"matrix": (0.03, 0.1), "embedding": (0.004, 0.1), "vector": (0.004, 0.0)}


def test_plain_parameters_go_by_their_dimensions():
    matrix, vector = nn.Parameter(torch.ones(3, 2)), nn.Parameter(torch.ones(3))
    kinds = {group["kind"]: group["params"] for group in Muon([vector, matrix]).param_groups}
    assert kinds["matrix"][0] is matrix
    assert kinds["vector"][0] is vector
    with pytest.raises(ValueError, match="kind"):
        Muon([{"params": [matrix]}])


def test_what_has_no_gradient_stays():
    matrix, other = nn.Parameter(torch.ones(3, 2)), nn.Parameter(torch.ones(3, 2))
    optimizer = Muon([matrix, other], weight_decay=0.5)
    matrix.grad = torch.ones(3, 2)
    optimizer.step()
    assert torch.equal(other, torch.ones(3, 2))
    assert not torch.equal(matrix, torch.ones(3, 2))
    assert optimizer.step(lambda: 42) == 42
