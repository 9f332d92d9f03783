"""Fine-tuning through the command: a run goes on exactly, ends early, is tested and predicts; bad input gets
one clear line."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from lm import checkpoint as checkpoints
from lm.backbone import BackboneConfig, LanguageModel

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
TASKS = {
    "texts": ("TextData", "SequenceClassification", "bert"),
    "tags": ("TagData", "TokenClassification", "bert"),
    "questions": ("QuestionData", "QuestionAnswering", "bert"),
    "chats": ("ChatData", "InstructionTuning", "gpt"),
    "preferences": ("PreferenceData", "PreferenceTuning", "gpt"),
}
STOP = """
import os, signal
from lightning.pytorch import Callback

class Stop(Callback):
    def on_train_batch_end(self, trainer, *rest):
        if trainer.global_step == 5:
            os.kill(os.getpid(), signal.SIGTERM)
"""
INTERRUPT = """
import os, signal
from lightning.pytorch import Callback

class Interrupt(Callback):
    def __init__(self, hook: str, step: int = 4):
        self.step, self.done = step, False
        setattr(self, hook, self.interrupt)

    def interrupt(self, trainer, *rest):
        if not self.done and (trainer.state.fn != "fit" or trainer.global_step == self.step):
            self.done = True
            os.kill(os.getpid(), signal.SIGINT)
"""
WORDS = ("parser", "argument", "value", "option", "name", "type", "default", "help", "action", "group")


def write_start(path: Path, kind: str, tokenizer, seed: int = 0) -> Path:
    """A checkpoint of a language model that has not learned anything yet."""
    shape = {"hidden_size": 32, "num_layers": 2, "num_heads": 2, "max_seq_len": 32, "init_std": 0.2}
    if kind == "bert":
        shape |= {"causal": False, "positions": "learned", "segments": 2, "norm": "layer", "bias": True}
        shape |= {"norm_position": "after", "embedding_norm": True, "mlp": "gelu"}
    config = BackboneConfig(**shape, vocab_size=tokenizer.vocab_size)
    torch.manual_seed(seed)
    net = LanguageModel(config)
    made = checkpoints.make_record(f"lm.tasks.{kind}", config, tokenizer)
    state = {f"net.{name}": tensor for name, tensor in net.state_dict().items()}
    checkpoints.write({"lm": made, "state_dict": state}, path)
    return path


def write(path: Path, rows: list) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def rows_of(kind: str, n: int, offset: int = 0) -> list[dict]:
    """Examples that can be learned."""
    made = []
    for i in range(offset, offset + n):
        words = [WORDS[(i * k + k) % 10] for k in range(2, 4 + i % 5)]
        text = " ".join(words)
        made.append(
            {
                "texts": {"text": f"{text} {i}", "label": ("yes", "no", "maybe")[i % 3]},
                "tags": {"words": words, "tags": ["B-X" if w[0] < "h" else "O" for w in words]},
                "questions": {
                    "id": str(i),
                    "question": f"which {words[0]}?",
                    "context": f"it is {text} {i} and no other",
                    "answers": [{"text": str(i), "answer_start": 6 + len(text) + 1}],
                    "title": str(i),
                },
                "chats": {
                    "messages": [
                        {"role": "user", "content": f"{text} {i}?"},
                        {"role": "assistant", "content": words[-1]},
                    ]
                },
                "preferences": {"prompt": f"{text} {i}", "chosen": words[0], "rejected": " ".join(words[1:])},
            }[kind]
        )
    return made


@pytest.fixture
def fit(lm, tmp_path, tokenizer):
    """Runs `lm fit` (or another command) for a task on files of its own: `fit("texts", "--trainer.…")`."""

    def run(kind: str, *more: object, command: str = "fit", name: str = "a", start: object = None):
        data, task, backbone = TASKS[kind]
        files = {part: tmp_path / f"{kind}-{part}.jsonl" for part in ("train", "val", "test")}
        for number, path in enumerate(files.values()):
            if not path.exists():
                write(path, rows_of(kind, (26, 6, 7)[number], 100 * number))
        if start is None:
            start = tmp_path / f"{backbone}.ckpt"
            if not start.exists():
                write_start(start, backbone, tokenizer)
        config = {
            "seed_everything": 3,
            "data": {
                "class_path": f"lm.data.{data}",
                "init_args": {
                    **{part: str(path) for part, path in files.items()},
                    **{"seq_len": 48, "batch_size": 4},
                },
            },
            "model": {
                "class_path": f"lm.tasks.{task}",
                "init_args": {
                    "dropout": 0.1,
                    "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.003}},
                },
            },
            "trainer": {"max_steps": 4, "accelerator": "cpu", "logger": False, "val_check_interval": 2},
            "checkpoint": {"every_n_steps": 2},
        }
        (tmp_path / f"{kind}.yaml").write_text(yaml.safe_dump(config))
        begin = () if start == "nothing" else (f"--model.init_from={start}",)
        return lm(command, "--config", f"{kind}.yaml", *begin, f"--name={name}", *more)

    return run


def summary(name: str = "a") -> dict:
    return json.loads(Path(f"checkpoints/{name}/summary.json").read_text())


def weights(name: str, file: str = "last.ckpt") -> dict[str, torch.Tensor]:
    return torch.load(f"checkpoints/{name}/{file}", weights_only=True)["state_dict"]


def said(result) -> str:
    """What the command said on its last line: one, without a traceback."""
    assert "Traceback" not in result.err
    lines = [line for line in result.err.splitlines() if line.startswith(("lm ", "lm:"))]
    assert len(lines) == 1, result.err
    assert len(result.err[result.err.index(lines[0]) :].strip().splitlines()) <= 2
    return lines[0]


@pytest.mark.parametrize("kind", TASKS)
def test_a_run_is_finished_tested_and_predicts(fit, kind):
    result = fit(kind)
    assert result.status == 0, result.err
    made = summary()
    assert made["finished"] and made["steps"] == 4
    assert "on the test part" in result.out and "test_loss" in made
    if kind in ("texts", "preferences"):
        assert "is finished" in fit(kind).out
        tested = fit(kind, command="test")
        assert tested.status == 0, tested.err
        assert f"loss {made['test_loss']:.4f}" in tested.out
    predicted = fit(kind, command="predict")
    assert predicted.status == 0, predicted.err
    lines = Path("checkpoints/a/predictions.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    assert len(rows) == 7
    expected = rows_of(kind, 7, 200)
    for number, (row, example) in enumerate(zip(rows, expected, strict=True)):
        match kind:
            case "texts":
                assert row["text"] == example["text"] and row["prediction"] in ("yes", "no", "maybe")
            case "tags":
                assert row["words"] == example["words"] and len(row["tags"]) == len(row["words"])
            case "questions":
                assert row["id"] == example["id"] and row["answer"] in example["context"]
            case "chats":
                assert row["prompt"] == example["messages"][0]["content"] and "answer" in row
            case _:
                assert row["index"] == number and {"chosen_reward", "rejected_reward"} <= row.keys()


RESUMED = {
    "texts": ("--model.class_weights=balanced", "--trainer.accumulate_grad_batches=2", "--data.batch_size=2"),
    "chats": ("--data.packing=true", "--data.num_workers=1"),
    "preferences": ("--model.adapter.kind=dora", "--model.adapter.dropout=0.1"),
}


@pytest.mark.parametrize("kind", RESUMED)
def test_stopped_in_the_middle_it_goes_on_to_the_last_bit(fit, tmp_path, kind, request):
    """Dropout on, over more than one epoch; a chat model whose vocabulary grew; an adapter."""
    start = None
    if kind == "chats":
        start = request.getfixturevalue("own_data") / "stories260K-hf"
    if kind == "preferences":
        pytest.importorskip("peft")
    (tmp_path / "stop.py").write_text(STOP)
    words = ("--trainer.max_steps=9", "--trainer.val_check_interval=4", *RESUMED[kind])
    whole = fit(kind, *words, name="whole", start=start)
    assert whole.status == 0, whole.err
    first = fit(kind, *words, "--trainer.callbacks+=stop.Stop", name="cut", start=start)
    assert first.status == 143, first.err
    assert not Path("checkpoints/cut/summary.json").exists()
    again = fit(kind, *words, name="cut", start=start)
    assert again.status == 0, again.err
    assert "goes on from step 5" in again.err
    left, right = weights("whole"), weights("cut")
    assert left.keys() == right.keys()
    assert all(torch.equal(left[key], right[key]) for key in left)
    figures = summary("whole"), summary("cut")
    for key in figures[0]:
        if key.startswith(("val_", "best_", "test_", "tokens_seen")):
            assert figures[0][key] == figures[1][key], key


@pytest.mark.parametrize(
    ("hook", "step", "words"),
    [
        ("on_validation_batch_end", 4, "stopped at step 4 of 4"),  # the last validation
        ("on_validation_batch_end", 2, "stopped at step 2 of 4"),  # its step is saved
        ("on_test_batch_end", 4, "trained, and stopped while it was measured"),
    ],
)
def test_ctrl_c_outside_a_step(fit, tmp_path, hook, step, words):
    (tmp_path / "interrupt.py").write_text(INTERRUPT)
    assert fit("texts", name="whole").status == 0
    interrupt = (
        "--trainer.callbacks+=interrupt.Interrupt",
        f"--trainer.callbacks.hook={hook}",
        f"--trainer.callbacks.step={step}",
    )
    result = fit("texts", *interrupt, name="cut")
    assert (result.status, "Traceback" in result.err) == (130, False)
    assert words in result.err
    assert not Path("checkpoints/cut/summary.json").exists()
    again = fit("texts", name="cut")
    assert again.status == 0, again.err
    left, right = weights("whole"), weights("cut")
    assert all(torch.equal(left[key], right[key]) for key in left)
    for key, value in summary("whole").items():
        if key.startswith(("val_", "best_", "test_", "tokens_seen")):
            assert value == summary("cut")[key], key


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_ctrl_c_while_a_checkpoint_is_tried(fit, tmp_path, command):
    (tmp_path / "interrupt.py").write_text(INTERRUPT)
    assert fit("texts").status == 0
    hook = {"validate": "validation"}.get(command, command)
    words = ("--trainer.callbacks+=interrupt.Interrupt", f"--trainer.callbacks.hook=on_{hook}_batch_end")
    result = fit("texts", *words, command=command)
    assert (result.status, result.out) == (130, "")
    assert "stopped, and nothing is written." in result.err


def test_a_signal_in_a_validation_whose_step_is_not_saved(fit, tmp_path):
    """It ends after the validation and a step, and says so at once."""
    (tmp_path / "interrupt.py").write_text(INTERRUPT)
    words = ("--checkpoint.every_n_steps=100", "--trainer.callbacks+=interrupt.Interrupt")
    words += ("--trainer.callbacks.hook=on_validation_batch_start", "--trainer.callbacks.step=2")
    result = fit("texts", *words)
    assert result.status == 130
    assert "stopping after this validation and a step" in result.err
    assert "stopped at step 3 of 4" in result.err


def test_what_is_said_of_few_steps_and_few_batches(fit):
    words = ("--model.schedule=lm.optim.Linear", "--model.schedule.warmup=20")
    result = fit("texts", *words, "--trainer.limit_test_batches=1")
    assert result.status == 0, result.err
    assert "warning: the learning rate rises for 20 steps, and 4 are all there are" in result.err
    assert "batches tested: 1," in result.err


def test_a_run_goes_on_with_its_steps_cut_otherwise(fit, tmp_path):
    """Other micro-batches, the same examples a step: the weights agree up to rounding."""
    kind = "texts"
    (tmp_path / "stop.py").write_text(STOP)
    words = ("--trainer.max_steps=9", "--trainer.val_check_interval=100", "--model.dropout=0")
    whole = fit(kind, *words, name="whole")
    assert whole.status == 0, whole.err
    assert fit(kind, *words, "--trainer.callbacks+=stop.Stop", name="cut").status == 143
    again = fit(kind, *words, "--data.batch_size=1", "--trainer.accumulate_grad_batches=4", name="cut")
    assert again.status == 0, again.err
    left, right = weights("whole"), weights("cut")
    for key in left:
        torch.testing.assert_close(left[key], right[key], rtol=1e-3, atol=1e-4)
    assert summary("whole")["tokens_seen"] == summary("cut")["tokens_seen"]


@pytest.mark.parametrize(
    ("words", "steps", "validated"),
    [
        (("--trainer.max_epochs=2", "--trainer.limit_train_batches=3"), 6, [3, 6]),
        (("--trainer.max_epochs=1", "--trainer.limit_train_batches=0.5"), 3, [3]),
        (("--trainer.max_epochs=2", "--trainer.overfit_batches=1"), 2, [1, 2]),
        (("--trainer.max_epochs=1", "--trainer.check_val_every_n_epoch=1"), 6, [6]),
        (
            (
                "--trainer.max_epochs=1",
                "--trainer.check_val_every_n_epoch=1",
                "--trainer.val_check_interval=0.5",
            ),
            6,
            [3, 6],
        ),
    ],
)
def test_epochs_are_counted_as_the_trainer_does(fit, words, steps, validated):
    plain = ("--trainer.max_steps=-1", "--trainer.val_check_interval=null")
    result = fit("texts", *plain, *words)
    assert result.status == 0, result.err
    assert summary()["steps"] == steps
    lines = [line for line in result.err.splitlines() if "validation:" in line]
    assert [int(line.split()[1].split("/")[0]) for line in lines] == validated, result.err


def test_how_long_has_to_be_said(fit):
    assert "how long?" in said(fit("texts", "--trainer.max_steps=-1"))


@pytest.mark.parametrize("kind", ["texts", "chats"])
def test_a_run_is_tested_where_the_model_it_started_from_is_gone(fit, tmp_path, tokenizer, kind):
    start = write_start(tmp_path / "gone.ckpt", TASKS[kind][2], tokenizer)
    assert fit(kind, start=start).status == 0
    start.unlink()
    for command in ("test", "validate", "predict"):
        result = fit(kind, command=command, start=start)
        assert result.status == 0, result.err
    assert f"loss {summary()['test_loss']:.4f}" in fit(kind, command="test", start=start).out


def test_preferences_are_tested_against_the_model_they_started_from(fit, tmp_path):
    assert fit("preferences").status == 0
    (tmp_path / "gpt.ckpt").unlink()
    assert "no such checkpoint" in said(fit("preferences", command="test", start=tmp_path / "gpt.ckpt"))


def test_patience_ends_a_run_and_it_counts_as_finished(fit):
    words = ("--checkpoint.patience=2", "--trainer.max_steps=200", "--model.optimizer.lr=0")
    result = fit("texts", *words)
    assert result.status == 0, result.err
    assert "ended at step 6 of 200: 2 validations without a better accuracy than at step 2" in result.err
    made = summary()
    assert (made["steps"], made["best_step"], made["finished"]) == (6, 2, True)
    assert torch.load("checkpoints/a/last.ckpt", weights_only=True)["global_step"] == 6
    again = fit("texts", *words)
    assert (again.status, "is finished" in again.out) == (0, True)
    assert said(fit("texts", "--checkpoint.patience=0", name="b")).startswith(
        "lm fit: --checkpoint.patience 0"
    )


def test_an_adapter_s_run(fit, lm, tmp_path, tokenizer):
    pytest.importorskip("peft")
    words = ("--model.adapter.rank=2", "--model.adapter.kind=dora")
    assert fit("chats", *words).status == 0
    adapter, best = Path("checkpoints/a/adapter.ckpt"), Path("checkpoints/a/best.ckpt")
    assert adapter.stat().st_size < best.stat().st_size / 2
    from safetensors.torch import load_file

    made = []
    for source, folder, more in (
        (best, "whole", ()),
        (Path("checkpoints/a"), "run", ()),
        (adapter, "joined", ()),
        (adapter, "named", ("--base", tmp_path / "gpt.ckpt")),
    ):
        result = lm("export", source, folder, "--to=hf", *more)
        assert result.status == 0, result.err
        made.append(load_file(f"{folder}/model.safetensors"))
    for other in made[1:]:
        assert made[0].keys() == other.keys()
        assert all((made[0][key] - other[key]).abs().max() <= 1e-6 for key in other)
    other = write_start(tmp_path / "other.ckpt", "gpt", tokenizer, seed=1)
    refused = lm("export", adapter, "no", "--to=hf", "--base", other)
    assert refused.status == 1
    assert "adapter.ckpt is for another model than" in said(refused) and not Path("no").exists()
    again = fit("chats", start=adapter, name="b")
    assert again.status == 0 and f"starting from {adapter}" in again.err, again.err
    answers = [lm("chat", path, "hi", "--temperature=0").out for path in (adapter, "checkpoints/a", best)]
    assert answers[0] == answers[1] == answers[2]
    (tmp_path / "gpt.ckpt").rename(tmp_path / "gone.ckpt")
    refused = lm("export", adapter, "no", "--to=hf")
    assert refused.status == 1 and "DIR --base MODEL`" in said(refused)


def changed(kind: str, n: int, **columns: object) -> list[dict]:
    """Examples with other values in some columns; a column of null is left out."""
    made = [{**row, **columns} for row in rows_of(kind, n, 300)]
    return [{name: value for name, value in row.items() if value is not None} for row in made]


BAD = {
    # Task, which part, its rows, the exit status, what is said.
    "no labels": ("texts", "train", changed("texts", 9, label=None), 1, "no column 'label'", "text"),
    "one label": ("texts", "train", changed("texts", 9, label="yes"), 1, "one label only ('yes')"),
    "unknown labels": (
        "texts",
        "test",
        changed("texts", 4, label="new"),
        1,
        "has 4 examples of labels",
        "'new'",
    ),
    "no column": (
        "texts",
        "train",
        changed("texts", 9, text=None, words="x"),
        1,
        "no column 'text'",
        "label, words",
    ),
    "unknown tags": ("tags", "val", changed("tags", 2, words=["a"], tags=["B-NEW"]), 1, "2 words", "'B-NEW'"),
    "no question": (
        "questions",
        "train",
        changed("questions", 9, question=None),
        1,
        "no column 'question'",
        ":1",
    ),
    "foreign answers": (
        "questions",
        "train",
        changed("questions", 9, answers=["nowhere"]),
        1,
        "answer not in its context (9)",
    ),
    "roles": (
        "chats",
        "train",
        changed(
            "chats", 5, messages=[{"role": "assistant", "content": "x"}, {"role": "user", "content": "y"}]
        ),
        1,
        "roles out of order (5)",
    ),
    "no rejected": (
        "preferences",
        "train",
        changed("preferences", 5, rejected=None),
        1,
        "no column 'rejected'",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_data_that_can_not_be_learned_from(fit, tmp_path, name):
    kind, part, rows, status, *words = BAD[name]
    path = write(tmp_path / f"{kind}-{part}.jsonl", rows)
    result = fit(kind)
    assert result.status == status, result.err
    line = said(result)
    assert path.name in line
    for word in words:
        assert word in line
    assert not Path("checkpoints/a/last.ckpt").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, ("no such file or folder",)),
        (b"", ("is empty",)),
        (bytes(range(256)) * 40, ("binary file",)),
        (b'{"text": "cut', ("cut short",)),
    ],
    ids=["missing", "empty", "binary", "cut"],
)
def test_files_that_are_no_data(fit, tmp_path, content, words):
    path = tmp_path / "bad.jsonl"
    if content is not None:
        path.write_bytes(content)
    result = fit("texts", f"--data.train={path}")
    assert result.status == 1
    line = said(result)
    assert "bad.jsonl" in line
    for word in words:
        assert word in line


def test_the_wrong_encoding_is_said_and_read(fit, tmp_path):
    rows = [
        json.dumps({**row, "text": row["text"] + " café"}, ensure_ascii=False) for row in rows_of("texts", 20)
    ]
    path = tmp_path / "latin.jsonl"
    path.write_bytes("\n".join(rows).encode("latin-1"))
    result = fit("texts", f"--data.train={path}")
    assert result.status == 0, result.err
    assert "latin.jsonl is not UTF-8" in result.err


def test_what_is_said_and_goes_on(fit, tmp_path):
    """Texts longer than the window, examples in two parts, answers that are not there."""
    rows = rows_of("texts", 20)
    rows[3]["text"] = rows[4]["text"] = "parser " * 60
    write(tmp_path / "texts-train.jsonl", rows)
    write(tmp_path / "texts-test.jsonl", [*rows[:2], *rows_of("texts", 4, 500)])
    result = fit("texts")
    assert result.status == 0, result.err
    assert "2 of 20 train examples are longer than 48 tokens: cut" in result.err
    assert "warning: 2 examples of" in result.err and "texts-test.jsonl stand in" in result.err
    questions = rows_of("questions", 20)
    for row in questions[:3]:
        row["answers"] = [{"text": "nowhere to be found", "answer_start": 0}]
    write(tmp_path / "questions-train.jsonl", questions)
    result = fit("questions", name="b")
    assert result.status == 0, result.err
    assert "questions-train.jsonl (train): 3 skipped: answer not in its context" in result.err
    chats = rows_of("chats", 20)
    chats[5]["messages"].reverse()
    write(tmp_path / "chats-train.jsonl", chats)
    result = fit("chats", name="c")
    assert result.status == 0, result.err
    assert "chats-train.jsonl (train): 1 skipped: roles out of order" in result.err


USAGE = {
    "another task's data": (
        "texts",
        ("--model=lm.tasks.TokenClassification",),
        [2],
        "give --data lm.data.TagData",
    ),
    "no start": ("texts", ("--model.init_from=nowhere",), [1], "no such checkpoint or folder: nowhere"),
    "a gpt for a bert": ("chats", ("--model.init_from=bert.ckpt",), [2], "InstructionTuning needs a GPT"),
    "too short": ("questions", ("--data.seq_len=10",), [2], "--data.seq_len 10 leaves no room"),
    "batch": ("texts", ("--data.batch_size=0",), [2], "--data.batch_size 0 is too small"),
    "misspelt": ("texts", ("--model.class_weight=balanced",), [2], "did you mean --model.class_weights?"),
}


@pytest.mark.parametrize("name", USAGE)
def test_wrong_usage(fit, tmp_path, tokenizer, name):
    kind, words, status, line = USAGE[name]
    write_start(tmp_path / "bert.ckpt", "bert", tokenizer)
    result = fit(kind, *words)
    assert result.status in status, result.err
    assert line in said(result)


def test_a_task_and_data_that_do_not_go_together(lm, fit, tmp_path, code_text):
    result = lm(
        *("fit", "--model=lm.tasks.SequenceClassification", "--data=lm.data.PretrainingData"),
        *(f"--data.corpus={code_text}", "--data.vocab_size=400", "--trainer.max_steps=2", "--name=a"),
        *("--trainer.accelerator=cpu",),
    )
    assert result.status == 2, result.err
    assert "SequenceClassification needs examples" in said(result)
    result = fit("texts", "--model=lm.tasks.CausalPretraining", start="nothing")
    assert result.status == 2, result.err
    assert "TextData has examples to fine-tune on" in said(result)


def test_preferences_need_a_start(fit):
    result = fit("preferences", start="nothing")
    assert (result.status, "give --model.init_from PATH" in said(result)) == (2, True)


@pytest.fixture
def folder(sources, tmp_path) -> Path:
    """A real trained Llama as a Hugging Face folder, to be spoiled."""
    shutil.copytree(sources / "stories260K-hf", tmp_path / "llama", copy_function=shutil.copyfile)
    (tmp_path / "llama").chmod(0o755)
    return tmp_path / "llama"


def spoil(folder: Path, how: str) -> None:
    from safetensors.torch import load_file, save_file

    file = folder / "model.safetensors"
    tensors = load_file(file)
    config = json.loads((folder / "config.json").read_text())
    match how:
        case "family":
            (folder / "config.json").write_text(json.dumps({**config, "model_type": "mamba"}))
        case "missing tensor":
            tensors.pop(next(name for name in tensors if "q_proj" in name))
            save_file(tensors, file)
        case "extra tensor":
            save_file({**tensors, "model.layers.0.surprise.weight": torch.zeros(2, 2)}, file)
        case "missing shard":
            index = {"weight_map": dict.fromkeys(tensors, "model-00001-of-00002.safetensors")}
            (folder / "model.safetensors.index.json").write_text(json.dumps(index))
            file.unlink()
        case "pickle":
            torch.save(tensors, folder / "pytorch_model.bin")
            file.unlink()
        case "no weights":
            file.unlink()
        case "cut":
            file.write_bytes(file.read_bytes()[:1000])


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("family", ("config.json", "'mamba'", "llama")),
        ("missing tensor", ("weights lack", "q_proj")),
        ("extra tensor", ("no place", "surprise")),
        ("missing shard", ("model-00001-of-00002.safetensors",)),
        ("pickle", ("pytorch_model.bin", "safetensors")),
        ("no weights", ("llama",)),
        ("cut", ("model.safetensors",)),
    ],
)
def test_a_folder_that_is_no_model(fit, folder, how, words):
    spoil(folder, how)
    result = fit("chats", start=folder)
    assert result.status == 1, result.err
    line = said(result)
    for word in words:
        assert word in line


def test_a_task_from_nothing_and_from_its_own_checkpoint(fit):
    """A classifier that starts from a classifier with the same labels goes on with its head."""
    small = ("--model.backbone.hidden_size=32", "--model.backbone.num_layers=1", "--data.vocab_size=300")
    first = fit("texts", *small, start="nothing", name="first")
    assert first.status == 0, first.err
    assert "starting from nothing: no --model.init_from was given" in first.err
    same = fit("texts", start=Path("checkpoints/first/best.ckpt"), name="same")
    assert same.status == 0 and "starting from checkpoints/first/best.ckpt" in same.err, same.err
    assert "new: head" not in same.err
