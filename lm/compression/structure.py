"""Structured pruning: fewer layers, fewer heads, a narrower feed-forward network. What is left is a smaller
model of the same kind, and really faster.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from lm.backbone import BackboneConfig
from lm.checkpoint import Model, is_language
from lm.compression.calibration import Read, copied, filled, inputs_of, walk
from lm.compression.student import drop_layers, of_shape
from lm.errors import UserError, some

_DAMPING = 0.01  # of the mean square of what is read, against directions that the texts hardly have
_STEP = 32  # a share of the feed-forward network's width is rounded to this: what kernels like


def shrink(
    model: Model,
    tokens: Tensor,
    layers: float | None = None,
    heads: float | None = None,
    mlp: float | None = None,
) -> Model:
    """The model without what matters least when it reads texts.

    - Layers go by how little they turn the hidden states they read (ShortGPT, arXiv:2403.03853).
    - Then, block by block with what the smaller blocks before it make, heads and inner features of the
      feed-forward network by the size of what they add to the residual stream; the projection out of what is
      left is fitted anew by least squares, so that it makes up for what is gone as well as it can.

    Args:
        model: with plain weights; it is left as it is.
        tokens: of calibration (N, T).
        layers, heads, mlp: what is left of each: a number, or below 1 a share. Heads that share key and value
            go together where the number allows it, else the same number from each such group.

    Raises:
        UserError: there are not so many.
    """
    made, config = copied(model), model.config
    wanted: dict[str, Any] = {}
    if layers is not None:
        count = number(layers, config.num_layers, "layers")
        kept = deepest(made, tokens, count)
        made = drop_layers(made, kept)
        before = model.record.get("pruned", {}).get("layers")  # in the numbers of what that was made of
        wanted["layers"] = kept if before is None else [before[layer] for layer in kept]
    if heads is not None:
        wanted["heads"] = heads_left(heads, config)
    if mlp is not None:
        count = number(mlp, config.mlp_width, "mlp", _STEP)
        wanted["mlp"] = count

    def visit(block: Any, _: Tensor, read: Read) -> None:
        if heads is not None:
            narrow_attention(block.attention, wanted["heads"], read)
        if mlp is not None:
            narrow_mlp(block.mlp, wanted["mlp"], read)

    if heads is not None or mlp is not None:
        walk(made, tokens, visit)
    shape = made.config
    if heads is not None:
        first: Any = made.network.backbone.blocks[0].attention
        shape = replace(shape, num_heads=first.heads, num_kv_heads=first.kv_heads, head_dim=first.dim)
    if mlp is not None:
        shape = replace(shape, mlp_hidden_size=wanted["mlp"])
    if shape == config:
        raise UserError("nothing is left out: as much is kept as there is", status=2)
    weights = dict(made.network.state_dict())
    if config.tie_embeddings and is_language(model.record.get("head")):
        weights.pop("head.weight")
    weights |= {name: value for name, value in made.weights.items() if name.startswith("pooler.")}
    record = of_shape(made.record, shape)
    if heads is not None or mlp is not None:
        record = filled(record)  # what is fitted anew has no zeros
    record["pruned"] = {**record.get("pruned", {}), **wanted}
    return replace(made, config=shape, weights=weights, record=record).checked()


def number(asked: float, there: int, name: str, step: int = 1) -> int:
    """How many are left of `there`: what was asked, or that share of them, rounded to `step`.

    Raises:
        UserError: more than there are, none, or a part of one.
    """
    found = int(asked) if asked % 1 == 0 else 0
    if 0 < asked < 1:
        found = min(round(asked * there / step) * step, there) or round(asked * there)
    if not 1 <= found <= there:
        said = f"the model has {there}; give how many are left, or a share below 1 that leaves at least one"
        raise UserError(f"`{name}` {asked:g}: {said}", status=2)
    return found


def heads_left(asked: float, config: BackboneConfig) -> int:
    """How many query heads are left: such that each key/value head serves as many as any other."""
    heads, groups = config.num_heads, config.kv_heads
    fits = [n for n in range(1, heads + 1) if n % groups == 0 or n % (heads // groups) == 0]
    if 0 < asked < 1 and round(asked * heads):
        return min(fits, key=lambda n: abs(n - asked * heads))
    if asked not in fits:
        said = f"of {heads}, with {groups} key/value heads, {some(fits, 20)} can be left"
        raise UserError(f"`heads` {asked:g}: {said}", status=2)
    return int(asked)


def deepest(model: Model, tokens: Tensor, count: int) -> list[int]:
    """The numbers of the `count` layers that turn hidden states the most: by 1 - the mean cosine of what they
    read and what they make of it."""
    turned: list[float] = []

    def visit(block: nn.Module, x: Tensor, read: Read) -> None:
        turned.append(1 - float(nn.functional.cosine_similarity(x, read(), dim=-1).mean()))

    walk(model, tokens, visit)
    needed = [0] if not model.config.first_attention_norm else []  # made otherwise than the rest
    by_turn = sorted(set(range(len(turned))) - set(needed), key=lambda layer: -turned[layer])
    return sorted([*needed, *by_turn][:count])


def gram(layer: nn.Module, read: Read) -> Tensor:
    """Σ x xᵀ (in, in), float64, over all that a layer reads."""
    (found,) = inputs_of([layer], read, lambda x: (x.t() @ x).double())
    return found


def narrow_attention(attention: Any, count: int, read: Read) -> None:
    """Leave `count` query heads of an attention, in place."""
    heads, groups, dim = attention.heads, attention.kv_heads, attention.dim
    products, weight = gram(attention.output, read), attention.output.weight.data
    added = []  # by each head: the squared norm of what it adds
    for head in range(heads):
        part = slice(head * dim, (head + 1) * dim)
        own = weight[:, part].double()
        added.append(float(((own @ products[part, part]) * own).sum()))
    each = heads // groups  # query heads of a key/value head
    by_group = torch.tensor(added).view(groups, each)
    if count % each == 0:
        kept_groups = by_group.sum(1).topk(count // each).indices.sort().values
        kept = (kept_groups[:, None] * each + torch.arange(each)).flatten()
    else:
        kept_groups = torch.arange(groups)
        within = by_group.topk(count // groups, dim=1).indices.sort(dim=1).values
        kept = (torch.arange(groups)[:, None] * each + within).flatten()
    columns = (kept[:, None] * dim + torch.arange(dim)).flatten()
    rows = (kept_groups[:, None] * dim + torch.arange(dim)).flatten()
    keep_rows(attention.query, columns)
    for layer in (attention.key, attention.value):
        keep_rows(layer, rows)
    refit(attention.output, columns, products)
    attention.heads, attention.kv_heads = count, len(kept_groups)


def narrow_mlp(mlp: Any, count: int, read: Read) -> None:
    """Leave `count` inner features of a feed-forward network, in place."""
    products = gram(mlp.down, read)
    added = products.diagonal() * mlp.down.weight.data.double().square().sum(0)
    kept = added.topk(count).indices.sort().values
    for layer in (mlp.up, mlp.gate):
        if layer is not None:
            keep_rows(layer, kept)
    refit(mlp.down, kept, products)


def keep_rows(layer: nn.Linear, rows: Tensor) -> None:
    """Leave some of a layer's outputs."""
    layer.weight = nn.Parameter(layer.weight.data[rows], requires_grad=False)
    if layer.bias is not None:
        layer.bias = nn.Parameter(layer.bias.data[rows], requires_grad=False)
    layer.out_features = len(rows)


def refit(layer: nn.Linear, columns: Tensor, products: Tensor) -> None:
    """Leave some of a layer's inputs, with the weights that come nearest to what all of them gave.

    Args:
        columns: those that are left.
        products: Σ x xᵀ of what it reads, (in, in) float64.
    """
    own = products[columns][:, columns]
    own += _DAMPING * own.diagonal().mean().clamp_min(1e-12) * torch.eye(len(columns), dtype=own.dtype)
    # The damping pulls towards the weights as they are, and not towards zero.
    whole, left = layer.weight.data.double(), layer.weight.data[:, columns].double()
    missing = products[columns] @ whole.t() - products[columns][:, columns] @ left.t()
    fitted = left + torch.linalg.solve(own, missing).t()
    layer.weight = nn.Parameter(fitted.to(layer.weight.dtype), requires_grad=False)
    layer.in_features = len(columns)
