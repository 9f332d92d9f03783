"""`lm validate MODEL`, `lm test MODEL`, `lm predict MODEL`: a model in the place of a configuration.

A checkpoint in its run's folder is measured as that run was; a checkpoint alone brings its configuration; an
adapter is put into its base, and a Hugging Face folder read, as for every other command, and what came of it
is a checkpoint for as long as the command works.
"""

import json
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import yaml

from lm import checkpoint as checkpoints
from lm.checkpoint import Model
from lm.convert import located, open_model
from lm.errors import UserError
from lm.tasks.table import TASKS, entry_of

# Options of the data and the task that name files or folders.
PATHS = {
    "data": ("corpus", "tokenizer", "train", "val", "test", "root", "data_dir"),
    "model": ("init_from",),
}
# What a task without a configuration learns from.
_DATA = {
    "SequenceClassification": "TextData",
    "TokenClassification": "TagData",
    "QuestionAnswering": "QuestionData",
    "InstructionTuning": "ChatData",
    "PreferenceTuning": "PreferenceData",
}


def elsewhere(configuration: Path) -> list[str]:
    """The words that say where the files lie that a run's own configuration names, where the run was begun in
    another folder: relative paths are from there."""
    folder = configuration.absolute().parent
    above = next((parent for parent in folder.parents if parent.name == "checkpoints"), None)
    kept = any((folder / name).exists() for name in ("last.ckpt", "best.ckpt"))
    if configuration.name != "config.yaml" or not kept or above is None or above.parent == Path.cwd():
        return []
    home, words = above.parent, []
    tree = yaml.safe_load(configuration.read_text(encoding="utf-8")) or {}
    for part, names in PATHS.items():
        options = (tree.get(part) or {}).get("init_args") or {}
        named = {name: options.get(name) for name in names}
        for name, share in (options.get("mixture") or {}).items():
            named[f"mixture.{name}.corpus"] = share["corpus"]
        for name, meant in named.items():
            value = _from(home, meant)
            if value != meant:
                words.append(f"--{part}.{name}={value if isinstance(value, str) else json.dumps(value)}")
    return words


def _from(home: Path, value: Any) -> Any:
    """A path as it was meant in a folder, where something lies there."""
    if isinstance(value, list):
        return [_from(home, each) for each in value]
    if not isinstance(value, str):
        return value
    there = home / value  # of an absolute path that path
    found = there.exists() or (any(c in value for c in "*?[") and any(home.glob(value)))
    return str(there) if found else value


class Given:
    """What a command takes from a model in the place of a configuration.

    Args:
        path: of the model, as it was typed.
        typed: the names of the options that were typed, with their dashes.
        held: what has to be given back when the command ends.

    Attributes:
        words: that say the rest.
        folder: of the run, where it is one's.
        model: of which the task is made, where no configuration says how.
    """

    def __init__(self, path: str, typed: set[str], held: ExitStack) -> None:
        self.path = path
        self.folder: Path | None = None
        self.model: Model | None = None
        # Plain options of the task that were typed: it is made anew, with the model's shape.
        self.typed = {option.removeprefix("--model.") for option in typed if option.count(".") == 1}
        place = located(path)
        beside = place.with_name("config.yaml")
        if place.name == "adapter.ckpt" and place.with_name("best.ckpt").exists():
            place = place.with_name("best.ckpt")  # the two together
        if place.name in ("best.ckpt", "last.ckpt") and beside.exists():
            self.folder = place.parent
            self.words = ["--config", str(beside), "--ckpt_path", str(place)]
            return
        model = open_model(place, check=False)
        self._kept = Path(held.enter_context(tempfile.TemporaryDirectory()))
        configuration = model.record.get("configuration")
        if configuration:
            written = self._kept / "config.yaml"
            written.write_text(str(configuration), encoding="utf-8")
            self.words = ["--config", str(written), "--ckpt_path", str(place), "--name", place.stem]
            return
        self.model = model
        entry = entry_of(model.record)
        language = "CausalPretraining" if model.config.causal else "MaskedPretraining"
        task = model.record["task"].rpartition(".")[2] if entry else language
        if task not in TASKS or (model.record.get("task") and entry is None):
            raise UserError(f"{path} says nothing of its data: give its configuration too")
        causal = f"--model.backbone.causal={json.dumps(model.config.causal)}"
        self.words = [
            "--model",
            f"lm.tasks.{task}",
            causal,
            *self._data(path, task, typed, model),
        ]
        self.words += ["--ckpt_path", self._saved(model, f"lm.tasks.{task}")]
        if "--name" not in typed:
            self.words += ["--name", place.resolve().name if place.is_dir() else place.stem]

    def _data(self, path: str, task: str, typed: set[str], model: Model) -> list[str]:
        """The words that say which data it is measured on; what was typed goes over them.

        Raises:
            UserError: they were not given.
        """
        if task in _DATA:
            if not typed & {"--data.val", "--data.test", "--data.train", "--config", "-c"}:
                said = f"{path} has no data of its own: give --data.test FILE (to validate --data.val)"
                raise UserError(said, status=2)
            return ["--data", f"lm.data.{_DATA[task]}", "--data.train", "train"]
        mixed = any(word.startswith("--data.mixture") for word in typed)
        if not mixed and not typed & {"--data.corpus", "--config", "-c"}:
            raise UserError(f"{path} has no text of its own: give --data.corpus PATH", status=2)
        words = ["--data", "lm.data.PretrainingData", "--data.batch_size", "8"]
        tokenizer = self._kept / "tokenizer.model"
        tokenizer.write_bytes(model.processor.to_bytes())
        length = min(model.config.max_seq_len, 1024)
        return [*words, "--data.tokenizer", str(tokenizer), "--data.seq_len", str(length)]

    def _saved(self, model: Model, task: str) -> str:
        """The model as a checkpoint of a task, given by its class path."""
        record = {"head": {"kind": "language"}, **model.record}
        made = checkpoints.make_record(task, model.config, model.processor)
        state = {f"{checkpoints.MODEL_PREFIX}{n}": t for n, t in model.network.state_dict().items()}
        path = self._kept / "best.ckpt"
        checkpoints.write(
            {
                "state_dict": state,
                "lm": {**record, **made, "adapter": None},
                "pytorch-lightning_version": pl.__version__,
                "epoch": 0,
                "global_step": model.step,
            },
            path,
        )
        return str(path)
