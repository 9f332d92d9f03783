"""Pretraining that goes on from a model: its shape, weights and tokenizer."""

import json

import pytest
import torch
import yaml

from lm.convert import open_model
from lm.data.tokenizers import open_tokenizer


def still(*words):
    """Without learning, so that what comes out is what went in."""
    return (*words, "--model.optimizer.lr=0", "--model.optimizer.adamw_lr=0", "--trainer.max_steps=1")


@pytest.mark.parametrize("kind", ["gpt", "bert"])
def test_it_goes_on_from_a_model(lm, trained, tmp_path, kind, tiny_gpt, tiny_bert):
    start = trained / f"checkpoints/{kind}"
    tiny = tiny_gpt if kind == "gpt" else tiny_bert
    done = lm("fit", *still(*tiny, "--model.init_from", start), "--name=on")
    assert done.status == 0, done.err
    said = next(line for line in done.err.splitlines() if f"going on from {start}" in line)
    assert f"{start}, with its num_layers 2, hidden_size" in said and "not used" not in said
    assert "lm fit checkpoints/on/config.yaml --data.corpus PATH --name NAME" in done.out
    before, after = open_model(start), open_model(tmp_path / "checkpoints/on")
    assert after.config == before.config and after.weights.keys() == before.weights.keys()
    assert all(torch.equal(value, after.weights[name]) for name, value in before.weights.items())
    assert json.loads((tmp_path / "checkpoints/on/summary.json").read_text())["val_loss"] == pytest.approx(
        json.loads((start / "summary.json").read_text())["val_loss"], rel=1e-3
    )
    config = yaml.safe_load((tmp_path / "checkpoints/on/config.yaml").read_text())
    assert config["data"]["init_args"]["tokenizer"] == str(start)
    assert f"started from  {start}" in lm("info", "checkpoints/on").out


def test_texts_of_ones_own_are_read_in_its_tokens(lm, starts, tmp_path, code_text):
    """A checkpoint alone, whose vocabulary is another than the configuration's; with longer windows."""
    start = starts["gpt"]
    words = ("--config=gpt-nano", f"--data.corpus={code_text}", "--data.seq_len=48", "--data.batch_size=2")
    words += ("--model.backbone.dropout=0.1", "--model.backbone.num_heads=2")
    done = lm("fit", *still(*words, "--model.init_from", start), "--name=on", "--sample.tokens=0")
    assert done.status == 0, done.err
    model = open_model(tmp_path / "checkpoints/on")
    assert model.config.max_seq_len == 48 and model.config.hidden_size == 32
    said = "num_layers 2, hidden_size 32, vocab_size"
    assert said in done.err and "; not used of model.backbone: hidden_size 128, num_layers 3" in done.err
    assert "dropout 0.1" in done.err and "num_heads" not in done.err  # which is what the start has
    assert model.tokenizer.fingerprint == open_tokenizer(start).fingerprint
    assert lm("prepare", code_text, "--tokenizer", start).status == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--model.init_from=B"], "CausalPretraining needs a GPT: but B is a BERT"),
        (["--model.init_from=nope"], "no such checkpoint or folder: nope; nothing is downloaded"),
        (["--model.init_from=C"], "C has no language-model head: pretraining can't go on from it"),
        (["--model.init_from=G", "--data.tokenizer=null", "--data.corpus=P"], "has another tokenizer than"),
        (
            ["--model=lm.tasks.MaskedPretraining", "--model.init_from=G"],
            "MaskedPretraining needs a BERT: but",
        ),
        (
            ["--model=lm.tasks.MaskedPretraining", "--model.init_from=B", "--data.seq_len=99"],
            "B has learned 32 positions: give --data.seq_len 32",
        ),
        (["--model=lm.tasks.MaskedPretraining"], "MaskedPretraining needs a BERT: set causal to false"),
    ],
)
def test_what_it_cannot_go_on_from(lm, starts, trained, tmp_path, tiny_gpt, classifier, options, said):
    corpus = next((trained / "data").glob("*/manifest.json")).parent
    places = {"B": starts["bert"], "G": starts["gpt"], "C": classifier, "P": corpus}
    for name, path in places.items():
        options = [option.replace(f"={name}", f"={path}") for option in options]
        said = said.replace(f"{name} is", f"{path} is").replace(f"{name} has ", f"{path} has ")
    done = lm("fit", *tiny_gpt, *options)
    assert done.status and said in done.err, done.err


@pytest.fixture
def classifier(tmp_path, tokenizer):
    from tests.commands.test_apply import CLASSES, KINDS, head_of, save

    task, extra = KINDS["single"]
    return save(tmp_path / "c.ckpt", tokenizer, CLASSES[task.__name__], head_of("single", extra), **extra)
