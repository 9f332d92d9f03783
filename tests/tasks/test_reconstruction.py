"""Masked patches: what is covered, what is asked for, and that it is of use."""

import json
from pathlib import Path

import pytest
import torch
import yaml

import lm as package
from lm.backbone import BackboneConfig, FeatureMaps, Frames, Patches
from lm.errors import UserError
from lm.processors.images import ImageProcessor
from lm.tasks.image.pretraining import MaskedImagePretraining
from lm.tasks.reconstruction import normalised

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
SHAPE = {"hidden_size": 32, "num_layers": 1, "num_heads": 2, "causal": False, "positions": "none"}
SHAPE |= {"init_std": 0.1, "norm": "layer", "bias": True}
DATA = {"class_path": "lm.data.ImageData", "init_args": {"train": "digits!train", "size": 8, "limit": 300}}
CONFIG = {
    "name": "covered",
    "data": DATA,
    "model": {
        "class_path": "lm.tasks.MaskedImagePretraining",
        "init_args": {
            "backbone": SHAPE,
            "input": {"class_path": "lm.backbone.Patches", "init_args": {"patch_size": 2}},
            "optimizer": {"class_path": "lm.optim.Muon"},
        },
    },
    "trainer": {"accelerator": "cpu", "precision": "32-true", "max_epochs": 4, "log_every_n_steps": 1},
    "checkpoint": {"every_n_steps": 5},
}


@pytest.mark.parametrize(
    ("input", "raw"),
    [
        (Patches(4, size=(8, 12)), torch.arange(2 * 3 * 8 * 12).view(2, 3, 8, 12)),
        (Patches(4, size=(8, 12)), torch.arange(2 * 3 * 7 * 10).view(2, 3, 7, 10)),
        (Frames(bins=5, max_frames=20), torch.arange(2 * 5 * 12).view(2, 5, 12)),
        (Frames(bins=5, max_frames=20), torch.arange(2 * 5 * 11).view(2, 5, 11)),
    ],
)
def test_covered_blocks_are_zero_and_the_others_as_they_were(input, raw):
    network = input.make(BackboneConfig(**SHAPE))
    raw = raw.float() + 1
    blocks = network.blocks(raw)
    hidden = torch.rand(blocks.shape[:2], generator=torch.Generator().manual_seed(1)) < 0.5
    covered = network.covered(raw, hidden)
    assert covered.shape == raw.shape and blocks.shape[1] == network(raw).shape[1]
    after = network.blocks(covered)
    assert not after[hidden].any() and torch.equal(after[~hidden], blocks[~hidden])
    assert blocks.sum() == raw.sum()  # each value once


def test_as_much_is_covered_as_is_said_and_the_draw_alone_decides_what():
    for span, rate in ((1, 0.6), (2, 0.5), (4, 0.75)):
        task = MaskedImagePretraining(BackboneConfig(**SHAPE), Patches(4, size=(64, 64)), rate, span)
        batch = {"pixels": torch.zeros(3, 3, 64, 64)}
        hidden = task.hidden(batch, torch.tensor([5, 6, 5]))
        assert (hidden.float().mean(1) - rate).abs().max() < 0.03
        assert torch.equal(hidden[0], hidden[2]) and not torch.equal(hidden[0], hidden[1])
        blocks = hidden.view(3, 16 // span, span, 16 // span, span)
        assert (blocks.any(4).any(2) == blocks.all(4).all(2)).all()  # of a block all or none


@pytest.mark.parametrize(("size", "side"), [((8, 12), 4), ((7, 10), 4), ((6, 6), 2)])
def test_blocks_become_pixels_again(size, side):
    task = MaskedImagePretraining(BackboneConfig(**SHAPE), Patches(side, size=size))
    pixels = torch.randn(2, 3, *size)
    blocks = task.make_input().blocks(pixels)
    assert blocks.shape[2] == task.block_size and torch.equal(task.joined(blocks, pixels), pixels)


@pytest.mark.parametrize(
    ("name", "after", "raw"),
    [
        ("cifar10-masked", "cifar10", ("train", "size", "mean", "std")),
        ("sounds-masked", "fsdd", ("train", "rate", "bins", "scale", "norm")),
    ],
)
def test_what_is_pretrained_has_the_shape_and_the_numbers_of_what_starts_from_it(name, after, raw):
    trees = [
        yaml.safe_load((CONFIGS / path).read_text())
        for path in (f"pretrain/{name}.yaml", f"finetune/{after}.yaml")
    ]
    assert trees[0]["name"] == name and trees[0]["data"]["init_args"]["label"] is None
    for key in ("backbone", "input"):
        first, second = (tree["model"]["init_args"][key] for tree in trees)
        assert first == second
    for key in raw:
        first, second = (tree["data"]["init_args"].get(key) for tree in trees)
        assert first == second


def test_blocks_are_normalised_each_by_itself():
    blocks = torch.randn(7, 12) * torch.rand(7, 1) * 9 + torch.randn(7, 1)
    made, mean, std = normalised(blocks)
    assert made.mean(-1).abs().max() < 1e-5 and (made.var(-1) - 1).abs().max() < 1e-2
    torch.testing.assert_close(made * std + mean, blocks)
    assert normalised(torch.ones(2, 12))[0].isfinite().all()  # of one colour


@torch.no_grad()
def test_a_batch_of_padding_goes_through_the_network_and_counts_for_nothing():
    """Sharded weights wait for every process."""
    task = MaskedImagePretraining(BackboneConfig(**SHAPE), Patches(2, size=(8, 8)))
    task.processor = ImageProcessor((8, 8))
    task.net, passes = task.make_network().eval(), []
    task.make_figures()
    task.net.register_forward_hook(lambda *given: passes.append(1))
    pixels, padding = torch.randn(3, 3, 8, 8), torch.tensor([-1, -1, -1])
    task.validation_step({"pixels": pixels, "index": torch.tensor([5, 6, -1])}, 1)
    task.validation_step({"pixels": pixels, "index": padding}, 2)
    mixed = task.figures()["loss"]
    task.validation_step({"pixels": pixels[:2], "index": torch.tensor([5, 6])}, 1)
    assert len(passes) == 3 and mixed == pytest.approx(float(task.figures()["loss"]), rel=1e-5)


def test_a_cnn_has_no_blocks():
    with pytest.raises(UserError, match="patches that do not overlap"):
        MaskedImagePretraining(BackboneConfig(**SHAPE), FeatureMaps(model="efficientnet-lite0"))


def test_it_learns_goes_on_and_is_what_another_starts_from(lm, ends_alike_though_killed, tmp_path):
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(CONFIG))
    whole, _ = ends_alike_though_killed("--config=c.yaml", at="step 16/", saved=15)
    summary = json.loads((whole / "summary.json").read_text())
    assert summary["best_val_loss"] < 0.9  # 1 is what one gets who knows a block's mean alone
    start = package.load(whole / "best.ckpt").model
    words = ("digits", f"--model.init_from={whole}/best.ckpt", "--trainer.max_steps=2", "--name=after")
    result = lm("fit", *words, "--data.limit=64", "--trainer.precision=32-true", "--model.optimizer.lr=0")
    assert result.status == 0 and f"starting from {whole}/best.ckpt; new: head" in result.err, result.err
    after = package.load("checkpoints/after/best.ckpt").model
    name = "backbone.blocks.0.attention.output.weight"
    assert torch.equal(after.weights[name], start.weights[name]) and after.record["input"]["patch_size"] == 2
    refused = lm("classify", whole / "best.ckpt", "a.png")
    assert "a network pretrained on pictures: use `lm fit --model.init_from`" in refused.err
    for option, words in (
        ("mask_rate=1", "mask_rate is 1"),
        ("span=0", "span is 0"),
        ("input.stride=1", "patches that do not overlap"),
    ):
        assert words in lm("fit", "--config", "c.yaml", f"--model.{option}").err
