"""Writing a model as a Hugging Face folder, which transformers and what is built on it can read."""

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lm.backbone import Classifier
from lm.checkpoint import Model
from lm.convert import classifiers
from lm.convert.card import model_card
from lm.convert.families import choose
from lm.convert.family import Family
from lm.convert.media_export import write_media
from lm.convert.parts import pack
from lm.convert.tokenizer_files import write_tokenizer
from lm.convert.weights import SHARD_BYTES, as_dtype, read_json, write_json, write_tensors
from lm.errors import UserError
from lm.tokenizer import Tokenizer
from lm.tokenizer.chat import chat_format


@dataclass
class Exported:
    """What was written."""

    family: str  # `model_type`
    architecture: str  # the class that transformers makes of it
    parameters: int
    nbytes: int  # size of its tensors
    notes: list[str]  # what a person should know, a sentence each


def export_folder(
    model: Model,
    folder: str | Path,
    dtype: torch.dtype = torch.float32,
    force: bool = False,
    shard_bytes: int = SHARD_BYTES,
) -> Exported:
    """Write a model as a Hugging Face folder; under its final name only when it is whole.

    Args:
        folder: made where there is none; one that is there stays, so that it can be the one you work in, and
            only what is in it is replaced.
        dtype: of the weights.
        force: replace a folder that holds a Hugging Face model already.
        shard_bytes: the most that a file of weights holds.

    Raises:
        UserError: the folder is taken; no family has a place for all that the model does; or a library is
            missing.
    """
    named, folder = folder, Path(folder).resolve()
    taken = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
    if taken and not _holds_model(folder):
        raise UserError(f"{named} is not empty and holds no model: name another folder")
    if taken and not force:
        raise UserError(f"{named} is not empty: name another folder, or `force` to replace the model in it")
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        exported = _write(model, partial, folder.name, dtype, shard_bytes)
        if folder.exists():
            exported.notes += _replace(folder, partial)
        else:
            partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return exported


def _holds_model(folder: Path) -> bool:
    """Whether a folder is one that transformers would open: many other programs have a config.json too."""
    try:
        return "model_type" in read_json(folder / "config.json")
    except UserError:
        return False


def _replace(folder: Path, new: Path) -> list[str]:
    """Put what is in `new` into `folder` in the place of what is there, which goes only once that is done; a
    note where it lies if it could not be deleted."""
    old = Path(tempfile.mkdtemp(prefix=f".{folder.name}.old-", dir=folder.parent))
    moved: list[tuple[Path, Path]] = []
    try:
        for source, target in ((folder, old), (new, folder)):
            for path in sorted(source.iterdir()):
                moved.append((path, path.rename(target / path.name)))
    except BaseException:
        for before, after in reversed(moved):
            after.rename(before)
        old.rmdir()
        raise
    shutil.rmtree(old, ignore_errors=True)
    return [f"the files of before could not be deleted: they are in {old}"] if old.exists() else []


def _write(model: Model, folder: Path, name: str, dtype: torch.dtype, shard_bytes: int) -> Exported:
    if model.record.get("input"):
        made, architecture, nbytes, notes = write_media(model, folder, name, dtype, shard_bytes)
        return Exported(made, architecture, model.network.num_parameters(), nbytes, notes)
    network, config, tokenizer = model.network, model.config, model.tokenizer
    classifies = isinstance(network, Classifier)
    family = choose(config, head=not classifies, padding=tokenizer.pad_id is not None)
    if classifies:
        architecture, head = family.classifier(model.record["head"])
    else:
        architecture, head = family.languages[0], list(family.head(config))
    described = describe(model, family, architecture, dtype)
    weights = network.state_dict()
    tensors = {family.prefix + part.theirs: pack(part, weights) for part in family.body(config, described)}
    tensors |= {part.theirs: pack(part, weights) for part in head}
    tensors = as_dtype(tensors, dtype)
    writes = config.causal and not classifies
    notes = _notes(family, described, tokenizer, writes)

    write_tensors(tensors, folder, shard_bytes)
    write_json(folder / "config.json", described)
    write_tokenizer(tokenizer, folder, config, writes, model.chats)
    if writes:
        write_json(folder / "generation_config.json", _generation(tokenizer))
    card = model_card(name, family, architecture, model, notes)
    (folder / "README.md").write_text(card, encoding="utf-8")
    nbytes = sum(tensor.nbytes for tensor in tensors.values())
    return Exported(family.name, architecture, network.num_parameters(), nbytes, notes)


def describe(model: Model, family: Family, architecture: str, dtype: torch.dtype) -> dict[str, Any]:
    """config.json's content."""
    network, config, tokenizer = model.network, model.config, model.tokenizer
    pad = tokenizer.pad_id
    if isinstance(network, Classifier) and config.causal and tokenizer.frame([-1])[0][-1] == pad:
        pad = None  # transformers would skip the token that ends a text, whose position is read
    described = {
        "architectures": [architecture],
        "model_type": family.name,
        **family.write(config, pad),
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": tokenizer.eos_id,
        "pad_token_id": pad,
        "torch_dtype": str(dtype).removeprefix("torch."),
    }
    if not config.causal:
        described |= {"cls_token_id": tokenizer.bos_id, "sep_token_id": tokenizer.eos_id}
    if config.residual_init != "scaled":
        described["residual_init"] = config.residual_init  # of use to lm alone
    return described | (classifiers.described(model, network) if isinstance(network, Classifier) else {})


def _generation(tokenizer: Tokenizer) -> dict[str, Any]:
    """generation_config.json: what `lm generate` does where nothing else is said."""
    chat = chat_format(tokenizer)
    ends = [id for id in (tokenizer.eos_id, chat and chat.end_id) if id is not None]
    return {
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": ends[0] if len(ends) == 1 else ends or None,
        "pad_token_id": tokenizer.padding_id,
        "do_sample": True,
        "temperature": 0.8,
        "top_k": 50,
    }


def _notes(family: Family, described: dict[str, Any], tokenizer: Tokenizer, writes: bool) -> list[str]:
    notes = []
    act = described.get("hidden_act")
    if writes and family.name != "gpt2" and act != "silu":
        notes.append(
            f"the activation is {act}, which transformers takes; vLLM and llama.cpp know a {family.name} "
            "with SiLU only"
        )
    classifies = described["architectures"][0].endswith("ForSequenceClassification")
    if classifies and described["pad_token_id"] is None:
        why = "has no padding token" if tokenizer.pad_id is None else "pads with the token that ends a text"
        notes.append(f"the tokenizer {why}: texts go through transformers one at a time")
    return notes
