"""Writing a classifier of pictures or of sounds as a Hugging Face folder."""

from pathlib import Path
from typing import Any

import torch

from lm.backbone import read_input
from lm.checkpoint import Model
from lm.convert import classifiers
from lm.convert.card import model_card
from lm.convert.families import MEDIA
from lm.convert.media import Media
from lm.convert.parts import pack
from lm.convert.weights import as_dtype, write_json, write_tensors
from lm.errors import UserError, some


@torch.no_grad()
def write_media(
    model: Model, folder: Path, name: str, dtype: torch.dtype, shard_bytes: int
) -> tuple[str, str, int, list[str]]:
    """Write a model into an empty folder: its family, architecture, the bytes of its tensors, and what a
    person should know.

    Args:
        name: what the folder will be called.

    Raises:
        UserError: transformers has no model that computes the same.
    """
    if "head" not in model.record:
        raise UserError(f"{model.source} has no head: a classifier can go out")
    network, config = model.network, model.config
    shape = read_input(model.record["input"])
    family = _family(model, shape)
    architecture, head = family.classifier(model.record["head"])
    prepared = family.prepared(model.processor)
    shape, changed = family.settled(shape, model.processor, network.backbone.embeddings)
    described = {
        "architectures": [architecture],
        "model_type": family.name,
        **family.write(config, None),
        **family.write_input(shape),
        "torch_dtype": str(dtype).removeprefix("torch."),
        **classifiers.described(model, network),
    }
    weights = network.state_dict() | changed
    body = list(family.body(config, described))
    if left := weights.keys() - {name for part in (*body, *head) for name in part.ours}:
        raise UserError(f"{architecture} has no place for these of its weights: {some(sorted(left))}")
    tensors = {family.prefix + part.theirs: pack(part, weights) for part in body}
    tensors |= {part.theirs: pack(part, weights) for part in head}
    tensors = as_dtype(family.unfolded(tensors), dtype)
    notes = []
    if family.padded and not model.record.get("padded"):
        notes.append(
            f"transformers fills sounds with silence to {model.processor.seconds:g} seconds and hears it; "
            "this model has learned without (`model.padded`), so it says something else of shorter ones there"
        )
    write_tensors(tensors, folder, shard_bytes)
    write_json(folder / "config.json", described)
    write_json(folder / "preprocessor_config.json", prepared)
    card = model_card(name, family, architecture, model, notes)
    (folder / "README.md").write_text(card, encoding="utf-8")
    return family.name, architecture, sum(tensor.nbytes for tensor in tensors.values()), notes


def _family(model: Model, shape: Any) -> Media:
    """The family in which a model computes what it computes here: one with its head, where there is."""
    kind = model.processor.kind
    families = [each for each in MEDIA if each.kind == kind and isinstance(shape, each.shape)]
    if not families:
        raise UserError(f"no Hugging Face model that is known here takes {shape.kind} of {kind}s")
    reasons = {family: _reasons(family, model, shape) for family in families}
    fitting = [family for family in families if not reasons[family]]
    for family in fitting:
        try:
            family.classifier(model.record["head"])
        except UserError:
            continue
        return family
    if fitting:
        return fitting[0]
    nearest = min(families, key=lambda family: len(reasons[family]))
    known = ", ".join(family.name for family in families)
    raise UserError(
        f"no family of Hugging Face models that take {shape.kind} ({known}) has this shape; the nearest is "
        f"{nearest.name}, where these don't fit: {', '.join(reasons[nearest])}"
    )


def _reasons(family: Media, model: Model, shape: Any) -> list[str]:
    """What of a model a family has no place for."""
    fields = [f"{name} {getattr(model.config, name)}" for name in dict.fromkeys(family.misfits(model.config))]
    return [*family.unfit(shape, model.processor), *fields]
