"""An adapter's file, `adapter.ckpt`, and the model that it was trained beside, made into one model."""

import hashlib
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lm import checkpoint as checkpoints
from lm.backbone.lowrank import is_adapter, merge
from lm.checkpoint import Loaded
from lm.convert.start import Start, read_start
from lm.errors import UserError

# Tables that fine-tuning may lengthen: by new pieces, or by more positions.
GROWING = re.compile(r"backbone\.embeddings\.(tokens|positions)\.weight|head\.(weight|bias)")


def fingerprint(weights: dict[str, Tensor]) -> str:
    """A hash of a backbone's weights, in hexadecimal: an adapter is of use with these alone."""
    digest = hashlib.sha256()
    for name in sorted(n for n in weights if n.startswith("backbone.")):
        digest.update(name.encode())
        digest.update(weights[name].detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def open_adapter(path: str | Path, base: str | Path | None = None) -> Loaded:
    """The model that an adapter and its base make together. A checkpoint that is whole, as `best.ckpt`, is
    opened as it is.

    Args:
        path: `adapter.ckpt` of a run.
        base: what the adapter was trained beside, a checkpoint or a Hugging Face folder; null: where it lay
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
            raise UserError(f"{path} is a whole model, no adapter: leave --base out", status=2)
        return checkpoints.load_model(path)
    try:
        source, known = beside["source"], beside["fingerprint"]
    except (KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged: it does not say what it was trained beside") from error
    if base is None and not Path(source).exists():
        raise UserError(f"{path} was trained beside {source}, which is not there: give --base MODEL")
    start = read_start(base or source)
    if fingerprint(start.weights) != known:
        raise UserError(
            f"{path} is for another model than {start.source}: it was trained beside {source} as it was then"
        )
    try:
        return _joined(checkpoint, record, start)
    except (KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise UserError(f"{path} is damaged: it does not fit to {start.source} ({error})") from error


def _joined(checkpoint: dict[str, Any], record: dict[str, Any], start: Start) -> Loaded:
    config = checkpoints.config_of(record)
    tokenizer = checkpoints.load_tokenizer(record) if "tokenizer" in record else start.tokenizer
    with torch.device("meta"):
        model = checkpoints.make_network(config, record.get("head"))
    trained = checkpoints.network_weights(checkpoint["state_dict"])
    adapted = {name.partition(".lora_")[0] for name in trained if is_adapter(name)}
    weights = dict(trained)
    for name, wanted in model.state_dict().items():
        theirs = start.weights.get(name)
        if name in trained or theirs is None:
            continue
        if name in checkpoint["rows"]:
            theirs = torch.cat((theirs, checkpoint["rows"][name].to(theirs.dtype)))
        if GROWING.fullmatch(name):
            theirs = theirs[: len(wanted)]
        layer, _, kind = name.rpartition(".")
        weights[f"{layer}.base_layer.{kind}" if layer in adapted else name] = theirs
    model.load_weights(merge(weights, record["adapter"]))
    described = {k: v for k, v in record.items() if k not in ("tokenizer", "base")}
    return Loaded(model.eval(), tokenizer, described, checkpoint.get("global_step", 0))
