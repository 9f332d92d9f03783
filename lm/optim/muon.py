"""Muon for matrices and AdamW for the rest, as one optimizer."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim.adamw import adamw

from lm.backbone.linear import multiplies_bf16_fast

# The quintic whose iteration drives singular values towards 1 fastest; from Muon's write-up
# (https://kellerjordan.github.io/posts/muon).
QUINTIC = (3.4445, -4.7750, 2.0315)


def orthogonalize(matrices: Tensor, steps: int = 5, bf16: bool = False) -> Tensor:
    """The nearest semi-orthogonal matrices, roughly: Newton-Schulz iteration on a batch (N, rows, columns).

    Singular values end between about 0.7 and 1.2. On a GPU in bf16, which is exact enough and fastest; on a
    CPU in fp32, or with `bf16` where it multiplies fast so.
    """
    a, b, c = QUINTIC
    half = matrices.is_cuda or (bf16 and multiplies_bf16_fast(matrices.device))
    x = matrices.to(torch.bfloat16 if half else torch.float32)
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).to(matrices.dtype)


class Muon(torch.optim.Optimizer):
    """Momentum whose update is orthogonalised, for matrices; AdamW for embeddings, heads and vectors.

    Update of a matrix: `−lr · sqrt(max(1, rows / columns)) · orthogonalize(momentum)`.

    Args:
        params: parameters, of which those of two dimensions are matrices; or groups as
            `lm.optim.parameter_groups` makes them, whose `kind` says which are.
        lr: learning rate of the matrices.
        adamw_lr: learning rate of everything else.
        momentum: of the matrices' gradients, with Nesterov's look-ahead.
        betas: of AdamW.
        eps: of AdamW.
        weight_decay: decoupled, times the learning rate; a group's own wins.
        steps: Newton-Schulz iterations.

    Attributes:
        bf16: orthogonalise in bf16 on a CPU, too: a task whose products are in bf16 says so.
    """

    bf16 = False

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.02,
        adamw_lr: float = 3e-3,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        steps: int = 5,
    ) -> None:
        for name, value in (("lr", lr), ("adamw_lr", adamw_lr), ("weight_decay", weight_decay)):
            if value < 0:
                raise ValueError(f"Muon's {name} is {value}: it must be 0 or more")
        groups = list(params)
        if groups and not isinstance(groups[0], dict):
            kinds = {
                "matrix": [p for p in groups if p.ndim == 2],
                "vector": [p for p in groups if p.ndim != 2],
            }
            groups = [{"kind": kind, "params": members} for kind, members in kinds.items() if members]
        if any("kind" not in g for g in groups):
            raise ValueError("Muon needs groups with a `kind`, as lm.optim.parameter_groups makes them")
        groups = [{**g, "lr": g.get("lr", lr if g["kind"] == "matrix" else adamw_lr)} for g in groups]
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "betas": tuple(betas),
            "eps": eps,
            "weight_decay": weight_decay,
            "steps": steps,
        }
        super().__init__(groups, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of every parameter that has a gradient."""
        with torch.enable_grad():
            loss = None if closure is None else closure()
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if parameters:
                (self._muon if group["kind"] == "matrix" else self._adamw)(group, parameters)
        return loss

    def _muon(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        same_shape: dict[torch.Size, list[Tensor]] = defaultdict(list)
        for p in parameters:
            same_shape[p.shape].append(p)
        for shape, members in same_shape.items():
            for p in members:
                if not self.state[p]:
                    self.state[p]["momentum"] = torch.zeros_like(p)
            momenta = [self.state[p]["momentum"] for p in members]
            gradients = [p.grad for p in members]
            torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
            updates = torch._foreach_lerp(gradients, momenta, group["momentum"])
            # A sharded matrix has to be whole to be orthogonalised: every rank gathers it and keeps its part.
            whole = torch.stack([u.full_tensor() if isinstance(u, DTensor) else u for u in updates])
            updates = orthogonalize(whole, group["steps"], self.bf16).unbind()
            updates = [
                distribute_tensor(u, p.device_mesh, p.placements) if isinstance(p, DTensor) else u
                for u, p in zip(updates, members, strict=True)
            ]
            if group["weight_decay"]:
                torch._foreach_mul_(members, 1 - group["lr"] * group["weight_decay"])
            scale = max(1.0, shape[0] / shape[1]) ** 0.5
            torch._foreach_add_(members, list(updates), alpha=-group["lr"] * scale)

    def _adamw(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        for p in parameters:
            state = self.state[p]
            if not state:
                state["step"] = torch.zeros((), dtype=torch.float32, device=p.device)
                state["exp_avg"] = torch.zeros_like(p)
                state["exp_avg_sq"] = torch.zeros_like(p)
            # Loading a state leaves the step on the CPU, where the fused kernel of a GPU can't read it.
            state["step"] = state["step"].to(p.device)
        states = [self.state[p] for p in parameters]
        beta1, beta2 = group["betas"]
        adamw(
            parameters,
            [p.grad for p in parameters],
            [s["exp_avg"] for s in states],
            [s["exp_avg_sq"] for s in states],
            [],
            [s["step"] for s in states],
            fused=parameters[0].device.type in ("cpu", "cuda"),
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )
