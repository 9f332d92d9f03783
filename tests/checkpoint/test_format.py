"""One file holds everything; what is foreign or damaged is refused; a failed write costs nothing."""

import contextlib
import errno
import os
import pickle
import resource
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from lm import checkpoint as checkpoints
from lm.backbone import BackboneConfig, LanguageModel
from lm.errors import UserError
from lm.inference.generate import Sampling, generate_text
from lm.processors import Processor
from lm.processors import base as processors
from lm.tokenizer import Tokenizer

TASK = "lm.tasks.CausalPretraining"
TOKENS = torch.arange(40).view(2, 20) * 7 % 420


def make(**changes) -> LanguageModel:
    torch.manual_seed(0)
    small = {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "vocab_size": 420, "max_seq_len": 32}
    return LanguageModel(BackboneConfig(**{**small, "init_std": 0.2, **changes}))


def content(model: LanguageModel, tokenizer: Tokenizer) -> dict:
    """A checkpoint as a task writes it."""
    return {
        "state_dict": {f"net.{name}": tensor for name, tensor in model.state_dict().items()},
        "global_step": 70,
        "lm": checkpoints.make_record(TASK, model.config, tokenizer, {"val/loss": 2.5}),
    }


@pytest.fixture
def file(tmp_path, tokenizer) -> Path:
    checkpoints.write(content(make(), tokenizer), tmp_path / "run" / "best.ckpt")
    return tmp_path / "run" / "best.ckpt"


@pytest.mark.parametrize("mmap", [True, False])
def test_round_trip(tmp_path, mmap):
    written = {
        "weights": torch.randn(3, 4),
        "half": torch.randn(5).bfloat16(),
        "count": torch.tensor(2**40 + 1),
        "plain": [1, 2.5, "text", None, True, {"a": (1, 2)}],
    }
    checkpoints.write(written, tmp_path / "new" / "folders" / "x.ckpt")
    read = checkpoints.read(tmp_path / "new" / "folders" / "x.ckpt", mmap=mmap)
    assert read.keys() == written.keys()
    assert read["plain"] == written["plain"]
    for name in ("weights", "half", "count"):
        assert torch.equal(read[name], written[name])
        assert read[name].dtype == written[name].dtype
    assert [p.name for p in (tmp_path / "new" / "folders").iterdir()] == ["x.ckpt"]


SHAPES = {
    "gpt": {},
    "untied": {"tie_embeddings": False, "num_kv_heads": 2, "qk_norm": True, "window": 6},
    "learned": {"positions": "learned", "norm": "layer", "bias": True, "mlp": "gelu_tanh"},
    "bert": {"causal": False, "norm_position": "after", "norm": "layer", "bias": True, "segments": 2},
}


@pytest.mark.parametrize("changes", SHAPES.values(), ids=SHAPES)
@torch.no_grad()
def test_a_moved_file_is_the_whole_model(tmp_path, tokenizer, changes):
    model = make(**changes)
    expected = model(TOKENS)
    path = tmp_path / "run" / "best.ckpt"
    checkpoints.write(content(model, tokenizer), path)
    moved = tmp_path / "elsewhere" / "model.ckpt"
    moved.parent.mkdir()
    path.rename(moved)
    shutil.rmtree(path.parent)
    loaded = checkpoints.open_checkpoint(moved)
    assert torch.equal(loaded.network(TOKENS), expected)
    assert loaded.network.config == model.config
    assert loaded.tokenizer.to_bytes() == tokenizer.to_bytes()
    assert not loaded.network.training
    assert loaded.step == 70
    assert (loaded.record["task"], loaded.record["figures"]) == (TASK, {"val/loss": 2.5})
    assert loaded.record["backbone"]["hidden_size"] == 32
    if model.config.causal:
        texts = [generate_text(m, tokenizer, "def ", 30, Sampling(), seed=1) for m in (loaded.network, model)]
        assert texts[0] == texts[1]


def test_tied_weights_stay_tied(file):
    model = checkpoints.open_checkpoint(file).network
    assert model.head.weight is model.backbone.embeddings.tokens.weight
    assert model.num_parameters() == make().num_parameters()
    untouched = file.read_bytes()
    with torch.no_grad():
        model.head.weight[5] += 1
    assert torch.equal(model.head.weight[5], model.backbone.embeddings.tokens.weight[5])
    assert file.read_bytes() == untouched, "a change of the model reached the file"


def test_a_loaded_model_outlives_its_file(file):
    """Its tensors are read from the disk when they are used: `best.ckpt` may be replaced meanwhile."""
    model = checkpoints.open_checkpoint(file).network
    with torch.no_grad():
        expected = make()(TOKENS)
        checkpoints.write({"something": torch.zeros(100_000)}, file)
        assert torch.equal(model(TOKENS), expected)
        file.unlink()
        assert torch.equal(model(TOKENS), expected)


def test_weights_of_a_compiled_model(tmp_path, tokenizer):
    model = make()
    saved = content(model, tokenizer)
    saved["state_dict"] = {
        name.replace("blocks.0.", "blocks.0._orig_mod."): tensor
        for name, tensor in saved["state_dict"].items()
    }
    saved["state_dict"]["validation_loss.nats"] = torch.zeros(())  # not the model's
    checkpoints.write(saved, tmp_path / "x.ckpt")
    assert torch.equal(checkpoints.open_checkpoint(tmp_path / "x.ckpt").network(TOKENS), model(TOKENS))


def test_weights_that_do_not_fit_the_description(tmp_path, tokenizer):
    saved = content(make(), tokenizer)
    saved["lm"]["backbone"]["hidden_size"] = 64
    checkpoints.write(saved, tmp_path / "x.ckpt")
    with pytest.raises(UserError, match="don't fit its own description"):
        checkpoints.open_checkpoint(tmp_path / "x.ckpt")


# --- what it carries, and what versions before wrote


def format_1(model: LanguageModel, tokenizer: Tokenizer) -> dict:
    """A checkpoint as versions before wrote it, spelt out by hand."""
    return {
        "state_dict": {f"net.{name}": tensor for name, tensor in model.state_dict().items()},
        "global_step": 70,
        "lm": {
            "format": 1,
            "version": "0.1.0",
            "task": TASK,
            "backbone": asdict(model.config),
            "tokenizer": torch.frombuffer(bytearray(tokenizer.to_bytes()), dtype=torch.uint8),
            "figures": {"val/loss": 2.5},
        },
    }


@torch.no_grad()
def test_format_1_is_still_read(tmp_path, tokenizer):
    model = make()
    torch.save(format_1(model, tokenizer), tmp_path / "old.ckpt")
    opened = checkpoints.open_checkpoint(tmp_path / "old.ckpt")
    assert torch.equal(opened.network(TOKENS), model(TOKENS))
    assert opened.tokenizer.to_bytes() == tokenizer.to_bytes()
    assert (opened.step, opened.record["figures"]) == (70, {"val/loss": 2.5})
    # Above `read` nobody knows the old format: what a run that goes on takes over is the new one.
    old, new = checkpoints.read(tmp_path / "old.ckpt"), content(model, tokenizer)
    assert old["lm"].keys() == new["lm"].keys() and old["lm"]["format"] == checkpoints.FORMAT
    assert old["lm"]["processor"]["kind"] == "tokenizer"
    assert torch.equal(old["lm"]["processor"]["bytes"], new["lm"]["processor"]["bytes"])


def test_an_adapter_of_format_1_has_no_tokenizer_either(tmp_path, tokenizer):
    """Where its base has it."""
    saved = format_1(make(), tokenizer)
    del saved["lm"]["tokenizer"]
    torch.save(saved, tmp_path / "adapter.ckpt")
    record = checkpoints.read_record(checkpoints.read(tmp_path / "adapter.ckpt"), "adapter.ckpt")
    assert record["format"] == checkpoints.FORMAT and "processor" not in record


class Scale(Processor):
    """A processor that is no tokenizer."""

    kind = "test-scale"

    def __init__(self, factor: int) -> None:
        self.factor = factor

    def to_bytes(self) -> bytes:
        return bytes([self.factor])


def test_any_processor_comes_along_once_it_is_registered(tmp_path, monkeypatch):
    path = tmp_path / "x.ckpt"
    checkpoints.write(content(make(), Scale(7)), path)
    with pytest.raises(UserError, match="a processor of kind 'test-scale' is not known here"):
        checkpoints.open_checkpoint(path)
    monkeypatch.setitem(processors._OPENERS, "test-scale", lambda data: Scale(data[0]))
    assert checkpoints.open_checkpoint(path).processor.factor == 7


def test_a_record_without_a_processor_is_damaged(file):
    saved = checkpoints.read(file, mmap=False)
    for processor in ({}, {"kind": ["tokenizer"], "bytes": torch.zeros(1)}, "tokenizer", None):
        saved["lm"]["processor"] = processor
        checkpoints.write(saved, file)
        with pytest.raises(UserError, match="description is not whole"):
            checkpoints.open_checkpoint(file)


# --- refused


class Touch:
    """An object whose unpickling makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def foreign_files(folder: Path, trap: Path) -> dict[str, Path]:
    evil = Touch(trap)
    files = {}
    for name, inside in (("object", evil), ("inside", {"lm": {"backbone": evil}, "state_dict": {}})):
        files[name] = folder / f"{name}.ckpt"
        torch.save(inside, files[name])
        files[f"old {name}"] = folder / f"old-{name}.ckpt"
        torch.save(inside, files[f"old {name}"], _use_new_zipfile_serialization=False)
    for protocol in (0, 2, 5):
        files[f"pickle {protocol}"] = folder / f"pickle-{protocol}.ckpt"
        files[f"pickle {protocol}"].write_bytes(pickle.dumps(evil, protocol))
    return files


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("mmap", [True, False])
@pytest.mark.parametrize(
    "kind", ["object", "inside", "old object", "old inside", "pickle 0", "pickle 2", "pickle 5"]
)
def test_foreign_pickles_run_nothing(tmp_path, kind, mmap):
    trap = tmp_path / "trap"
    path = foreign_files(tmp_path, trap)[kind]
    with pytest.raises(UserError) as caught:
        checkpoints.read(path, mmap=mmap)
    assert not trap.exists(), "foreign code ran"
    assert str(path) in str(caught.value)
    assert caught.value.status == 1
    if kind in ("object", "inside"):
        assert "could run anything: refused" in str(caught.value)
        torch.load(path, weights_only=False)  # the trap is a real one
        assert trap.exists()


def test_not_a_checkpoint(tmp_path):
    cases = {
        "missing": "no such checkpoint",
        "folder": "is a folder: name a checkpoint in it",
        "empty": "is not a checkpoint",
        "text": "is not a checkpoint",
        "binary": "is not a checkpoint",
    }
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "text").write_text("model: gpt\nsteps: 100\n")
    (tmp_path / "binary").write_bytes(bytes(range(256)) * 10)
    for name, message in cases.items():
        for mmap in (True, False):
            with pytest.raises(UserError, match=message) as caught:
                checkpoints.read(tmp_path / name, mmap=mmap)
            assert str(tmp_path / name) in str(caught.value)
            assert "\n" not in str(caught.value)


@pytest.mark.parametrize("mmap", [True, False])
def test_a_cut_file(file, mmap):
    whole = file.read_bytes()
    for part in (5, 100, len(whole) // 4, len(whole) // 2, len(whole) * 9 // 10, len(whole) - 1):
        file.write_bytes(whole[:part])
        with pytest.raises(UserError, match="cut short or damaged"):
            checkpoints.read(file, mmap=mmap)


def test_a_torch_file_of_something_else(tmp_path):
    torch.save({"model.embed.weight": torch.zeros(3)}, tmp_path / "weights.pt")
    with pytest.raises(UserError, match=r"weights\.pt is a checkpoint, but not one of lm"):
        checkpoints.open_checkpoint(tmp_path / "weights.pt")
    torch.save({"lm": "something", "state_dict": {}}, tmp_path / "weights.pt")
    with pytest.raises(UserError, match="not one of lm"):
        checkpoints.open_checkpoint(tmp_path / "weights.pt")
    torch.save([torch.zeros(3)], tmp_path / "list.pt")
    with pytest.raises(UserError, match="holds a list"):
        checkpoints.open_checkpoint(tmp_path / "list.pt")


def test_a_newer_format(tmp_path, tokenizer):
    saved = content(make(), tokenizer)
    saved["lm"].update(format=checkpoints.FORMAT + 1, version="9.8.7")
    checkpoints.write(saved, tmp_path / "x.ckpt")
    with pytest.raises(UserError, match=r"newer lm \(9\.8\.7\).*upgrade"):
        checkpoints.open_checkpoint(tmp_path / "x.ckpt")


# --- writing


def full_disk(checkpoint: dict, file) -> None:
    file.write(b"PK half of it")
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_failed_write_keeps_what_was_there(file, monkeypatch):
    before = file.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full_disk)
        with pytest.raises(
            UserError, match=r"No space left on device.*make room.*before it is kept"
        ) as caught:
            checkpoints.write({"new": torch.zeros(3)}, file)
        with pytest.raises(UserError, match="nothing was kept"):
            checkpoints.write({"new": torch.zeros(3)}, file.with_name("other.ckpt"))
    assert str(file) in str(caught.value)
    assert file.read_bytes() == before
    assert list(file.parent.iterdir()) == [file]


def test_the_systems_limit_while_torch_writes(file):
    """A real failure in the middle of torch's own writer."""
    before = file.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(UserError, match=r"File too large.*before it is kept"):
            checkpoints.write({"new": torch.zeros(500_000)}, file)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert file.read_bytes() == before
    assert list(file.parent.iterdir()) == [file]


def test_a_folder_that_is_a_file(tmp_path):
    (tmp_path / "run").write_text("in the way")
    with pytest.raises(UserError, match="cannot write"):
        checkpoints.write({"new": torch.zeros(3)}, tmp_path / "run" / "best.ckpt")


def test_damaged_anywhere_it_is_said(tmp_path, trained):
    """Bytes flipped all over the file: it is read or refused, never a traceback."""
    whole = (trained / "checkpoints/gpt/best.ckpt").read_bytes()
    random = np.random.default_rng(0)
    for _ in range(60):
        damaged = bytearray(whole)
        at = int(random.integers(len(whole)))
        damaged[at : at + 20] = random.bytes(20)
        path = tmp_path / "damaged.ckpt"
        path.write_bytes(damaged)
        with contextlib.suppress(UserError):
            checkpoints.open_checkpoint(path)
