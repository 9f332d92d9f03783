"""Quantisation-aware training: layers multiply with what `quantise` would make, and what is kept is plain."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from lm.backbone import BackboneConfig, LanguageModel
from lm.backbone.linear import Linear
from lm.backbone.quantised import restored
from lm.compression import QuantisationAware, quantise
from lm.compression.rounding import to_int4, to_int8
from lm.compression.saving import save
from lm.convert import open_model
from lm.errors import UserError
from tests.run.test_finetune import STOP, rows_of, said, write, write_start

AWARE = ("--trainer.callbacks+=lm.compression.QuantisationAware", "--trainer.callbacks.bits=4")


@pytest.fixture
def working(monkeypatch):
    """A callback at work on a network of its own: `working(bits)`."""

    def make(bits: int) -> tuple[QuantisationAware, SimpleNamespace]:
        torch.manual_seed(0)
        # The inputs of `down` are no whole groups: with 4 bits it stays as it is.
        config = BackboneConfig(hidden_size=64, num_layers=2, num_heads=2, vocab_size=50, mlp_hidden_size=80)
        net = LanguageModel(config)
        task = SimpleNamespace(net=net, adapter=None, device_mesh=None, checkpoint_record=lambda: None)
        callback = QuantisationAware(bits)
        callback.on_validation_start(SimpleNamespace(global_step=0), task)
        return callback, task

    return make


@pytest.mark.parametrize("bits", [8, 4])
def test_layers_multiply_with_the_rounded_weights(working, bits):
    callback, task = working(bits)
    layers = [each for part in callback._parts for each in part]
    assert len(layers) == 2 * (7 if bits == 8 else 6)
    for layer in layers:
        expected = restored(to_int8(layer.weight) if bits == 8 else to_int4(layer.weight, 32)).detach()
        x = torch.randn(3, layer.in_features)
        plain = Linear(*reversed(expected.shape), bias=False)
        plain.weight.data = expected
        (y := layer(x)).square().sum().backward()
        (z := plain(x)).square().sum().backward()
        assert torch.equal(y, z) and torch.equal(layer.weight.grad, plain.weight.grad)
        with torch.inference_mode():
            assert torch.equal(layer(x), z)
    names = set(task.net.state_dict())
    callback.teardown(None, task, "fit")
    assert {type(each) for each in layers} == {Linear} and set(task.net.state_dict()) == names
    assert not any(hasattr(each, "rounded") for each in layers)


def test_they_are_rounded_anew_after_each_step(working):
    callback, task = working(4)
    layer = callback._parts[0][0]
    before = layer.rounded.clone()
    with torch.no_grad():
        layer.weight.mul_(2)
    callback.on_train_batch_start(SimpleNamespace(global_step=0), task, {}, 1)
    assert torch.equal(layer.rounded, before), "a part of the same step"
    callback.on_train_batch_start(SimpleNamespace(global_step=1), task, {}, 2)
    assert not torch.equal(layer.rounded, before)


def test_validation_sees_the_quantised_checkpoint(lm, tiny_gpt, tmp_path):
    done = lm("fit", *tiny_gpt, *AWARE, "--name=a")
    assert done.status == 0, done.err
    assert "rounded to 4 bits" in done.err
    run = Path("checkpoints/a")
    found = json.loads((run / "summary.json").read_text())["val_loss"]
    model = open_model(run)
    assert all(each.is_floating_point() for each in model.weights.values())
    for bits in (4, 8):
        save(quantise(model, bits), tmp_path / f"int{bits}.ckpt")
    losses = {}
    for path in (run, "int4.ckpt", "int8.ckpt"):
        measured = lm("validate", path)
        assert measured.status == 0, measured.err
        losses[path] = float(measured.out.split("loss ")[1].split(",")[0])
    assert losses[run] == losses["int4.ckpt"] == pytest.approx(found, abs=6e-5) != losses["int8.ckpt"]


def test_stopped_in_the_middle_it_goes_on_to_the_last_bit(lm, tiny_gpt, tmp_path):
    (tmp_path / "stop.py").write_text(STOP)
    words = (*tiny_gpt, *AWARE, "--trainer.max_steps=8", "--trainer.val_check_interval=3")
    for name, more in (("whole", ()), ("cut", ("--trainer.callbacks+=stop.Stop",)), ("cut", ())):
        done = lm("fit", *words, *more, f"--name={name}")
        assert done.status == (143 if more else 0), done.err
    assert "goes on from step 5" in done.err
    whole, cut = (
        torch.load(f"checkpoints/{name}/last.ckpt", weights_only=True)["state_dict"]
        for name in ("whole", "cut")
    )
    assert whole.keys() == cut.keys() and all(torch.equal(whole[each], cut[each]) for each in whole)


def test_bad_input(lm, tiny_gpt, tmp_path, tokenizer):
    for bits, group in ((3, None), (4, 48), (8, 32)):
        with pytest.raises(UserError, match=f"bits {bits}, group .*: 4 bits have groups of 32"):
            QuantisationAware(bits, group)
    refused = lm("fit", *tiny_gpt, *AWARE, "--trainer.callbacks.group=256")
    assert refused.status == 2 and "no linear layer's inputs are groups of 256" in said(refused)
    pytest.importorskip("peft")
    save(
        quantise(open_model(write_start(tmp_path / "gpt.ckpt", "gpt", tokenizer)), 4), tmp_path / "int4.ckpt"
    )
    words = ["--model=lm.tasks.InstructionTuning", "--model.init_from=int4.ckpt", "--data=lm.data.ChatData"]
    words += [
        f"--data.{part}={write(tmp_path / f'{part}.jsonl', rows_of('chats', 4))}" for part in ("train", "val")
    ]
    words += [
        "--data.seq_len=32",
        "--trainer.max_steps=2",
        "--trainer.accelerator=cpu",
        "--model.adapter.rank=2",
    ]
    refused = lm("fit", *words, *AWARE)
    assert refused.status == 2 and "trains the layers themselves: leave `model.adapter` out" in said(
        refused
    ), refused
