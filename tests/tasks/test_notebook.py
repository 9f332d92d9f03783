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
    (found,) = trainer.validate(task, data, verbose=False) or [{}]
    assert found == {}  # figures are for the callbacks that put them at their step
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
    trainer.test(task, data, verbose=False)
    assert trainer.callback_metrics["test/accuracy"] == 1.0
    trainer.save_checkpoint("mine.ckpt", weights_only=True)

    later = SequenceClassification.load("mine.ckpt")
    assert later.labels == ["bad", "good"]
    fresh = TextData("train.jsonl", test="train.jsonl", seq_len=16, vocab_size=285)
    tester = Trainer(**QUIET)
    tester.ckpt_path = "mine.ckpt"  # labels and tokenizer come from there
    tester.test(SequenceClassification(shape), fresh, verbose=False)
    assert tester.callback_metrics["test/accuracy"] == 1.0
