"""`lm compress`: checkpoints with integers, which every command takes."""

import json
import shutil

import pytest
import torch

import lm as package
from lm.backbone.quantised import QuantisedLinear
from lm.convert import open_model
from tests.commands.test_apply import CLASSES, KINDS, head_of
from tests.commands.test_apply import save as save_checkpoint


@pytest.fixture(scope="module")
def held_out(code_text, tmp_path_factory):
    path = tmp_path_factory.mktemp("held") / "text.py"
    path.write_text(code_text.read_text()[:6000])
    return path


def test_a_gpt_with_integers(lm, trained, tmp_path, held_out):
    run = trained / "checkpoints/gpt"
    done = lm("compress", run, "--bits", "8", "4", "--out", ".", "--report", held_out)
    assert done.status == 0, done.err
    assert "8 bits: " in done.err and "gpt-int4.ckpt" in done.err
    head, first, eight, four, *_ = done.out.splitlines()
    assert head.split()[:7] == ["MB", "on", "disk", "MB", "in", "memory", "layers"]
    assert first.startswith("as it is")
    assert eight.split()[3].startswith("1/3.") and four.split()[3].startswith("1/6.")
    plain = package.load(run)
    for bits in (8, 4):
        path = tmp_path / f"gpt-int{bits}.ckpt"
        model = package.load(path)
        layers = [each for each in model.writer().modules() if isinstance(each, QuantisedLinear)]
        assert len(layers) >= 12 and {each.bits for each in layers} == {bits}
        content = torch.load(path, weights_only=True)
        assert content["lm"]["quantised"]["bits"] == bits
        assert content["state_dict"]["net.backbone.blocks.0.mlp.up.values"].dtype != torch.float32
        # The same text by the cached decoder and without a cache.
        text = model.generate("def parse", 12, temperature=0)
        assert "".join(model.stream("def parse", 12, temperature=0, cache=False)) == text
        assert lm("generate", path, "def parse", "--tokens=12", "--temperature=0").out == f"def parse{text}\n"
        tokens = torch.randint(plain.tokenizer.vocab_size, (3, 30))
        with torch.no_grad():
            a, b = plain.writer()(tokens), model.writer()(tokens)
        assert (a - b).abs().mean() < (0.02 if bits == 8 else 0.2) * a.std()
        assert f"{bits} bits" in lm("info", path).out
        # What wants floats gets them: other formats, and the trainer.
        assert set(open_model(path).weights) == set(open_model(run).weights)
        exported = lm("export", path, f"hf-{bits}")
        assert exported.status == 0 or "no family" in exported.err


def test_its_figures_by_the_trainer(lm, trained, tmp_path, code_text, monkeypatch):
    run = trained / "checkpoints/gpt"
    assert lm("compress", run, "--out", ".").status == 0
    whole, small = (lm("validate", path, f"--data.corpus={code_text}") for path in (run, "gpt-int8.ckpt"))
    assert whole.status == small.status == 0, small.err
    losses = [float(each.out.split("loss")[1].split()[0].strip(",")) for each in (whole, small)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    again = lm("fit", run / "config.yaml", "--name", "again", "--ckpt_path", "gpt-int8.ckpt")
    assert again.status and "gpt-int8.ckpt is quantised, which can't be trained on" in again.err


def test_a_bert_and_a_classifier(lm, trained, tmp_path, tokenizer):
    assert lm("compress", trained / "checkpoints/bert", "--out", ".").status == 0
    text = "import <mask>"
    guesses = [lm("fill", path, text).out for path in (trained / "checkpoints/bert", "bert-int8.ckpt")]
    assert guesses[0].split()[0] == guesses[1].split()[0] != ""
    task, extra = KINDS["single"]
    path = save_checkpoint(
        tmp_path / "c.ckpt", tokenizer, CLASSES[task.__name__], head_of("single", extra), **extra
    )
    assert lm("compress", path, "--bits", "4").status == 0
    plain, small = (
        package.load(each).classify("raise ValueError") for each in (path, tmp_path / "c-int4.ckpt")
    )
    assert plain["probabilities"].keys() == small["probabilities"].keys()
    for label, value in plain["probabilities"].items():
        assert small["probabilities"][label] == pytest.approx(value, abs=0.2)
    assert small["probabilities"] != plain["probabilities"]


def test_a_folder_that_chats_does_so_still(lm, real_data, tmp_path):
    folder = tmp_path / "chat"
    shutil.copytree(real_data / "stories260K-hf", folder)
    config = {"tokenizer_class": "LlamaTokenizer"}
    config["chat_template"] = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}you:"
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    assert lm("compress", folder).status == 0
    done = lm("chat", "chat-int8.ckpt", "hello", "--tokens", "4")
    assert done.status == 0, done.err


def test_bad_input(lm, trained, tmp_path, held_out):
    run = trained / "checkpoints/gpt"
    (tmp_path / "short.txt").write_text("too short")
    (tmp_path / "latin.txt").write_bytes("naïve".encode("latin-1"))
    assert lm("compress", run, "--out", ".").status == 0
    for words, status, what in (
        ((run, "--bits", "3"), 2, "--bits 3: they can be 8 or 4"),
        ((run, "--bits", "4", "--group", "48"), 2, "--group 48: 4 bits have 32, 64, 128 or 256"),
        ((run, "--bits", "4", "--group", "256"), 2, "no linear layer whose inputs are groups of 256"),
        (("gpt-int8.ckpt", "--out", "twice"), 1, "is quantised already: give the model that it was made of"),
        ((run, "--out", "."), 1, "gpt-int8.ckpt is there already: --force replaces it"),
        ((run, "--report", "nothing.txt", "--out", "x"), 1, "nothing.txt: No such file"),
        ((run, "--report", "latin.txt", "--out", "x"), 1, "latin.txt is not UTF-8"),
        ((run, "--report", "short.txt", "--out", "x"), 1, "a report wants 128 at least"),
        (
            (trained / "checkpoints/bert", "--report", held_out, "--out", "b"),
            1,
            "is a BERT, which fills gaps",
        ),
        (("nothing",), 1, "nothing"),
    ):
        failed = lm("compress", *words)
        assert failed.status == status and what in failed.err.splitlines()[-1], failed.err
    assert not (tmp_path / "b").exists() and not (tmp_path / "x").exists(), "asked first, written then"
    done = lm("compress", run, "--out", ".", "--force", "--report", held_out, "--json")
    assert done.status == 0 and [row["name"] for row in json.loads(done.out)] == ["as it is", "int8"]
