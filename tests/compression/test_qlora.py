"""QLoRA: an adapter that is trained beside integers, from the gradient to the commands."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from lm.backbone.quantised import QuantisedLinear
from lm.compression.rounding import quantise, to_int4, to_int8
from lm.compression.saving import save
from lm.convert import open_model
from lm.data.tokenizers import open_tokenizer
from tests.run.test_finetune import STOP, rows_of, said, write, write_start

pytest.importorskip("peft")
ROUND = {8: to_int8, 4: lambda weight: to_int4(weight, 32)}


def layer(bits: int) -> QuantisedLinear:
    torch.manual_seed(0)
    made = QuantisedLinear(64, 96, True, bits, 0 if bits == 8 else 32)
    made.load_state_dict(ROUND[bits](torch.randn(96, 64)) | {"bias": torch.randn(96)})
    return made


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("shape", [(64,), (5, 64), (2, 50, 64)])
def test_a_gradient_is_that_of_the_floats(bits, bf16, shape):
    made = layer(bits)
    x = torch.randn(shape, requires_grad=True)
    direction = torch.randn(*shape[:-1], 96)
    found = []
    for multiply in (made, lambda x: F.linear(x, made.weight, made.bias)):
        x.grad = made.bias.grad = None
        with torch.autocast("cpu", enabled=bf16):
            y = multiply(x)
        assert y.dtype == (torch.bfloat16 if bf16 else torch.float32)
        (y * direction).sum().backward()
        found.append((y.detach(), x.grad, made.bias.grad))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, atol=0.2 if bf16 else 1e-4, rtol=0.02 if bf16 else 1e-4)
    assert not any(each.requires_grad for each in made.kept)


@pytest.mark.parametrize("bits", [8, 4])
def test_no_weights_are_kept_for_the_gradient(bits):
    """But the integers themselves, which are there already; and they are restored once more."""
    made, kept = layer(bits), []
    x = torch.randn(100, 64, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        y = made(x)
    own = {each.data_ptr() for each in made.kept}
    assert kept and {each.data_ptr() for each in kept} == own
    y.sum().backward()
    torch.testing.assert_close(x.grad[0], made.weight.sum(0))


@pytest.fixture
def fit(lm, tmp_path, tokenizer):
    """Fine-tunes what `lm compress` has made of a tiny GPT or BERT: `fit("chats", 4, "--trainer.…")`."""

    def run(kind: str, bits: int, *more: object, command: str = "fit", name: str = "a"):
        data, task, start = {
            "chats": ("ChatData", "InstructionTuning", "gpt"),
            "texts": ("TextData", "SequenceClassification", "bert"),
        }[kind]
        base = tmp_path / f"{start}-int{bits}.ckpt"
        if not base.exists():
            write_start(tmp_path / f"{start}.ckpt", start, tokenizer)
            save(quantise(open_model(tmp_path / f"{start}.ckpt"), bits), base)
        words = [f"--model=lm.tasks.{task}", f"--model.init_from={base}", f"--data=lm.data.{data}"]
        for number, part in enumerate(("train", "val", "test")):
            path = write(tmp_path / f"{part}.jsonl", rows_of(kind, (26, 6, 7)[number], 100 * number))
            words.append(f"--data.{part}={path}")
        words += ["--data.seq_len=48", "--data.batch_size=4", "--model.adapter.rank=2", "--model.dropout=0.1"]
        words += [
            "--model.optimizer=torch.optim.AdamW",
            "--model.optimizer.lr=0.003",
            "--trainer.max_steps=4",
        ]
        words += ["--trainer.accelerator=cpu", "--trainer.logger=false", "--trainer.val_check_interval=2"]
        return lm(command, *words, f"--name={name}", *more)

    return run


def content(path: str) -> dict:
    return torch.load(path, weights_only=True)


@pytest.mark.parametrize(("bits", "kind"), [(8, "lora"), (4, "dora")])
def test_a_run_beside_integers(fit, lm, tmp_path, monkeypatch, bits, kind):
    """What it keeps, and that each of its files is the base's floats with the adapter."""
    # The kernel that multiplies few rows has activations in bf16: the run's own test would differ by that.
    monkeypatch.setattr(QuantisedLinear, "fits_kernel", lambda self: False)
    done = fit("chats", bits, f"--model.adapter.kind={kind}")
    assert done.status == 0, done.err
    base = tmp_path / f"gpt-int{bits}.ckpt"
    assert f"starting from {base}, whose layers stay integers of {bits} bits" in done.err
    run = Path("checkpoints/a")
    for name in ("last.ckpt", "best.ckpt"):
        kept = content(run / name)
        made = kept["lm"]["quantised"]
        assert made["bits"] == bits and all(each.endswith(".base_layer") for each in made["layers"])
        for each in made["layers"]:
            assert not kept["state_dict"][f"net.{each}.values"].is_floating_point()
            assert f"net.{each}.weight" not in kept["state_dict"]
    start = content(base)
    for each in start["lm"]["quantised"]["layers"]:
        before, after = (
            start["state_dict"][f"net.{each}.values"],
            kept["state_dict"][f"net.{each}.base_layer.values"],
        )
        assert torch.equal(before, after), "the base is what it was"
    assert (run / "adapter.ckpt").stat().st_size < (run / "best.ckpt").stat().st_size / 2

    # Merged by hand.
    floats, weights = open_model(base).weights, kept["state_dict"]
    merged = open_model(run / "best.ckpt")
    assert not merged.record["quantised"] and not merged.notes
    for each in start["lm"]["quantised"]["layers"]:
        small = {part: weights[f"net.{each}.lora_{part}.default.weight"] for part in "AB"}
        whole = floats[f"{each}.weight"] + 16 / 2 * small["B"] @ small["A"]
        if kind == "dora":
            whole *= (weights[f"net.{each}.lora_magnitude_vector.default.weight"] / whole.norm(dim=1))[
                :, None
            ]
        assert torch.equal(merged.weights[f"{each}.weight"], whole)
    joined = open_model(run / "adapter.ckpt")
    assert open_tokenizer(run / "adapter.ckpt").fingerprint == joined.tokenizer.fingerprint
    assert merged.weights.keys() == joined.weights.keys()
    assert all(torch.equal(merged.weights[each], joined.weights[each]) for each in merged.weights)

    # Commands. Alone, elsewhere, best.ckpt brings its configuration.
    (tmp_path / "alone.ckpt").write_bytes((run / "best.ckpt").read_bytes())
    words = ("hi", "--temperature=0", "--tokens=4")
    answers = [lm("chat", run / name, *words) for name in ("best.ckpt", "adapter.ckpt")]
    assert answers[0].status == 0 and answers[0].out == answers[1].out, answers
    tested = json.loads((run / "summary.json").read_text())["test_loss"]
    save(quantise(merged), tmp_path / "again.ckpt")
    for path in (run, "alone.ckpt", "again.ckpt"):
        measured = lm("test", path)
        assert measured.status == 0, measured.err
        assert float(measured.out.split("loss ")[1].split(",")[0]) == pytest.approx(
            tested, abs=5e-2 if path == "again.ckpt" else 2e-4
        )
    for name in ("best.ckpt", "adapter.ckpt"):
        assert f"{bits} bits" in lm("info", run / name).out
    refused = lm("export", run / "adapter.ckpt", "no", "--base", "gpt.ckpt")  # the floats that it was made of
    assert refused.status == 1 and "is for another model than" in said(refused)


def test_stopped_in_the_middle_it_goes_on_to_the_last_bit(fit, tmp_path):
    """Some layers with an adapter and some without; a new head; dropout."""
    (tmp_path / "stop.py").write_text(STOP)
    words = ("--trainer.max_steps=9", "--model.freeze_layers=1", "--model.adapter.dropout=0.1")
    assert (whole := fit("texts", 4, *words, name="whole")).status == 0, whole.err
    cut = fit("texts", 4, *words, "--trainer.callbacks+=stop.Stop", name="cut")
    assert cut.status == 143, cut.err
    again = fit("texts", 4, *words, name="cut")
    assert again.status == 0 and "goes on from step 5" in again.err, again.err
    left, right = (content(f"checkpoints/{name}/last.ckpt") for name in ("whole", "cut"))
    assert left["state_dict"].keys() == right["state_dict"].keys()
    assert all(torch.equal(left["state_dict"][key], right["state_dict"][key]) for key in left["state_dict"])
    layers = left["lm"]["quantised"]["layers"]
    assert {each.endswith(".base_layer") for each in layers} == {True, False}
    # Layers without an adapter stay integers where they are used, and become floats where they are trained.
    rest = open_model("checkpoints/cut", integers=True).record["quantised"]["layers"]
    assert rest == [each for each in layers if not each.endswith(".base_layer")]
    assert not open_model("checkpoints/cut").record.get("quantised")
    assert not open_model("checkpoints/cut/adapter.ckpt").record.get("quantised")


def test_a_classifier_beside_integers(fit, lm):
    assert fit("texts", 8).status == 0
    run = Path("checkpoints/a")
    rows = [
        lm("classify", path, "parser value", "--json").out
        for path in (run / "best.ckpt", run / "adapter.ckpt")
    ]
    assert rows[0] == rows[1] != ""


def test_without_an_adapter_they_become_floats(fit, tmp_path):
    done = fit("texts", 4, "--model.adapter=null")
    assert done.status == 0, done.err
    assert "were rounded to 4 bits" in done.err and "stay integers" not in done.err
    assert "quantised" not in content("checkpoints/a/last.ckpt")["lm"]


def test_bad_input(fit, lm, tmp_path):
    assert fit("texts", 4).status == 0
    best = fit("texts", 4, "--ckpt_path=checkpoints/a/best.ckpt", name="b")
    assert best.status and "holds weights to use, not a state to train on: take last.ckpt" in said(best)
    refused = fit("texts", 4, f"--ckpt_path={tmp_path / 'bert-int4.ckpt'}", name="c")
    assert refused.status and "is quantised, which can't be trained on" in said(refused)
    (tmp_path / "bert-int4.ckpt").unlink()
    gone = lm("classify", "checkpoints/a/adapter.ckpt", "x")
    assert gone.status == 1 and "best.ckpt needs none" in said(gone)
    assert lm("classify", "checkpoints/a/best.ckpt", "x").status == 0
