"""What `lm compress` was asked for, as steps: each makes a variant of the model or of an earlier one."""

from argparse import Namespace
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor, nn

from lm.checkpoint import Model
from lm.compression.rounding import group_of, quantise, quantised_bytes
from lm.compression.sparsity import pattern_of, sparsify
from lm.compression.structure import shrink
from lm.errors import UserError


class Step(NamedTuple):
    """How a variant is made.

    Args:
        name: of the variant, and of its file.
        of: the variant that it is made of; empty: the model as it is.
        make: from that and the calibration's tokens, which are None where no text was given.
    """

    name: str
    of: str
    make: Callable[[Model, Tensor | None], Model]


def steps(asked: Namespace) -> list[Step]:
    """The variants in the order in which they are made: first the shape, then zeros, then integers.

    Args:
        asked: the options of the command by their names.

    Raises:
        UserError: they don't go together.
    """
    shape = {name: getattr(asked, name) for name in ("layers", "heads", "mlp")}
    shape = {name: value for name, value in shape.items() if value is not None}
    zeros = asked.sparsity is not None or asked.pattern is not None
    methods = asked.method or (["magnitude"] if asked.texts is None else ["wanda"])
    if asked.sparsity is not None and asked.pattern is not None:
        raise UserError("give `sparsity` or `pattern`, not both", status=2)
    if asked.method and not zeros:
        raise UserError("`method` finds zeros: give `sparsity` or `pattern`, too", status=2)
    reads = f"`{next(iter(shape))}`" if shape else "wanda" if zeros and "wanda" in methods else None
    if reads and asked.texts is None:
        raise UserError(
            f"{reads} looks at what the layers read: give `texts` FILE, like the model's", status=2
        )
    if asked.texts is not None and not reads:
        raise UserError("nothing that was asked for reads `texts`: leave it out", status=2)
    if asked.group is not None and 4 not in asked.bits:
        raise UserError("`group` is of 4 bits: give `bits` 4, too", status=2)
    groups = {bits: group_of(bits, asked.group if bits == 4 else None) for bits in asked.bits}
    found: list[Step] = []
    bases = [""]
    if shape:
        name = "-".join(f"{part}{value:g}" for part, value in shape.items())
        found.append(Step(name, "", partial(_shrunk, **shape)))
        bases = [name]
    if zeros:
        pattern = None if asked.pattern is None else pattern_of(asked.pattern)
        share = f"{asked.sparsity:g}" if pattern is None else asked.pattern.replace(":", "of")
        (base,), bases = bases, []
        for method in dict.fromkeys(methods):
            reading = method == "wanda"
            make = partial(_sparse, share=asked.sparsity, pattern=pattern, reading=reading)
            found.append(Step(_joined(base, f"{method}{share}"), base, make))
            bases.append(found[-1].name)
    for base in bases:
        for bits, group in groups.items():
            make = partial(_rounded, bits=bits, group=group)
            found.append(Step(_joined(base, f"int{bits}"), base, make))
    return found


def _joined(base: str, name: str) -> str:
    return f"{base}-{name}" if base else name


def _shrunk(model: Model, tokens: Tensor | None, **shape: float) -> Model:
    assert tokens is not None  # as `steps` has seen to
    return shrink(model, tokens, **shape)


def _sparse(model: Model, tokens: Tensor | None, share: float | None, pattern: Any, reading: bool) -> Model:
    return sparsify(model, 0.5 if share is None else share, pattern, tokens if reading else None)


def _rounded(model: Model, tokens: Tensor | None, bits: int, group: int) -> Model:
    return quantise(model, bits, group)


def outcome(made: Model, of: Model) -> str:
    """What a step has made of a model, in words."""
    if found := made.record.get("quantised"):
        small, large = quantised_bytes(made.network)
        sizes = f"from {large / 1e6:,.1f} to {small / 1e6:,.1f} MB (1/{large / small:.2f})"
        there = sum(isinstance(each, nn.Linear) for each in made.network.backbone.modules())
        return f"{found['bits']} bits: {len(found['layers'])} of {there} layers {sizes}"
    pruned, shape = made.record["pruned"], made.config
    if "method" in pruned and shape == of.config:
        how = f"by {pruned['method']}" + (f", {pruned['pattern']}" if "pattern" in pruned else "")
        return f"{pruned['sparsity']:.0%} of the layers' weights are zero, {how}"
    left, all_ = (sum(each.numel() for each in model.weights.values()) for model in (made, of))
    what = f"{shape.num_layers} layers, {shape.num_heads} heads, MLP {shape.mlp_width}"
    return f"{what}: {left:,} of {all_:,} parameters are left"
