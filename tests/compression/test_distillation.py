"""Distillation: the loss by hand, what a student begins as, and that it becomes an ordinary model."""

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from lm import checkpoint as checkpoints
from lm import load
from lm.backbone import BackboneConfig
from lm.compression import (
    DistilledInstructionTuning,
    DistilledQuestionAnswering,
    DistilledSequenceClassification,
    DistilledTokenClassification,
)
from lm.compression.distil_loss import hidden_distance, linear_soft_distance, soft_distance
from lm.compression.distil_teacher import listening
from lm.compression.student import drop_layers, evenly
from lm.convert.models import open_model
from lm.data.examples.batches import TrainingExamples
from lm.data.examples.records import TextExample
from lm.errors import UserError
from lm.tasks import SequenceClassification

from ..tasks.conftest import Made, scramble, write_start
from ..tasks.test_finetuning import CHATS, QUESTIONS, TAGS, TEXTS

T = 2.5
SEVERAL = [TextExample(e.text, label=tuple("abc"[: i % 4])) for i, e in enumerate(TEXTS)]
RATED = [TextExample(e.text, label=i / 4) for i, e in enumerate(TEXTS)]
TASKS: dict[str, tuple[Any, list[Any], str]] = {
    "texts": (DistilledSequenceClassification, TEXTS, "bert"),
    "several": (DistilledSequenceClassification, SEVERAL, "bert"),
    "rated": (DistilledSequenceClassification, RATED, "gpt"),
    "tags": (DistilledTokenClassification, TAGS, "bert"),
    "questions": (DistilledQuestionAnswering, QUESTIONS, "bert"),
    "chats": (DistilledInstructionTuning, CHATS, "gpt"),
}


def saved(task: Any, path: Path) -> Path:
    """The checkpoint of a task, as a run leaves it."""
    plain = task.plain() if hasattr(task, "plain") else type(task)
    made = checkpoints.make_record(f"{plain.__module__}.{plain.__qualname__}", task.config, task.processor)
    state = {f"net.{name}": tensor for name, tensor in task.net.state_dict().items()}
    checkpoints.write({"lm": {**made, **task.record()}, "state_dict": state}, path)
    return path


@pytest.fixture
def student(tmp_path, tokenizer):
    """A student with its teacher, which has other weights and two layers of width 32: `student("texts",
    weight=0.3, …)`. Without options the plain task."""

    def make(name: str, batch_size: int = 8, plain: bool = False, shape: Any = None, **options: Any) -> Any:
        task, examples, kind = TASKS[name]
        data = [Made(examples, batch_size=batch_size, seq_len=24) for _ in range(2)]
        starts = [tmp_path / f"{kind}-{n}.ckpt" for n in range(2)]
        for n, path in enumerate(starts):
            if not path.exists():
                write_start(path, kind, tokenizer, seed=n)
        path = tmp_path / f"{name}-teacher.ckpt"
        if not path.exists():
            teacher = task.plain()(
                BackboneConfig(max_seq_len=24, vocab_size=data[0].vocab_size), init_from=str(starts[1])
            )
            teacher.prepare(data[0])
            scramble(teacher.net, seed=5)
            saved(teacher, path)
        torch.manual_seed(0)
        config = BackboneConfig(max_seq_len=24, vocab_size=data[1].vocab_size, **(shape or {}))
        options = {"init_from": None if shape else str(starts[0]), **options}
        kind = task.plain() if plain else partial(task, teacher=str(path))
        made = kind(config, **options)
        made.prepare(data[1])
        if not plain:
            made.take_teacher()
        made.net.train()
        return made

    return make


def batches(task: Any, step: int = 8) -> list[dict[str, Any]]:
    data = task.data
    source = TrainingExamples(data.features("train"), data.batch_size, data.seed, task.collate, step)
    return [source[0, first] for first in range(0, step, data.batch_size)]


def gradients(task: Any, cut: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    task.zero_grad()
    sum(task.training_step(batch, 0)["loss"] / len(cut) for batch in cut).backward()
    return {n: p.grad.clone() for n, p in task.named_parameters() if p.grad is not None}


# The loss.


def kl(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """T² · Σ q (log q - log p) of rows of logits, as the paper writes it."""
    p, q = ((z / T).softmax(-1) for z in (student, teacher))
    return T**2 * (q * (q.log() - p.log())).sum()


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rows", [3, None])
def test_the_distance_in_chunks_is_that_of_whole_logits(rows, bias):
    torch.manual_seed(0)
    hidden, weight = torch.randn(10, 6, requires_grad=True), torch.randn(15, 6, requires_grad=True)
    own = torch.randn(15, requires_grad=True) if bias else None
    teacher = torch.randn(10, 8), torch.randn(17, 8), torch.randn(17) if bias else None  # padded to 17 tokens
    logits = hidden @ weight.t() + (own if bias else 0)
    theirs = (teacher[0] @ teacher[1].t() + (teacher[2] if bias else 0))[:, :15]
    trained = [each for each in (hidden, weight, own) if each is not None]
    expected = kl(logits, theirs)
    assert expected > 10
    found = linear_soft_distance(hidden, weight, own, teacher, T, rows)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(soft_distance(logits, theirs, T), expected)
    wanted = torch.autograd.grad(3 * expected, trained)
    torch.testing.assert_close(torch.autograd.grad(3 * found, trained), wanted)
    with torch.autocast("cpu", torch.bfloat16):
        half = linear_soft_distance(hidden, weight, own, teacher, T, rows)
    assert half.dtype == torch.float32 and half.item() == pytest.approx(expected.item(), rel=0.05)
    found = torch.autograd.grad(3 * half, trained)
    assert all(
        F.cosine_similarity(a.flatten(), b.flatten(), 0) > 0.99 for a, b in zip(found, wanted, strict=True)
    )


def test_hidden_states_are_compared_where_there_is_text():
    torch.manual_seed(0)
    ours, theirs = torch.randn(2, 2, 3, 4)  # two layers' worth: (B, T, width)
    real = torch.tensor([[True, True, False], [True, True, True]])
    normal = [
        (x - x.mean(-1, keepdim=True)) / (x.var(-1, False, keepdim=True) + 1e-5).sqrt()
        for x in (ours, theirs)
    ]
    each = (normal[0] - normal[1]).square().mean(-1)
    expected = each[0, :2].mean() + each[1].mean()
    torch.testing.assert_close(hidden_distance([(ours, theirs)], real), expected)
    torch.testing.assert_close(hidden_distance([(ours, theirs), (theirs, theirs)], real), expected / 2)
    torch.testing.assert_close(
        hidden_distance([(5 * ours + 1, theirs)], None), each.mean(1).sum(), rtol=1e-4, atol=1e-4
    )


@torch.no_grad()
def apart(name: str, batch: dict[str, Any], z: torch.Tensor, t: torch.Tensor) -> float:
    """The teacher's part of the loss by hand, from the outputs of both."""
    total = 0.0
    for row in range(len(z)):
        if name == "rated":
            total += float((z[row] - t[row]).square().sum())
        elif name == "several":
            for a, b in zip(z[row], t[row], strict=True):
                p, q = ((x / T).sigmoid() for x in (a, b))
                total += float(T**2 * (q * (q / p).log() + (1 - q) * ((1 - q) / (1 - p)).log()))
        elif name == "questions":
            open_ = batch["allowed"][row] == 1
            total += sum(float(kl(z[row, open_, end], t[row, open_, end])) for end in (0, 1)) / 2
        elif name == "texts":
            total += float(kl(z[row], t[row]))
        else:
            for column in (batch["targets"][row] >= 0).nonzero()[:, 0]:
                total += float(kl(z[row, column], t[row, column]))
    return total


@pytest.mark.parametrize("name", TASKS)
def test_the_loss_of_each_task_by_hand(student, name):
    task, plain = student(name, temperature=T, weight=0.3), student(name, plain=True)
    (batch,) = batches(task)
    teacher = open_model(task.teacher).network
    with torch.no_grad():
        own = plain.training_step(batch, 0)
        more = {} if name == "chats" else {"segments": batch.get("segments")}
        z, t = (net(batch["tokens"], batch["documents"], **more) for net in (task.net, teacher))
    found = task.training_step(batch, 0)
    divisor = float(own["total"] / own["loss"])
    expected = 0.7 * own["loss"].item() + 0.3 * apart(name, batch, z, t) / divisor
    assert abs(expected - own["loss"].item()) > 0.05
    assert found["loss"].item() == pytest.approx(expected, rel=1e-4)
    assert torch.equal(found["total"], own["total"])  # what is reported is the task's own


@pytest.mark.parametrize("name", TASKS)
def test_a_teacher_without_weight_changes_nothing_to_the_last_bit(student, name):
    found = [
        gradients(task, batches(task)) for task in (student(name, weight=0.0), student(name, plain=True))
    ]
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(found[0][key], found[1][key]) for key in found[0])


def test_layers_are_compared_with_those_that_they_began_as(student):
    """Where the teacher has as many as the model that they were taken from; else evenly, the last with the
    last: the second of two is no last one of three."""
    task = student("texts", keep_layers=[0], hidden=1.0, weight=0.0)
    (batch,) = batches(task)
    network, net = open_model(task.teacher).network, task.net.eval()
    with torch.no_grad(), listening(net, True) as ours, listening(network, True) as theirs:
        for each in (net, network):
            each(batch["tokens"], batch["documents"], segments=batch["segments"])
    real = batch["documents"] >= 0
    found = {}
    for of, layer in ((2, 0), (3, 1)):
        task._kept_of, task.hidden = of, 1.0
        with_layers = task.training_step(batch, 0)["loss"].item()
        task.hidden = 0.0
        found[layer] = with_layers - task.training_step(batch, 0)["loss"].item()
        expected = hidden_distance([(ours.layers[0], theirs.layers[layer])], real).item() / 8
        assert found[layer] == pytest.approx(expected, rel=1e-4)
    assert abs(found[0] - found[1]) > 0.01


@pytest.mark.parametrize("name", TASKS)
def test_a_step_is_the_same_however_it_is_cut(student, name):
    """One batch of eight, four of two, eight of one: lengths, and so what counts in the loss, differ."""
    found = []
    for size in (8, 2, 1):
        task = student(name, batch_size=size, weight=0.7, hidden=0.5)
        cut = batches(task)
        assert len(cut) == 8 // size
        found.append(gradients(task, cut))
    scale = max(float(each.abs().max()) for each in found[0].values())
    for other in found[1:]:
        for key, expected in found[0].items():
            torch.testing.assert_close(other[key], expected, rtol=1e-3, atol=1e-5 * scale)


def test_students_of_another_width_learn_through_a_projection(student):
    shape = {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "causal": False, "segments": 2}
    task = student("texts", shape=shape, hidden=1.0, weight=0.0)
    assert task.projection.weight.shape == (32, 16)
    (batch,) = batches(task)
    assert gradients(task, [batch])["projection.weight"].abs().sum() > 0
    groups = [p for group in task.parameter_groups() for p in group["params"]]
    assert {id(p) for p in groups} == {id(p) for p in task.parameters()}
    assert task.config.vocab_size == open_model(task.teacher).tokenizer.vocab_size  # whose tokenizer it has


# What it begins as.


def test_evenly_spaced_layers():
    assert evenly(12, 6) == [0, 2, 4, 7, 9, 11]  # as DistilBERT's script has them
    assert (evenly(6, 3), evenly(6, 6), evenly(6, 1), evenly(4, 2)) == ([0, 2, 5], [*range(6)], [0], [0, 3])


@pytest.mark.parametrize("kind", ["gpt", "bert"])
def test_layers_that_are_kept(tmp_path, tokenizer, kind):
    """All of them are the same model; some are the blocks themselves, one after the other."""
    model = open_model(write_start(tmp_path / "a.ckpt", kind, tokenizer, num_layers=4))
    tokens = torch.arange(2, 26).reshape(2, 12)
    with torch.no_grad():
        whole = model.network(tokens)
        assert torch.equal(drop_layers(model, [0, 1, 2, 3]).network(tokens), whole)
        backbone = model.network.backbone
        backbone.blocks = torch.nn.ModuleList(backbone.blocks[layer] for layer in (1, 3))
        backbone.config.num_layers = 2
        expected = model.network(tokens)
        model.config.num_layers = 4
        found = drop_layers(model, [1, 3]).network(tokens)
    assert torch.equal(found, expected) and not torch.allclose(found, whole)


def test_a_student_that_keeps_all_layers_of_its_teacher_has_nothing_to_learn(student):
    teacher = student("texts").teacher
    task = student("texts", init_from=teacher, keep_layers=[0, 1], weight=1.0, hidden=1.0, pooling="mean")
    task.net.eval()
    (batch,) = batches(task)
    assert task.training_step(batch, 0)["loss"].item() == pytest.approx(0, abs=1e-5)
    half = student("texts", init_from=teacher, keep_layers=[1])
    assert half.config.num_layers == 1
    theirs = open_model(teacher).weights["backbone.blocks.1.mlp.up.weight"]
    assert torch.equal(half.net.backbone.blocks[0].mlp.up.weight, theirs)


# Through the command.


def distilled(words: tuple[str, ...], task: str, teacher: Path | str, *more: str) -> tuple[str, ...]:
    """The words of a pretraining with the task's namesake and a teacher."""
    changes = {
        "--model.init_args.backbone.hidden_size=32": "--model.backbone.hidden_size=16",
        "--model.init_args.backbone.num_layers=2": "--model.backbone.num_layers=1",
    }
    kept = [changes.get(word, word) for word in words]
    return (
        *kept[:2],
        f"--model=lm.compression.Distilled{task}",
        *kept[2:],
        f"--model.teacher={teacher}",
        *more,
    )


@pytest.mark.parametrize(
    ("kind", "task", "use"),
    [("gpt", "CausalPretraining", "generate"), ("bert", "MaskedPretraining", "fill")],
)
def test_pretraining_a_student_of_half_the_width(lm, request, trained, tmp_path, kind, task, use):
    """And no trace of the teacher is left."""
    shutil.copytree(trained / f"checkpoints/{kind}", tmp_path / "teacher")
    words = distilled(request.getfixturevalue(f"tiny_{kind}"), task, "teacher", "--model.hidden=0.5")
    result = lm("fit", *words, "--name=student")
    assert result.status == 0, result.err
    shutil.rmtree(tmp_path / "teacher")
    run = tmp_path / "checkpoints/student"
    checkpoint = checkpoints.read(run / "best.ckpt")
    assert checkpoint["lm"]["task"].endswith(f".{task}")
    model = load(run)
    named = {f"net.{name}" for name in model.model.network.state_dict()}
    assert set(checkpoint["state_dict"]) == named
    assert (model.config.hidden_size, model.config.num_layers) == (16, 1)
    used = lm(
        use, run, "def f(<mask>" if use == "fill" else "def f", *(() if use == "fill" else ("--tokens=4",))
    )
    assert used.status == 0, used.err
    measured = lm("validate", run)
    loss = json.loads((run / "summary.json").read_text())["val_loss"]
    assert (measured.status, f"loss {loss:.4f}" in measured.out) == (0, True), measured.err


def test_pretraining_on_with_some_of_the_teacher_s_layers(lm, tiny_gpt, trained, tmp_path):
    """Before the first step it is the teacher without the other layers."""
    teacher = trained / "checkpoints/gpt"
    words = (*tiny_gpt[:2], "--model=lm.compression.DistilledCausalPretraining", *tiny_gpt[2:])
    words = (*words, f"--model.teacher={teacher}", "--model.init_args.backbone.num_layers=1")
    result = lm(
        *("fit", *words, "--model.keep_layers=[1]", "--name=run"),
        *("--model.optimizer.lr=0", "--model.optimizer.adamw_lr=0"),
    )
    assert result.status == 0, result.err
    assert "starting from layers 1 of" in result.err
    expected = drop_layers(open_model(teacher), [1]).network
    tokens = torch.arange(2, 26)[None]
    with torch.no_grad():
        assert torch.equal(load("checkpoints/run").model.network(tokens), expected(tokens))


def test_killed_in_the_middle_it_goes_on_to_the_last_bit(ends_alike_though_killed, tiny_gpt, trained):
    """With dropout, a projection that is learned too, and a teacher that draws nothing."""
    teacher = trained / "checkpoints/gpt"
    words = distilled(
        tiny_gpt, "CausalPretraining", teacher, "--model.hidden=0.5", "--model.backbone.dropout=0.1"
    )
    _, killed = ends_alike_though_killed(*words, "--monitor.window=3", at="step 3/", saved=2)
    assert "projection.weight" in torch.load(killed / "last.ckpt", weights_only=True)["state_dict"]


ROWS = [{"text": f"{word} {i}", "label": word} for i in range(12) for word in ("good", "bad")]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """Where the first of the tests below leaves the teacher that it has trained."""
    return tmp_path_factory.mktemp("teacher") / "run"


@pytest.fixture
def classify(lm, tmp_path, tokenizer, teacher):
    """A classifier of six steps: `classify("name", "--model.…")`; `teacher` is one of four layers."""
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    write_start(tmp_path / "start.ckpt", "bert", tokenizer, num_layers=4)

    def fit(name: str, *words: object, task: str = "lm.compression.DistilledSequenceClassification") -> Any:
        return lm(
            *("fit", "--data=lm.data.TextData", "--data.train=train.jsonl", "--data.val=train.jsonl"),
            *("--data.seq_len=16", "--data.batch_size=4", f"--model={task}", "--model.init_from=start.ckpt"),
            *(
                "--trainer.max_steps=6",
                "--trainer.accelerator=cpu",
                "--trainer.logger=false",
                f"--name={name}",
            ),
            *words,
        )

    own = tmp_path / "checkpoints/teacher"
    if teacher.exists():
        shutil.copytree(teacher, own)
    else:
        assert fit("teacher", task="lm.tasks.SequenceClassification").status == 0
        shutil.copytree(own, teacher)
    return fit


def test_a_classifier_of_half_the_layers(lm, classify, tmp_path):
    words = ("--model.teacher=checkpoints/teacher", "--model.keep_layers=[1, 3]", "--model.hidden=0.1")
    result = classify("student", *words)
    assert result.status == 0, result.err
    assert "the student begins as layers 1, 3 of start.ckpt" in result.err
    shutil.rmtree(tmp_path / "checkpoints/teacher")
    (tmp_path / "start.ckpt").unlink()
    run = tmp_path / "checkpoints/student"
    checkpoint = checkpoints.read(run / "best.ckpt")
    assert checkpoint["lm"]["task"] == "lm.tasks.SequenceClassification"
    task = SequenceClassification.load(run)
    assert task.config.num_layers == 2
    assert {f"net.{name}" for name in task.net.state_dict()} == set(checkpoint["state_dict"])
    assert lm("classify", run, "good 3").status == 0
    measured = lm("validate", run)
    loss = json.loads((run / "summary.json").read_text())["val_loss"]
    assert (measured.status, f"loss {loss:.4f}" in measured.out) == (0, True), measured.err


def test_a_student_of_any_shape_learns_with_the_teacher_s_tokenizer(classify, tmp_path):
    shape = (
        "--model.backbone.hidden_size=16",
        "--model.backbone.num_layers=1",
        "--model.backbone.segments=2",
    )
    words = ("--model.init_from=null", *shape, "--model.hidden=1")
    # Measured on a test part, too, with the best weights, which hold no projection.
    result = classify("small", "--model.teacher=checkpoints/teacher", *words, "--data.test=train.jsonl")
    assert result.status == 0, result.err
    assert "projection.weight" not in checkpoints.read("checkpoints/small/best.ckpt")["state_dict"]
    assert "test_loss" in json.loads((tmp_path / "checkpoints/small/summary.json").read_text())
    small, teacher = load("checkpoints/small"), load("checkpoints/teacher")
    assert small.config.hidden_size == 16
    assert small.tokenizer.fingerprint == teacher.tokenizer.fingerprint
    assert small.classify("good 3")["prediction"] in ("good", "bad")
    encoded = {path.name for path in (tmp_path / "data/examples").iterdir()}
    words = (*words, "--model.temperature=3", "--model.hidden=0.5")
    assert classify("hotter", "--model.teacher=checkpoints/teacher", *words).status == 0
    assert {path.name for path in (tmp_path / "data/examples").iterdir()} == encoded  # none was encoded anew


def test_another_teacher_than_the_run_began_with(classify, tmp_path):
    words = ("--model.teacher=checkpoints/teacher", "--checkpoint.every_n_steps=2")
    (tmp_path / "stop_at_three.py").write_text(STOP)
    assert classify("a", *words, "--trainer.callbacks+=stop_at_three.Stop").status == 143
    shutil.rmtree(tmp_path / "checkpoints/teacher")
    assert classify("teacher", "--seed_everything=5", task="lm.tasks.SequenceClassification").status == 0
    result = classify("a", *words)
    assert result.status == 1
    assert "checkpoints/teacher is no longer the teacher that this run began with" in result.err


STOP = """
import os, signal
from lightning.pytorch import Callback

class Stop(Callback):
    def on_train_batch_end(self, trainer, *rest):
        if trainer.global_step == 3:
            os.kill(os.getpid(), signal.SIGTERM)
"""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "Give --model.teacher MODEL"),
        (("--model.teacher=nowhere",), "no such checkpoint or folder: nowhere"),
        (("--model.teacher=start.ckpt",), "the teacher start.ckpt is a pretrained BERT, which can't teach"),
        (
            ("--model.teacher=checkpoints/teacher", "--model.temperature=0"),
            "temperature is 0.0: it must be above 0",
        ),
        (
            ("--model.teacher=checkpoints/teacher", "--model.weight=1.5"),
            "weight is 1.5: it must be from 0 to 1",
        ),
        (
            ("--model.teacher=checkpoints/teacher", "--model.hidden=-1"),
            "hidden is -1.0: it must be at least 0",
        ),
        (
            ("--model.teacher=checkpoints/teacher", "--model.keep_layers=5"),
            "keep_layers is 5: start.ckpt has 4 layers, so it can be 1 to 4",
        ),
        (
            ("--model.teacher=checkpoints/teacher", "--model.keep_layers=[3, 1]"),
            "keep_layers is [3, 1]: give some of the layers of start.ckpt, 0 to 3",
        ),
        (
            ("--model.teacher=checkpoints/teacher", "--model.keep_layers=2", "--model.init_from=null"),
            "keep_layers: of which model? Give --model.init_from MODEL",
        ),
        (
            ("--model.teacher=checkpoints/other",),
            "knows the labels '1', '2', and the data have 'bad', 'good'",
        ),
        (("--model.teacher=alien.ckpt",), "the teacher alien.ckpt has another tokenizer than the student"),
    ],
)
def test_bad_input(classify, tmp_path, words, said):
    if "other" in str(words):
        rows = [{"text": row["text"], "label": str(i % 2 + 1)} for i, row in enumerate(ROWS)]
        (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
        assert classify("other", task="lm.tasks.SequenceClassification").status == 0
        (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    if "alien" in str(words):
        from lm.tokenizer import train_tokenizer

        write_start(tmp_path / "alien.ckpt", "bert", train_tokenizer(["other words " * 50], 290))
    result = classify("student", *words)
    assert result.status in (1, 2) and said in result.err, result.err
    assert "Traceback" not in result.err
    assert not (tmp_path / "checkpoints/student").exists()


def test_bad_teachers_of_a_language_model(lm, tiny_gpt, trained, tmp_path):
    gpt, bert = (trained / f"checkpoints/{kind}" for kind in ("gpt", "bert"))
    for teacher, words, said in (
        (
            gpt,
            ["--data.vocab_size=300"],
            "has another tokenizer than the student, so what it says of a token",
        ),
        (bert, [], "is a BERT, the student a GPT"),
        (gpt, ["--model.keep_layers=2"], "keep_layers keeps 2 layers, but the student has 1"),
        (gpt, ["--model.keep_layers=1"], "backbone.hidden_size 32 → 16"),
    ):
        result = lm("fit", *distilled(tiny_gpt, "CausalPretraining", teacher, *words))
        assert result.status in (1, 2) and said in result.err, result.err
        assert "Traceback" not in result.err


def test_what_is_not_sharded_is_said(student):
    task = student("texts")
    task._device_mesh = object()
    with pytest.raises(UserError, match="not sharded"):
        task.configure_model()
