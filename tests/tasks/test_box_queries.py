"""Boxes from learned queries: the loss beside transformers', and through the command."""

import json
from itertools import islice

import pytest
import torch
import transformers.loss.loss_for_object_detection as theirs
import yaml
from transformers.image_transforms import center_to_corners_format

import lm as package
from lm.backbone import BackboneConfig, Classifier, FeatureMaps, Patches, read_input
from lm.data.images.detection import BoxedExample, DetectionData
from lm.metrics import DetectionScores
from lm.optim import Muon, parameter_groups
from lm.processors.images import ImageProcessor
from lm.tasks.image.detection import BoxCollate
from lm.tasks.image.queries import QueryBoxes
from tests.tasks.test_object_detection import BACKBONE, CONFIG, scene, write

SIZE = (48, 64)
STEPS = 400
QUERIES = ("--config=c.yaml", "--model.head=queries", "--model.queries=12")


@pytest.fixture
def reader():
    return QueryBoxes(classes=4, queries=20, size=SIZE)


@pytest.fixture
def drawn(reader):
    """Random outputs of three pictures; on the last one there is nothing."""
    rng = torch.Generator().manual_seed(0)
    start = torch.rand(3, 6, 2, generator=rng) * torch.tensor([40.0, 30])
    true = torch.cat((start, start + 2 + 18 * torch.rand(3, 6, 2, generator=rng)), -1)
    labels = torch.randint(4, (3, 6), generator=rng)
    labels[1, 3:], labels[2] = -1, -1
    return torch.randn(3, 30, reader.outputs, generator=rng), true, labels


def test_the_loss_is_that_of_transformers(reader, drawn, monkeypatch):
    outputs, true, labels = drawn
    monkeypatch.setattr(theirs, "center_to_corners_format", center_to_corners_format, raising=False)
    loss = theirs.ImageLoss(theirs.HungarianMatcher(1, 5, 2), 4, 0.1, ["labels", "boxes"])
    ours = reader.losses(*drawn)
    for row, there in enumerate(labels >= 0):
        logits, boxes = reader.read(outputs[row, None])
        shares = reader.shares(true[row, there])
        middle = (true[row, there, :2] + true[row, there, 2:]) / 2 / torch.tensor([64.0, 48])
        assert torch.allclose(shares[:, :2], middle)
        found = loss(
            {"logits": logits, "pred_boxes": boxes}, [{"class_labels": labels[row, there], "boxes": shares}]
        )
        things = int(there.sum())
        # Theirs are means: over the weights of all queries, and over things.
        summed = found["loss_ce"] * (things + 0.1 * (20 - things))
        summed = summed + max(things, 1) * (5 * found["loss_bbox"] + 2 * found["loss_giou"])
        torch.testing.assert_close(ours[row], summed)


def test_neither_the_order_of_things_nor_padding_changes_the_loss(reader, drawn):
    outputs, true, labels = drawn
    losses = reader.losses(*drawn)
    order = torch.tensor([4, 1, 5, 0, 2, 3])
    torch.testing.assert_close(reader.losses(outputs, true[:, order], labels[:, order]), losses)
    torch.testing.assert_close(reader.losses(outputs[1:2], true[1:2, :3], labels[1:2, :3]), losses[1:2])
    torch.testing.assert_close(reader.losses(outputs[2:], true[2:, :0], labels[2:, :0]), losses[2:])
    elsewhere = outputs.clone()
    elsewhere[:, :10] += 1  # of positions that are no queries
    assert torch.equal(reader.losses(elsewhere, true, labels), losses)


def test_more_things_than_queries_and_outputs_that_are_no_numbers(drawn):
    outputs, true, labels = drawn
    few = QueryBoxes(classes=4, queries=2, size=SIZE)
    assert few.losses(outputs, true, labels).isfinite().all()
    assert (
        few.losses(outputs * float("nan"), true, labels).isnan().all()
    )  # and no error: a guard stops the run


def test_of_perfect_outputs_what_is_found_is_the_truth(reader, drawn):
    _, true, labels = drawn
    outputs = torch.zeros(3, 30, reader.outputs)
    outputs[..., 4] = 20.0  # nothing
    place = torch.tensor([3, 17, 8, 0, 11, 5])
    for row, there in enumerate(labels >= 0):
        queries = place[: int(there.sum())] + 10
        outputs[row, queries, 4] = 0.0
        outputs[row, queries, labels[row, there]] = 20.0
        outputs[row, queries, 5:] = reader.shares(true[row, there]).logit()
    assert (reader.losses(outputs, true, labels) < 1e-3).all()
    for row, found in enumerate(reader.found(outputs)):
        there = labels[row] >= 0
        assert len(found["boxes"]) == there.sum() and (found["scores"] > 0.99).all()
        order, right = found["boxes"][:, 0].argsort(), true[row, there][:, 0].argsort()
        torch.testing.assert_close(found["boxes"][order], true[row, there][right], atol=1e-3, rtol=0)
        assert torch.equal(found["labels"][order], labels[row, there][right])


@pytest.mark.real_data
def test_two_photos_are_learned_by_heart(real_data):
    home = f"{real_data}/bccd/bccd.tar!BCCD"
    data = DetectionData(f"{home}/Annotations", files=f"{home}/JPEGImages", size=(120, 160), limit=2)
    rows = data.read(f"{home}/Annotations", "train")
    examples = list(islice((each for each in rows if isinstance(each, BoxedExample)), 2))
    names = sorted({label for each in examples for label in each.labels})
    features = [
        {"place": list(e.place), "boxes": e.boxes, "labels": [names.index(x) for x in e.labels], "draw": 0}
        for e in examples
    ]
    batch = BoxCollate(ImageProcessor((120, 160), "pad"))(features)
    torch.manual_seed(0)
    reader = QueryBoxes(len(names), 40, (120, 160))
    shape = Patches(20, size=(120, 160), stem="linear", queries=40)
    config = BackboneConfig(**{**BACKBONE, "hidden_size": 64, "num_layers": 2})
    net = Classifier(config, reader.outputs, None, embeddings=shape.make(config))
    optimizer = Muon(parameter_groups(net), lr=0.02, adamw_lr=3e-3)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, 2 - 2 * step / STEPS))
    for _ in range(STEPS):
        loss = reader.losses(net(batch["pixels"]), batch["boxes"], batch["classes"]).sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    scores = DetectionScores(names)
    there = [
        {"boxes": box[label >= 0], "labels": label[label >= 0]}
        for box, label in zip(batch["boxes"], batch["classes"], strict=True)
    ]
    with torch.no_grad():
        scores.update(reader.found(net(batch["pixels"])), there)
    assert scores.compute()["map_50"] > 0.9


@pytest.fixture
def folder(tmp_path, monkeypatch):
    write(tmp_path, "train", range(24))
    write(tmp_path, "test", range(100, 108))
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(CONFIG))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_checkpoint_opens_again_and_finds_what_was_measured(lm, folder):
    result = lm("fit", *QUERIES, "--trainer.max_epochs=12", "--trainer.val_check_interval=12")
    assert result.status == 0, result.err
    run = folder / "checkpoints/things"
    figures = json.loads((run / "summary.json").read_text())
    photos = [f"photos/{number}.png" for number in range(100, 108)]
    words = (*photos, "--threshold", "0", "--json")
    rows = [json.loads(line)["boxes"] for line in lm("detect", run / "best.ckpt", *words).out.splitlines()]
    assert all(0 < len(row) <= 12 for row in rows)
    scores, names = DetectionScores(["blue", "red"]), {"blue": 0, "red": 1}
    for row, number in zip(rows, range(100, 108), strict=True):
        things = [([x, y, x + w, y + h], names[colour]) for (x, y, w, h), colour in scene(number)[1]]
        found = {
            "boxes": torch.tensor([each["box"] for each in row]),
            "scores": torch.tensor([each["score"] for each in row]),
            "labels": torch.tensor([names[each["label"]] for each in row]),
        }
        there = {
            "boxes": torch.tensor([box for box, _ in things], dtype=torch.float32).view(-1, 4),
            "labels": torch.tensor([label for _, label in things]),
        }
        scores.update([found], [there])
    assert figures["test_map_50"] == pytest.approx(scores.compute()["map_50"].item(), abs=0.01)
    task = package.load(run / "best.ckpt").task("detect")
    assert task.queries == task.input.queries == 12 and task.positions == 48 + 12
    assert task.net.backbone.embeddings.queries.weight.shape == (12, 32)


def test_killed_it_goes_on_to_the_last_bit(ends_alike_though_killed, folder):
    words = (*QUERIES, "--data.num_workers=1", "--trainer.max_epochs=6")
    ends_alike_though_killed(*words, at="step 14/", saved=10)


def test_from_a_dense_head_to_queries_and_back(lm, folder):
    """The rest is taken over; queries are trained though an adapter freezes what it stands beside."""
    short = ("--config=c.yaml", "--trainer.max_epochs=1", "--trainer.val_check_interval=3")
    assert lm("fit", *short, "--name=dense").status == 0
    start = ("--model.init_from=checkpoints/dense/best.ckpt", "--model.adapter.kind=lora")
    result = lm("fit", *short, *QUERIES[1:], *start, "--name=asked")
    assert result.status == 0 and "12 queries are new" in result.err, result.err
    dense, asked = (package.load(f"checkpoints/{name}/best.ckpt") for name in ("dense", "asked"))
    same = "backbone.embeddings.patches.0.weight"
    assert torch.equal(dense.model.weights[same], asked.model.weights[same])
    words = ("photos/101.png", "--threshold", "0", "--json")
    whole, beside = (lm("detect", f"checkpoints/asked/{name}.ckpt", *words) for name in ("best", "adapter"))
    assert whole.out == beside.out and json.loads(whole.out)["boxes"], beside.err
    adapter = torch.load("checkpoints/asked/adapter.ckpt", weights_only=True)["state_dict"]
    assert "net.backbone.embeddings.queries.weight" in adapter
    back = lm("fit", *short, "--model.init_from=checkpoints/asked/best.ckpt", "--name=back")
    assert back.status == 0, back.err
    assert package.load("checkpoints/back/best.ckpt").task("detect").queries == 0


def test_a_map_of_features_has_queries_behind_it(tmp_path):
    config = {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}
    shape = FeatureMaps(config={**config, "layer_type": "basic", "num_channels": 3}, queries=5)
    body = BackboneConfig(**BACKBONE)
    made, pictures = shape.make(body).eval(), torch.randn(2, 3, 32, 48)
    hidden = made(pictures)
    assert hidden.shape[1] == shape.length(32, 48) == 4 * 6 + 5
    assert torch.equal(hidden[1, -5:], made.queries.weight)
    assert read_input(shape.described()) == shape


def test_settings_that_make_no_sense(lm, folder):
    refused = lm("fit", *QUERIES[:2], "--model.queries=0")
    assert refused.status == 2 and "queries is 0: it must be at least 1" in refused.err
