"""Where training goes on from: a checkpoint of lm, or a folder as Hugging Face's transformers write it."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lm.backbone import BackboneConfig, LanguageModel
from lm.convert.families import FAMILIES
from lm.convert.family import EMBEDDINGS, Family, Part
from lm.convert.fields import Fields
from lm.convert.parts import Shape, shape_of, unpack
from lm.convert.tokenizer_files import read_tokenizer
from lm.convert.weights import read_json, read_tensors
from lm.errors import UserError
from lm.tokenizer import Tokenizer


@dataclass
class Start:
    """A model to start from.

    Args:
        config: its backbone's shape.
        weights: by the names of a `LanguageModel`: `backbone.…`, and as far as they are there `head.…` (the
            matrix over the vocabulary only if it is not tied) and BERT's `pooler.…`. From a checkpoint of a
            classifier, `head.…` is the classifier's.
        tokenizer: the one it was trained with.
        source: where it was read, for people.
        has_head: whether `weights` hold all of a `LanguageModel`.
        record: what a checkpoint of lm says of itself; null for a Hugging Face folder.
        notes: what a person should know, a sentence each.
    """

    config: BackboneConfig
    weights: dict[str, Tensor]
    tokenizer: Tokenizer
    source: str
    has_head: bool
    record: dict[str, Any] | None = None
    notes: list[str] = field(default_factory=list)

    def language_model(self) -> LanguageModel:
        """The model with its language-model head, in evaluation mode.

        Raises:
            UserError: it has no such head.
        """
        if not self.has_head:
            raise UserError(f"{self.source} has no language-model head")
        with torch.device("meta"):
            model = LanguageModel(self.config)
        model.load_weights({name: t for name, t in self.weights.items() if not name.startswith("pooler.")})
        return model.eval()


def read_start(path: str | Path) -> Start:
    """Read a model to start from.

    Args:
        path: a checkpoint of lm, or a Hugging Face folder: config.json, model.safetensors (or its shards with
            their index) and the tokenizer's files.

    Raises:
        UserError: it is neither, or it is damaged, or it is a model that can't be followed exactly.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(
            f"no such checkpoint or folder: {path}; nothing is downloaded: give a folder on your disk"
        )
    return read_folder(path) if path.is_dir() else read_checkpoint(path)


def read_checkpoint(path: Path) -> Start:
    """A checkpoint of lm.

    Raises:
        UserError: see `lm.checkpoint.load_model`.
    """
    from lm.checkpoint import load_model

    loaded = load_model(path)
    weights = dict(loaded.model.state_dict())
    complete = isinstance(loaded.model, LanguageModel)
    if complete and loaded.model.config.tie_embeddings:
        weights.pop("head.weight", None)
    return Start(loaded.model.config, weights, loaded.tokenizer, str(path), complete, loaded.record)


def read_folder(folder: Path) -> Start:
    """A Hugging Face folder.

    Raises:
        UserError: see `read_start`.
    """
    if not (folder / "config.json").exists():
        if (best := folder / "best.ckpt").exists():
            raise UserError(f"{folder} is a run folder: give {best}")
        raise UserError(f"{folder} has no config.json: it is no Hugging Face folder, and no checkpoint of lm")
    fields = Fields(read_json(folder / "config.json"), folder / "config.json")
    family = _family(fields)
    config = _config(family, fields)
    init = fields.content.get("residual_init")  # lm's own addition: it says nothing of a trained model
    if init in ("scaled", "zero"):
        config.residual_init = init

    tensors = _plain_names(family, read_tensors(folder))
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
    pooler = [part for part in family.pooler() if part.theirs in tensors]
    if has_head and (odd := set(family.misfits(config)) - set(family.misfits(config, head=False))):
        name = min(odd)
        raise fields.refuse(f"{name} {getattr(config, name)} is not supported beside a language-model head")
    _check(folder, family, [*body, *head, *pooler], _shapes(config), tensors)

    left_out = sorted(tensors.keys() - {part.theirs for part in (*body, *head, *pooler)})
    if left_out:
        notes.append(f"left out, another task's head: {_names(left_out)}")
    weights = unpack([*body, *head, *pooler], tensors, _shapes(config))
    if config.dropout:
        notes.append(f"its dropout of {config.dropout:g} is kept, on everything (--model.dropout changes it)")
    return Start(config, weights, read_tokenizer(folder), str(folder), has_head, None, notes)


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


def _config(family: Family, fields: Fields) -> BackboneConfig:
    try:
        config = family.read(fields)
    except UserError as error:  # a shape that can't be names its own fields: say where they come from
        raise error if str(fields.path) in str(error) else fields.refuse(str(error)) from error
    except (ArithmeticError, TypeError, ValueError, AttributeError) as error:
        raise fields.refuse(f"a field is not what it should be: {error}") from error
    fields.finish()
    return config


def _plain_names(family: Family, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
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
    """Whether the language-model head is there, whole.

    Raises:
        UserError: a part of it is missing.
    """
    names = [part.theirs for part in family.head(config)]
    missing = [name for name in names if name not in tensors]
    architectures = fields.content.get("architectures") or []
    if any(name in family.languages for name in architectures) and missing:
        raise UserError(f"{folder}: the weights lack {_names(missing)}")
    # ModernBERT's classifiers have a dense layer of the language-model head's name.
    other = any(name.endswith(("Classification", "Answering", "Choice")) for name in architectures)
    return not missing and not (other and names)


def _shapes(config: BackboneConfig) -> dict[str, Shape]:
    """The shapes of all our tensors, a pooler's among them."""
    with torch.device("meta"):
        model = LanguageModel(config)
    width = config.hidden_size
    return {
        **{name: tuple(tensor.shape) for name, tensor in model.state_dict().items()},
        "pooler.dense.weight": (width, width),
        "pooler.dense.bias": (width,),
    }


def _names(names: Iterable[str]) -> str:
    """At most three names."""
    names = list(names)
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _check(
    folder: Path, family: Family, parts: list[Part], shapes: dict[str, Shape], tensors: dict[str, Tensor]
) -> None:
    """Every part is there and fits, and nothing else is but other tasks' heads.

    Raises:
        UserError: otherwise.
    """
    wanted = {part.theirs: shape_of(part, shapes) for part in parts}
    if missing := [name for name in wanted if name not in tensors]:
        raise UserError(f"{folder}: the weights lack {_names(missing)}")
    heads = {
        part.theirs for part in family.head(BackboneConfig(causal=False, bias=True, tie_embeddings=False))
    }
    extra = [
        name
        for name in tensors
        if name not in wanted and name not in heads and not family.other_heads.fullmatch(name)
    ]
    if extra:
        raise UserError(
            f"{folder}: its config.json has no place for these of its weights: {_names(sorted(extra))}"
        )
    for name, shape in wanted.items():
        if tuple(tensors[name].shape) != shape:
            raise UserError(
                f"{folder}: {name} has the shape {tuple(tensors[name].shape)}, by config.json it is {shape}"
            )
