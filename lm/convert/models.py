"""What can be opened: a checkpoint of lm, a Hugging Face folder, or an adapter with what it was trained
beside."""

import hashlib
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lm import checkpoint as checkpoints
from lm.backbone.lowrank import is_adapter, merge
from lm.checkpoint import Model
from lm.convert.folder import read_folder
from lm.errors import UserError

# Tables that fine-tuning may lengthen: by new pieces, or by more positions.
GROWING = re.compile(r"backbone\.embeddings\.(tokens|positions)\.weight|head\.(weight|bias)")


def open_model(path: str | Path) -> Model:
    """The model at a path.

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
    return read_folder(path) if path.is_dir() else checkpoints.open_checkpoint(path)


def fingerprint(weights: dict[str, Tensor]) -> str:
    """A hash of a backbone's weights, in hexadecimal: an adapter is of use with these alone."""
    digest = hashlib.sha256()
    for name in sorted(n for n in weights if n.startswith("backbone.")):
        digest.update(name.encode())
        digest.update(weights[name].detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def open_adapter(path: str | Path, base: str | Path | None = None) -> Model:
    """The model that an adapter and its base make together. A checkpoint that is whole, as `best.ckpt`, is
    opened as it is.

    Args:
        path: `adapter.ckpt` of a run.
        base: what the adapter was trained beside, a checkpoint or a Hugging Face folder; None: where it lay
            then.

    Raises:
        UserError: the adapter can't be read or is of a newer lm, there is no such base, it is another one
            than the adapter was trained beside, or the two don't fit together.
    """
    checkpoint = checkpoints.read(path)
    record = checkpoints.read_record(checkpoint, path)
    beside = record.get("base")
    if beside is None:
        if base is not None:
            raise UserError(f"{path} is a whole model, no adapter: leave `base` out", status=2)
        return checkpoints.open_checkpoint(path)
    try:
        source, known = beside["source"], beside["fingerprint"]
    except (KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged: it does not say what it was trained beside") from error
    if base is None and not Path(source).exists():
        raise UserError(f"{path} was trained beside {source}, which is not there: give `base` MODEL")
    start = open_model(base or source)
    if fingerprint(start.weights) != known:
        raise UserError(
            f"{path} is for another model than {start.source}: it was trained beside {source} as it was then"
        )
    try:
        model = _joined(checkpoint, record, start, str(path))
        _ = model.network  # whether the weights fit is found out here
    except (KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise UserError(f"{path} is damaged: it does not fit to {start.source} ({error})") from error
    return model


def _joined(checkpoint: dict[str, Any], record: dict[str, Any], start: Model, source: str) -> Model:
    config, head = checkpoints.config_of(record), record.get("head")
    trained = checkpoints.network_weights(checkpoint["state_dict"])
    adapted = {name.partition(".lora_")[0] for name in trained if is_adapter(name)}
    weights = dict(trained)
    for name, wanted in checkpoints.outline(config, head).state_dict().items():
        theirs = start.weights.get(name)
        if name in trained or theirs is None:
            continue
        if name in checkpoint["rows"]:
            theirs = torch.cat((theirs, checkpoint["rows"][name].to(theirs.dtype)))
        if GROWING.fullmatch(name):
            theirs = theirs[: len(wanted)]
        layer, _, kind = name.rpartition(".")
        weights[f"{layer}.base_layer.{kind}" if layer in adapted else name] = theirs
    return Model(
        config,
        merge(weights, record["adapter"]),
        checkpoints.processor_of(record) if "processor" in record else start.processor,
        source,
        {name: value for name, value in record.items() if name not in ("processor", "base")},
        step=checkpoint.get("global_step", 0),
        has_head=checkpoints.is_language(head),
    )
