"""Tensors in safetensors files: one, or shards with an index. Pickled weights are never opened."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lm.errors import UserError, not_installed, some

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
SHARD_BYTES = 5_000_000_000


def _library() -> Any:
    try:
        import safetensors.torch
    except ImportError as error:
        raise not_installed("a Hugging Face folder", "safetensors", "finetune") from error
    return safetensors


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; a UserError names the line that is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except json.JSONDecodeError as error:
        raise UserError(f"{path} line {error.lineno} is not JSON: {error.msg}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a group of fields, but a {type(content).__name__}")
    return content


def write_json(path: Path, content: dict[str, Any]) -> None:
    """A JSON object as a file that people read."""
    path.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def _files(folder: Path) -> list[Path]:
    """The safetensors files of a folder."""
    if (folder / SINGLE).exists():
        return [folder / SINGLE]
    if (folder / INDEX).exists():
        places = read_json(folder / INDEX).get("weight_map")
        if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
            raise UserError(f"{folder / INDEX} has no weight_map from tensors to files")
        names = sorted(set(places.values()))
        if outside := [name for name in names if Path(name).name != name]:
            raise UserError(f"{folder / INDEX} names a file outside its folder: {outside[0]}")
        if missing := [name for name in names if not (folder / name).exists()]:
            raise UserError(f"{folder} lacks {some(missing, 1)}, which {INDEX} names: the copy is not whole")
        return [folder / name for name in names]
    if pickled := sorted(p.name for p in folder.glob("pytorch_model*.bin")):
        raise UserError(
            f"{folder} has its weights in {pickled[0]} only, pickled Python objects that could run anything: "
            f"refused. Get the same model with {SINGLE}"
        )
    raise UserError(f"{folder} has no weights: there is no {SINGLE} and no {INDEX}")


def read_tensors(folder: Path, wanted: Callable[[str], bool] | None = None) -> dict[str, Tensor]:
    """The tensors of a folder by name, floating-point ones as fp32: all, or those whose names are wanted."""
    library, tensors = _library(), {}
    for path in _files(folder):
        try:
            with library.safe_open(path, "pt") as file:
                names = file.keys() if wanted is None else filter(wanted, file.keys())
                tensors |= {name: file.get_tensor(name) for name in names}
        except (library.SafetensorError, OSError, RuntimeError, ValueError) as error:
            raise UserError(f"{path} is cut short or damaged ({error}): get it again") from error
    return {name: t.float() if t.is_floating_point() else t for name, t in tensors.items()}


def write_tensors(tensors: dict[str, Tensor], folder: Path, limit: int = SHARD_BYTES) -> None:
    """Write tensors into a folder: one file, or shards of at most `limit` bytes with an index."""
    _library()
    from huggingface_hub import save_torch_state_dict

    save_torch_state_dict(tensors, folder, max_shard_size=limit)
    for path in folder.glob("*.safetensors"):
        path.chmod(folder.stat().st_mode & 0o666)  # the library lets the owner alone read it


def as_dtype(tensors: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Tensors in another precision, which has to hold them, each with memory of its own; integers stay."""
    converted = {}
    for name, tensor in tensors.items():
        wanted = dtype if tensor.is_floating_point() else tensor.dtype
        converted[name] = tensor.detach().to(wanted).contiguous()
        if dtype == torch.float16 and not bool(converted[name].isfinite().all()):
            raise UserError(f"`dtype` float16: {name} has values beyond its range; use bfloat16")
    return converted
