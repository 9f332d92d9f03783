"""The file that holds a model with its processor and configuration: written, read, and what is said in it.

A checkpoint is one file that `torch.load(weights_only=True)` opens: plain Python values and tensors. Beside
what Lightning keeps there (`state_dict`, optimizer states, loops), `checkpoint["lm"]` holds what it takes to
use the model anywhere: the backbone's shape, the processor's kind and bytes, the task, the run's
configuration.
"""

import errno
import pickle
import re
import zipfile
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
import yaml

import lm
from lm.backbone import BackboneConfig
from lm.errors import UserError
from lm.files import atomic
from lm.processors import Processor, open_processor
from lm.tokenizer import Tokenizer  # whoever imports this can open the checkpoints that carry one

FORMAT = 2  # 1 had `tokenizer`, its bytes, in the place of `processor`
MODEL_PREFIX = "net."  # where a task keeps its network


def make_record(
    task: str, config: BackboneConfig, processor: Processor, figures: dict[str, float] | None = None
) -> dict[str, Any]:
    """What a checkpoint says of its model, in plain values and tensors.

    Args:
        task: class path of the task that trained it.
        figures: validation figures at the time of saving.
    """
    content = torch.frombuffer(bytearray(processor.to_bytes()), dtype=torch.uint8)
    return {
        "format": FORMAT,
        "version": lm.__version__,
        "task": task,
        "backbone": asdict(config),
        "processor": {"kind": processor.kind, "bytes": content},
        "figures": dict(figures or {}),
    }


def write(checkpoint: dict[str, Any], path: str | Path) -> None:
    """Write a checkpoint under its final name only when it is whole and on the disk.

    Raises:
        UserError: it can't be written; what lay under the name before is untouched.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic(path) as file:
            torch.save(checkpoint, file)
    except (OSError, RuntimeError) as error:
        # torch wraps the system's reason in an error of its own.
        reason = error.__context__ if isinstance(error.__context__, OSError) else error
        kept = "the checkpoint before it is kept" if path.exists() else "nothing was kept"
        raise UserError(f"cannot write {path} ({reason}): make room and run again; {kept}") from error


class Damaged(UserError):
    """What lies there is not what was written."""


_whole: set[tuple[str, int, int]] = set()  # files whose checksums were looked at: path, size, time


def check_whole(path: Path) -> None:
    """Compare every tensor with the checksum that was written with it: the CRC-32 of its part of the archive.
    Once for each file, for all of it is read.

    Raises:
        Damaged: one differs.
    """
    state = path.stat()
    key = str(path.resolve()), state.st_size, state.st_mtime_ns
    if key in _whole:
        return
    why = "a tensor in it has another checksum than when it was written"
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip() is not None
    except Exception as error:  # of any kind, as a damaged archive has it
        _pass_on(error, path)
        damaged, why = True, str(error)
    if damaged:
        raise Damaged(f"{path} is damaged: {why}{_remedy(path)}")
    _whole.add(key)


def _pass_on(error: Exception, path: Path) -> None:
    """Raise what says nothing of the content: the disk is away, say. An invalid argument does: to seek where
    a file that is cut short should go on."""
    if isinstance(error, MemoryError) or (
        isinstance(error, OSError) and error.errno not in (None, errno.EINVAL)
    ):
        raise UserError(f"cannot read {path}: {getattr(error, 'strerror', None) or 'no memory'}") from error


def _remedy(path: Path) -> str:
    """What to do in the place of a damaged file."""
    unfinished = path.with_name("config.yaml").exists() and not path.with_name("summary.json").exists()
    if path.name == "last.ckpt" and unfinished:
        return ": delete it, and the same `lm fit` begins the run anew"
    return ": use another, or train again"


def _why_unreadable(path: Path, error: Exception) -> str:
    try:
        with path.open("rb") as file:
            start = file.read(2)
    except OSError as unreadable:
        return f"cannot read {path}: {unreadable.strerror}"
    archive = start == b"PK"  # what torch writes; once it was a bare pickle, which begins with 0x80
    if start[:1] == b"\x80" or (archive and isinstance(error, pickle.UnpicklingError)):
        return (
            f"{path} holds pickled Python objects, which could run anything: refused. "
            "Checkpoints of lm hold tensors and plain values only."
        )
    what = "is cut short or damaged" if archive else "is not a checkpoint"
    return f"{path} {what}{_remedy(path)}"


def read(path: str | Path, mmap: bool = True, whole: bool = True) -> dict[str, Any]:
    """The whole content of a checkpoint, tensors on the CPU, as this version would have written it.

    Args:
        mmap: leave the tensors on the disk until they are used.
        whole: compare them with their checksums, for which all of them are read once.

    Raises:
        UserError: no such file, no checkpoint, or a pickle that would run foreign code; `Damaged`, where it
            is cut short, or a tensor differs from its checksum.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"no such checkpoint: {path}")
    if (path / "config.json").exists():
        raise UserError(f"{path} is a Hugging Face folder: `lm fit` starts from it, as its `model.init_from`")
    if path.is_dir():
        raise UserError(f"{path} is a folder: name a checkpoint in it, such as {path / 'best.ckpt'}")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:  # of any kind: what a damaged file makes torch stumble over can't be foreseen
        _pass_on(error, path)
        words = _why_unreadable(path, error)
        raise (UserError if "refused" in words else Damaged)(words) from error
    if whole:
        check_whole(path)
    if not isinstance(checkpoint, dict):
        raise UserError(f"{path} is not a checkpoint of lm: it holds a {type(checkpoint).__name__}")
    record = checkpoint.get("lm")
    if isinstance(record, dict) and record.get("format") == 1:
        record["format"] = FORMAT
        if "tokenizer" in record:
            record["processor"] = {"kind": Tokenizer.kind, "bytes": record.pop("tokenizer")}
    if isinstance(record, dict) and isinstance(record.get("task"), str):
        # Once with the file that the task's class was in.
        record["task"] = re.sub(r"^lm\.tasks\.[a-z_.]+\.(?=\w+$)", "lm.tasks.", record["task"])
    return checkpoint


def read_record(checkpoint: dict[str, Any], path: str | Path) -> dict[str, Any]:
    """`checkpoint["lm"]`, checked.

    Raises:
        UserError: another program's checkpoint, or one of a newer lm.
    """
    record = checkpoint.get("lm")
    if not isinstance(record, dict) or "backbone" not in record:
        raise UserError(
            f"{path} is a checkpoint, but not one of lm: it does not say what its model looks like"
        )
    if record.get("format", 0) > FORMAT:
        raise UserError(
            f"{path} was written by a newer lm ({record['version']}): this is {lm.__version__}; "
            "upgrade to read it"
        )
    return record


def config_of(record: dict[str, Any]) -> BackboneConfig:
    """The backbone's shape; fields that this version does not know are left out."""
    known = {f.name for f in fields(BackboneConfig)}
    return BackboneConfig(**{k: v for k, v in record["backbone"].items() if k in known})


def configuration_of(record: dict[str, Any]) -> dict[str, Any]:
    """The whole configuration of the run; empty where a record does not have it, or it is damaged."""
    try:
        found = yaml.safe_load(record.get("configuration") or "")
    except yaml.YAMLError:
        return {}
    return found if isinstance(found, dict) else {}


def processor_of(record: dict[str, Any]) -> Processor:
    """The processor that a checkpoint carries; see `open_processor`."""
    content = record["processor"]
    return open_processor(content["kind"], content["bytes"].numpy().tobytes())


def network_weights(state: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The network's weights from a task's state, by the network's own names."""
    return {
        name.removeprefix(MODEL_PREFIX).replace("_orig_mod.", ""): tensor
        for name, tensor in state.items()
        if name.startswith(MODEL_PREFIX)
    }
