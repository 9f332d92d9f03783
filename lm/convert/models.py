"""What can be opened: a checkpoint of lm, a run's folder, an adapter with what it was trained beside, a
Hugging Face folder, or an ONNX file of lm."""

import hashlib
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lm import checkpoint as checkpoints
from lm.backbone.lowrank import is_adapter
from lm.checkpoint import Model
from lm.checkpoint.model import merged
from lm.convert.folder import read_folder
from lm.convert.onnx import open_onnx
from lm.errors import UserError

# Tables that fine-tuning may lengthen: by new tokens, or by more positions.
GROWING = re.compile(r"backbone\.embeddings\.(tokens|positions)\.weight|head\.(weight|bias)")


def located(path: str | Path) -> Path:
    """The file or Hugging Face folder that holds the model at a path: of a run's folder its best.ckpt, or its
    last where there is none.

    Raises:
        UserError: there is none, or more than one.
    """
    path = Path(path)
    if not path.exists():
        run = Path("checkpoints", path)
        near = f"did you mean {run}?" if run.exists() else "nothing is downloaded: give a folder on your disk"
        raise UserError(f"no such checkpoint or folder: {path}; {near}")
    if path.is_file():
        return path
    found = [path / name for name in ("best.ckpt", "last.ckpt") if (path / name).exists()][:1]
    if (path / "config.json").exists():
        if found:
            raise UserError(f"{path} holds two models: {found[0]}, and what belongs to config.json")
        return path
    if not found:
        seeds = sorted(path.glob("seed-*/best.ckpt"))
        what = "no best.ckpt or last.ckpt of a run, and no config.json of Hugging Face's"
        if seeds:
            what = f"its runs of several seeds do, such as {seeds[0].parent}"
        raise UserError(f"the folder {path} holds no model: {what}")
    return found[0]


def open_model(
    path: str | Path,
    device: torch.device | str = "cpu",
    base: str | Path | None = None,
    check: bool = True,
    integers: bool = False,
) -> Model:
    """The model at a path.

    Args:
        path: a checkpoint of lm, a run's folder, an adapter.ckpt, which is put into what it was trained
            beside, or a Hugging Face folder: config.json, model.safetensors (or its shards with their index)
            and the tokenizer's files; or, with `integers`, an ONNX file of lm, which is for use alone, too.
        base: what an adapter was trained beside; None: it is where it lay then.
        check: see whether the weights fit. The network of a task of one's own can't be made here.
        integers: leave the weights of a quantised model so: to use them, or to train an adapter beside them;
            else they become floats.

    Raises:
        UserError: it is none of these, or it is damaged, or it is a model that can't be followed exactly; of
            an adapter: there is no such base, or it is another one than the adapter was trained beside.
    """
    path = located(path)
    if path.is_dir():
        model = read_folder(path)
        model.weights = {name: value.to(device) for name, value in model.weights.items()}
        return model
    if path.suffix == ".onnx":
        if not integers:
            raise UserError(f"{path} is an ONNX file, for use alone: give the model that it was made of")
        return open_onnx(path, device)
    checkpoint = checkpoints.read(path)
    record = checkpoints.read_record(checkpoint, path)
    if record.get("base") is not None:
        model, check = _open_adapter(path, checkpoint, record, base, device), False
    elif base is not None:
        raise UserError(f"{path} is a whole model, no adapter: leave `base` out", status=2)
    else:
        model = checkpoints.model_of(checkpoint, path, device)
    if not integers:
        model = model.dequantised()
    return model.checked() if check else model


def fingerprint(weights: dict[str, Tensor]) -> str:
    """A hash of a backbone's weights, in hexadecimal: an adapter is of use with these alone."""
    digest = hashlib.sha256()
    for name in sorted(n for n in weights if n.startswith("backbone.")):
        digest.update(name.encode())
        digest.update(weights[name].detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _open_adapter(
    path: Path,
    checkpoint: dict[str, Any],
    record: dict[str, Any],
    base: str | Path | None,
    device: torch.device | str,
) -> Model:
    """The model that an adapter and its base make together."""
    try:
        source, known = record["base"]["source"], record["base"]["fingerprint"]
    except (KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged: it does not say what it was trained beside") from error
    if base is None and not Path(source).exists():
        raise UserError(
            f"{path} was trained beside {source}, which is not there: best.ckpt needs none; or put "
            f"it into the one you have by `lm export {path} DIR --base MODEL`"
        )
    start = open_model(base or source, integers=bool(record.get("quantised")))
    if fingerprint(start.weights) != known:
        raise UserError(
            f"{path} is for another model than {start.source}: it was trained beside {source} as it was then"
        )
    try:
        model = _joined(checkpoint, record, start, str(path))
        model.weights = {name: value.to(device) for name, value in model.weights.items()}
        _ = model.network  # whether the weights fit is found out here
    except (KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise UserError(f"{path} is damaged: it does not fit to {start.source} ({error})") from error
    return model


def _joined(checkpoint: dict[str, Any], record: dict[str, Any], start: Model, source: str) -> Model:
    config, head = checkpoints.config_of(record), record.get("head")
    trained = checkpoints.network_weights(checkpoint["state_dict"])
    adapted = {name.partition(".lora_")[0] for name in trained if is_adapter(name)}
    weights = dict(trained)
    network = checkpoints.outline(config, head, record.get("input"))
    start.shape(network)
    for name, wanted in network.state_dict().items():
        theirs = start.weights.get(name)
        if name in trained or theirs is None:
            continue
        if name in checkpoint["rows"]:
            theirs = torch.cat((theirs, checkpoint["rows"][name].to(theirs.dtype)))
        if GROWING.fullmatch(name):
            theirs = theirs[: len(wanted)]
        layer, _, kind = name.rpartition(".")
        weights[f"{layer}.base_layer.{kind}" if layer in adapted else name] = theirs
    weights, record = merged(weights, {**record, "quantised": start.record.get("quantised")})
    return Model(
        config,
        weights,
        checkpoints.processor_of(record) if "processor" in record else start.processor,
        source,
        {name: value for name, value in record.items() if name not in ("processor", "base")},
        step=checkpoint.get("global_step", 0),
        has_head=checkpoints.is_language(head),
    )
