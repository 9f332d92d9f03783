"""Masks from learned queries: the loss beside transformers', and through the command."""

import json

import pytest
import torch
from transformers.models.mask2former import modeling_mask2former as theirs

import lm as package
from lm.processors.pictures import VOID
from lm.tasks.image.mask_queries import QueryMasks, differences
from lm.tasks.image.squares import Squares
from tests.tasks.test_segmentation import folder, mean_iou  # noqa: F401 - a fixture

QUERIES = ("--config=c.yaml", "--model.head=queries", "--model.queries=8")


@pytest.fixture
def reader():
    return QueryMasks(classes=3, queries=5, squares=Squares(2, (4, 6), 8, (30, 44)))


@pytest.fixture
def drawn(reader):
    """Random outputs of three pictures, of which the last shows one class, and void."""
    rng = torch.Generator().manual_seed(0)
    mask = torch.randint(3, (3, 30, 44), generator=rng).to(torch.uint8)
    mask[1, :10], mask[2] = VOID, 1
    mask[2, 20:] = VOID
    return torch.randn(3, 2 + 24 + 5, reader.outputs, generator=rng), mask


def test_pairs_differ_by_what_transformers_says():
    rng = torch.Generator().manual_seed(0)
    masks, things = torch.randn(1, 4, 60, generator=rng), torch.rand(1, 3, 60, generator=rng) > 0.5
    pixels, dice = differences(masks, things, torch.ones(1, 60, dtype=torch.bool))
    wanted = things[0].float()
    torch.testing.assert_close(pixels[0], theirs.pair_wise_sigmoid_cross_entropy_loss(masks[0], wanted))
    torch.testing.assert_close(dice[0], theirs.pair_wise_dice_loss(masks[0], wanted))
    # Pixels that don't count are as if they were not there.
    counted = torch.rand(1, 60, generator=rng) > 0.4
    some = differences(masks, things & counted[:, None], counted)
    left = differences(masks[..., counted[0]], things[..., counted[0]], counted[:, counted[0]])
    torch.testing.assert_close(some, left)


def test_the_loss_is_that_of_transformers(reader, drawn):
    """Matched by their costs, and summed over their losses, at each pixel that counts."""
    outputs, mask = drawn
    ours = reader.losses(outputs, mask)
    for row in (0, 2):
        logits, masks = reader.read(outputs[row, None])
        known = mask[row] != VOID
        labels = mask[row][known].unique().long()
        there = (mask[row][known] == labels[:, None]).float()  # (n, pixels)
        masks = masks[..., known]
        cost = 5 * theirs.pair_wise_sigmoid_cross_entropy_loss(masks[0], there)
        cost = cost + 5 * theirs.pair_wise_dice_loss(masks[0], there) - 2 * logits[0].softmax(-1)[:, labels]
        queries, things = theirs.linear_sum_assignment(cost.numpy())
        wanted = torch.full((5,), 3)
        wanted[queries] = labels[things]
        weight = torch.tensor([1.0, 1, 1, 0.1])
        summed = 2 * torch.nn.functional.cross_entropy(logits[0], wanted, weight, reduction="sum")
        pairs = masks[0, queries], there[things], 1
        summed = summed + 5 * theirs.sigmoid_cross_entropy_loss(*pairs) + 5 * theirs.dice_loss(*pairs)
        torch.testing.assert_close(ours[row], summed)
    assert reader.targets(mask).tolist() == [3, 3, 1]


def test_void_pixels_count_nowhere_and_other_pictures_change_nothing(reader, drawn):
    outputs, mask = drawn
    losses = reader.losses(outputs, mask)
    torch.testing.assert_close(reader.losses(outputs[2:], mask[2:]), losses[2:])
    changed = outputs.clone()
    changed[2, -5 - 6 : -5] += 3  # the lowest row of positions, of which rows 24 and below are
    assert torch.allclose(reader.losses(changed, mask), losses)
    nothing = torch.full_like(mask, VOID)
    assert reader.losses(outputs, nothing).isfinite().all() and not reader.targets(nothing).any()


def test_of_perfect_outputs_the_labels_are_the_truth(reader):
    """Query n says class n, by a vector that only squares of the class have."""
    whole = torch.zeros(1, 32, 48, dtype=torch.uint8)
    whole[:, :8, :16], whole[:, 16:24, 24:] = 1, 2
    mask = whole[:, :30, :44]
    outputs = torch.zeros(1, 24 + 5, reader.outputs)
    queries, positions = outputs[0, 24:], outputs[0, :24]
    queries[:, 3] = 30.0
    for label in range(3):
        queries[label, 3], queries[label, label] = 0.0, 30.0
        queries[label, 4 : 4 + 64] = -1.0
        queries[label, 4 + label] = 3.0
    squares = torch.zeros(24, 64, 4)
    middle = whole[0, 4::8, 4::8].flatten().long()
    squares[torch.arange(24), middle] = 30.0
    positions[:, 4 + 64 :] = squares.flatten(1)
    labels = reader.scores(outputs).argmax(1)
    assert ((labels == mask) | _edge(mask)).all()
    wrong = outputs.clone()
    wrong[0, 24:, :3] = 0.0
    assert reader.losses(outputs, mask) < 0.3 * reader.losses(wrong, mask)


def _edge(mask):
    """Pixels next to a border between classes, where squares are interpolated."""
    wide = torch.nn.functional.max_pool2d(mask[:, None].float(), 5, 1, 2)
    thin = -torch.nn.functional.max_pool2d(-mask[:, None].float(), 5, 1, 2)
    return (wide != thin)[:, 0]


def test_it_learns_and_opens_again(lm, folder):  # noqa: F811
    result = lm("fit", *QUERIES, "--trainer.max_epochs=20", "--trainer.val_check_interval=100")
    assert result.status == 0, result.err
    run = folder / "checkpoints/street"
    figures = json.loads((run / "summary.json").read_text())
    assert figures["test_mean_iou"] > 0.8, figures
    model = package.load(run / "best.ckpt")
    assert figures["test_mean_iou"] == pytest.approx(mean_iou(model), abs=1e-4)
    assert model.task("segment").queries == 8
