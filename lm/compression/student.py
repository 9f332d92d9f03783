"""A student that begins as some of another model's layers (DistilBERT, arXiv:1910.01108)."""

import re
from dataclasses import asdict, replace
from typing import Any

from torch import Tensor

from lm.backbone import BackboneConfig
from lm.checkpoint import Model
from lm.convert.models import GROWING
from lm.errors import UserError

_BLOCK = re.compile(r"backbone\.blocks\.(\d+)\.(.*)")
# What two shapes may differ in where one takes the other's weights: tables are cut to length.
_BESIDE = ("max_seq_len", "vocab_size", "dropout", "init_std", "residual_init", "base_width")


def evenly(count: int, keep: int) -> list[int]:
    """`keep` of `count` layers, evenly spaced from the first to the last: of 12 six are 0, 2, 4, 7, 9, 11,
    as in DistilBERT's own script."""
    return [round(i * (count - 1) / max(keep - 1, 1)) for i in range(keep)]


def chosen(keep_layers: int | list[int], config: BackboneConfig, source: str) -> list[int]:
    """The numbers of the layers that are kept, from the lowest, which is 0.

    Args:
        keep_layers: how many, evenly spaced; or which.
        config: of the model that they are taken from.
        source: what it is called.

    Raises:
        UserError: it has no such layers, or they are not in their order.
    """
    count = config.num_layers
    if isinstance(keep_layers, int):
        if not 1 <= keep_layers <= count:
            said = f"keep_layers is {keep_layers}: {source} has {count} layers, so it can be 1 to {count}"
            raise UserError(said, status=2)
        layers = evenly(count, keep_layers)
    else:
        layers = list(keep_layers)
        if not layers or layers != sorted(set(layers)) or not 0 <= layers[0] <= layers[-1] < count:
            raise UserError(
                f"keep_layers is {layers}: give some of the layers of {source}, 0 to {count - 1}, from the "
                "lowest to the highest",
                status=2,
            )
    if not config.first_attention_norm and layers[0] != 0:
        raise UserError(
            f"keep_layers is {layers}: the lowest layer of {source} is made otherwise than the rest, so 0 "
            "has to be among them",
            status=2,
        )
    return layers


def drop_layers(model: Model, layers: list[int]) -> Model:
    """The model with these of its layers alone; all else of it stays. It shares its weights with the other.

    Args:
        layers: from the lowest to the highest; see `chosen`.
    """
    place = {str(layer): number for number, layer in enumerate(layers)}
    weights: dict[str, Tensor] = {}
    for name, value in model.weights.items():
        block = _BLOCK.fullmatch(name)
        if block is None:
            weights[name] = value
        elif block[1] in place:
            weights[f"backbone.blocks.{place[block[1]]}.{block[2]}"] = value
    config = replace(model.config, num_layers=len(layers))
    record = of_shape(model.record, config)
    if made := record.get("quantised"):
        blocks = [(_BLOCK.fullmatch(name), name) for name in made["layers"]]
        names = [
            f"backbone.blocks.{place[b[1]]}.{b[2]}" if b else name
            for b, name in blocks
            if not b or b[1] in place
        ]
        record["quantised"] = {**made, "layers": names}
    notes = list(model.notes)
    if any(config.windowed(number) != model.config.windowed(layer) for number, layer in enumerate(layers)):
        notes.append("some of the layers that are kept see further, or less far, than they did")
    return replace(model, config=config, weights=weights, record=record, notes=notes)


def of_shape(record: dict[str, Any], config: BackboneConfig) -> dict[str, Any]:
    """What is said of a model, said of the same with another shape."""
    return {**record, "backbone": asdict(config)} if "backbone" in record else dict(record)


def student_weights(model: Model, config: BackboneConfig, layers: list[int]) -> dict[str, Tensor]:
    """The weights that a language model of a shape begins with, from layers of another.

    Args:
        model: that they are taken from.
        config: the student's shape.
        layers: of the model, as many as the student has; see `chosen`.

    Raises:
        UserError: the shapes differ in more than the number of layers.
    """
    if len(layers) != config.num_layers:
        raise UserError(
            f"keep_layers keeps {len(layers)} layers, but the student has {config.num_layers}: give "
            f"`backbone.num_layers` {len(layers)}",
            status=2,
        )
    shorter = drop_layers(model, layers)
    theirs, ours = vars(shorter.config), vars(config)
    differing = [name for name, value in theirs.items() if name not in _BESIDE and ours[name] != value]
    if differing:
        said = ", ".join(f"{name} {theirs[name]!r} → {ours[name]!r}" for name in differing[:3])
        raise UserError(
            f"layers of {model.source} fit into a student of its own shape alone, and this one has other: "
            f"backbone.{said}. Give its shape, or leave keep_layers out, to begin from nothing",
            status=2,
        )
    rows = {"positions": config.max_seq_len, "tokens": config.vocab_size}
    return {
        name: value[: rows.get(table[1] or "tokens")] if (table := GROWING.fullmatch(name)) else value
        for name, value in shorter.weights.items()
    }
