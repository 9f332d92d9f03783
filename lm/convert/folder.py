"""Reading a folder as Hugging Face's transformers write it."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lm.backbone import BackboneConfig, InputConfig
from lm.checkpoint import Model, outline
from lm.convert.classifiers import classifier
from lm.convert.families import FAMILIES
from lm.convert.family import EMBEDDINGS, Family, Part
from lm.convert.fields import Fields
from lm.convert.parts import Shape, shape_of, unpack
from lm.convert.tokenizer_files import read_chat_template, read_tokenizer
from lm.convert.weights import read_json, read_tensors
from lm.errors import UserError, some
from lm.processors import Processor


def read_folder(folder: Path) -> Model:
    """The model in a Hugging Face folder, which has a config.json.

    Raises:
        UserError: it is damaged, or a model that can't be followed exactly.
    """
    fields = Fields(read_json(folder / "config.json"), folder / "config.json")
    family = _family(fields)
    config, shape = _config(family, fields)
    init = fields.content.get("residual_init")  # lm's own addition: it says nothing of a trained model
    if init in ("scaled", "zero"):
        config.residual_init = init

    tensors = family.folded(_plainsome(family, read_tensors(folder)))
    if config.num_layers > len(tensors):  # before anything of that many layers is made
        raise UserError(
            f"{folder}: the weights are {len(tensors)} tensors, too few for the {config.num_layers} layers "
            "of its config.json"
        )
    notes = _untie(family, config, tensors)
    config = family.refine(config, tensors)
    body = list(family.body(config, fields.content))
    has_head = _has_head(family, config, fields, tensors, folder)
    head = list(family.head(config)) if has_head else []
    record, outputs = (None if head else classifier(family, config, fields, tensors)) or ({}, [])
    known = {part.theirs for part in outputs}
    pooler = [part for part in family.pooler() if part.theirs in tensors and part.theirs not in known]
    if has_head and (odd := set(family.misfits(config)) - set(family.misfits(config, head=False))):
        name = min(odd)
        raise fields.refuse(f"{name} {getattr(config, name)} is not supported beside a language-model head")
    if shape is not None:
        record["input"] = shape.described()
    parts = [*body, *head, *outputs, *pooler]
    shapes = _shapes(config, record.get("head"), record.get("input"))
    _check(folder, family, parts, shapes, tensors)

    left_out = sorted(tensors.keys() - {part.theirs for part in parts})
    if left_out:
        notes.append(f"left out, {family.others}: {some(left_out)}")
    weights = unpack(parts, tensors, shapes)
    if config.dropout:
        notes.append(f"its dropout of {config.dropout:g} is kept, on everything (`model.dropout` changes it)")
    if shape is None:
        processor: Processor = read_tokenizer(folder)
    else:
        processor = family.processor(read_json(folder / "preprocessor_config.json"))
    model = Model(config, weights, processor, str(folder), record, notes, has_head=has_head)
    model.chat_template = read_chat_template(folder) if has_head else None
    return model


def _family(fields: Fields) -> Family:
    kind, known = fields.content.get("model_type"), ", ".join(FAMILIES)
    if kind is None:
        raise fields.refuse(f"it has no model_type; known here are {known}")
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise fields.refuse(f"a model of the family {kind!r} is not known here: {known} are")
    names = fields.content.get("architectures") or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise fields.refuse(f"architectures is {names!r}, not a list of names")
    return FAMILIES[kind]


def _config(family: Family, fields: Fields) -> tuple[BackboneConfig, InputConfig | None]:
    try:
        config, shape = family.read(fields), family.input(fields)
    except UserError as error:  # a shape that can't be names its own fields: say where they come from
        raise error if str(fields.path) in str(error) else fields.refuse(str(error)) from error
    except (ArithmeticError, TypeError, ValueError, AttributeError) as error:
        raise fields.refuse(f"a field is not what it should be: {error}") from error
    fields.finish()
    return config, shape


def _plainsome(family: Family, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by the names of a body without a head, old names replaced, tables that are no weights left."""
    plain = {}
    for name, tensor in tensors.items():
        short = name.removeprefix(family.prefix)
        for old, new in ((".gamma", ".weight"), (".beta", ".bias")):  # what TensorFlow called them
            if short.endswith(old):
                short = short.removesuffix(old) + new
        if not family.ignored.fullmatch(short):
            plain[short] = tensor
    return plain


def _untie(family: Family, config: BackboneConfig, tensors: dict[str, Tensor]) -> list[str]:
    """Drop tied tensors that are stored a second time; believe the tensors where they say it is not tied."""
    notes = []
    output = tensors.get(family.output)
    if config.tie_embeddings and output is not None:
        embeddings = next(part.theirs for part in family.body(config, {}) if part.ours == (EMBEDDINGS,))
        if embeddings in tensors and torch.equal(output, tensors[embeddings]):
            del tensors[family.output]
        else:
            config.tie_embeddings = False
            notes.append("config.json says that the embeddings are tied; the weights say not, and count")
    for copy, name in family.twins.items():
        one, other = tensors.get(copy), tensors.get(name)
        if config.tie_embeddings:
            if one is not None and (other is None or torch.equal(one, other)):
                tensors[name] = tensors.pop(copy)
        elif one is None and other is not None:
            tensors[copy] = other
        elif other is None and one is not None:
            tensors[name] = one
    return notes


def _has_head(
    family: Family, config: BackboneConfig, fields: Fields, tensors: dict[str, Tensor], folder: Path
) -> bool:
    """Whether the language-model head is there, whole; a UserError where a part of it is missing."""
    if not family.languages:
        return False
    names = [part.theirs for part in family.head(config)]
    missing = [name for name in names if name not in tensors]
    architectures = fields.content.get("architectures") or []
    if any(name in family.languages for name in architectures) and missing:
        raise UserError(f"{folder}: the weights lack {some(missing)}")
    # ModernBERT's classifiers have a dense layer of the language-model head's name.
    other = any(name.endswith(("Classification", "Answering", "Choice")) for name in architectures)
    return not missing and not (other and names)


def _shapes(
    config: BackboneConfig, head: dict[str, Any] | None, input: dict[str, Any] | None
) -> dict[str, Shape]:
    """The shapes of all our tensors with a head, a pooler's among them."""
    width = config.hidden_size
    if input is not None and head is None:
        head = {"kind": "pooled", "pooling": "first", "outputs": 1}  # any will do
    return {
        **{name: tuple(tensor.shape) for name, tensor in outline(config, head, input).state_dict().items()},
        "pooler.dense.weight": (width, width),
        "pooler.dense.bias": (width,),
    }


def _check(
    folder: Path, family: Family, parts: list[Part], shapes: dict[str, Shape], tensors: dict[str, Tensor]
) -> None:
    """See that every part is there and fits, and nothing else is but other tasks' heads."""
    wanted = {part.theirs: shape_of(part, shapes) for part in parts}
    if missing := [name for name in wanted if name not in tensors]:
        raise UserError(f"{folder}: the weights lack {some(missing)}")
    whole = BackboneConfig(causal=False, bias=True, tie_embeddings=False)
    known = wanted.keys() | {part.theirs for part in family.head(whole)}
    if extra := [name for name in tensors.keys() - known if not family.other_heads.fullmatch(name)]:
        raise UserError(
            f"{folder}: its config.json has no place for these of its weights: {some(sorted(extra))}"
        )
    for name, shape in wanted.items():
        if tuple(tensors[name].shape) != shape:
            raise UserError(
                f"{folder}: {name} has the shape {tuple(tensors[name].shape)}, by config.json it is {shape}"
            )
