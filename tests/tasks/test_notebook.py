"""In a notebook there is a trainer, a task and data, and nothing else: no command, no run's folder."""

import json

import pytest
import torch
from lightning.pytorch import Trainer

from lm.backbone import BackboneConfig
from lm.data import PretrainingData, TextData
from lm.errors import UserError
from lm.tasks import CausalPretraining, SequenceClassification

QUIET = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    return tmp_path


def test_pretraining(code_text):
    data = PretrainingData(str(code_text), vocab_size=400, seq_len=32, batch_size=4)
    task = CausalPretraining(BackboneConfig(hidden_size=32, num_layers=2, **data.shape()))
    trainer = Trainer(max_steps=30, check_val_every_n_epoch=None, val_check_interval=30, **QUIET)
    trainer.fit(task, data)
    assert trainer.callback_metrics["val/loss"] < 5.7 < torch.tensor(400.0).log()
    (found,) = trainer.validate(task, data, verbose=False)
    assert found["val/loss"] == trainer.callback_metrics["val/loss"].item()
    with pytest.raises(UserError, match=r"give `trainer\.max_steps`"):
        Trainer(max_epochs=1, **QUIET).fit(task, data)


def test_fine_tuning_and_what_becomes_of_its_checkpoint(folder):
    rows = [{"text": f"{word} {i}", "label": word} for i in range(40) for word in ("good", "bad")]
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = TextData("train.jsonl", test="train.jsonl", seq_len=16, batch_size=8, vocab_size=285)
    shape = BackboneConfig(hidden_size=32, num_layers=2, causal=False, **data.shape())
    task = SequenceClassification(shape, optimizer=lambda p: torch.optim.AdamW(p, lr=3e-3))
    trainer = Trainer(max_epochs=5, **QUIET)
    trainer.fit(task, data)
    (found,) = trainer.test(task, data, verbose=False)
    assert found["test/accuracy"] == trainer.callback_metrics["test/accuracy"] == 1.0
    trainer.save_checkpoint("mine.ckpt", weights_only=True)

    later = SequenceClassification.load("mine.ckpt")
    assert later.labels == ["bad", "good"]
    fresh = TextData("train.jsonl", test="train.jsonl", seq_len=16, vocab_size=285)
    tester = Trainer(**QUIET)
    tester.ckpt_path = "mine.ckpt"  # labels and tokenizer come from there
    tester.test(SequenceClassification(shape), fresh, verbose=False)
    assert tester.callback_metrics["test/accuracy"] == 1.0
    (folder / "other.jsonl").write_text("\n".join(map(json.dumps, rows)).replace("good", "gut"))
    other = TextData("other.jsonl", test="other.jsonl", seq_len=16, vocab_size=285)
    with pytest.raises(UserError, match=r"another processor .*trainer\.ckpt_path = PATH"):
        Trainer(**QUIET).test(SequenceClassification(shape), other, ckpt_path="mine.ckpt", verbose=False)


def test_one_task_in_several_trainers(folder):
    """What a verb needs of the data is looked at when it comes, whichever came before it."""
    texts = [{"text": f"{w} {i}", "label": w} for i in range(16) for w in ("good", "good", "bad")]
    (folder / "texts.jsonl").write_text("\n".join(map(json.dumps, texts)))
    data = TextData("texts.jsonl", seq_len=16, batch_size=8, vocab_size=285)
    shape = BackboneConfig(hidden_size=32, num_layers=1, causal=False, **data.shape())
    task = SequenceClassification(shape, class_weights="balanced")
    trainer = Trainer(max_epochs=1, **QUIET)
    trainer.validate(task, data, verbose=False)
    assert task.weights is None
    trainer.fit(task, data)
    assert task.weights.tolist() == pytest.approx([1.5, 0.75], rel=0.2)
    network, steps = task.net, trainer.global_step
    assert steps == data.steps_per_epoch
    again = Trainer(max_epochs=2, **QUIET)
    again.fit(task, data)
    assert again.global_step == 2 * steps and task.net is network


def test_what_decides_how_to_learn_is_no_reason_to_encode_anew(folder):
    texts = [{"text": f"{w} {i}", "label": w} for i in range(16) for w in ("good", "bad")]
    (folder / "texts.jsonl").write_text("\n".join(map(json.dumps, texts)))

    def features(hidden_size=32, **options):
        data = TextData("texts.jsonl", seq_len=16, vocab_size=285)
        shape = BackboneConfig(hidden_size=hidden_size, num_layers=1, causal=False, **data.shape())
        SequenceClassification(shape, **options).prepare(data)
        data.features("train")
        return len(list((folder / "data/examples").glob("texts-train-*/facts.json")))

    first = features()
    assert first == features(64) == features(label_smoothing=0.1, layer_decay=0.5, dropout=0.2)
    assert features(cut="end") == first + 1
