"""Two processes learn from pictures and sounds what one does, varied at random as they are."""

import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from ..conftest import CONFIGS, scalars
from . import test_image_classification as pictures
from . import test_speech_recognition as speech

# Plain gradient descent: a gradient that is not shared shows in it. Nothing is dropped, which each process
# draws for itself, nor mixed, which goes by who shares a batch.
SGD = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}}
PLAIN = (
    "--model.backbone.dropout=0",
    "--trainer.gradient_clip_val=0",
    "--trainer.max_steps=6",
    "--trainer.val_check_interval=3",
)
TWO = (
    f"--config={CONFIGS}/trainer/ddp.yaml",
    "--trainer.accelerator=cpu",
    "--trainer.precision=32-true",
    "--trainer.devices=2",
    "--data.batch_size=4",  # of 8
)
# A CNN of which only a part is used: batch norms, and weights to which no gradient comes.
CNN = {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}
LEVELS = json.loads(json.dumps(pictures.CONFIG))
LEVELS["model"]["init_args"]["input"] = {
    "class_path": "lm.backbone.FeatureMaps",
    "init_args": {"config": {**CNN, "layer_type": "basic"}, "levels": ["encoder.stages.0"]},
}


def write_pictures(folder: Path) -> None:
    """60 pictures to learn from and 21 to test on, which no batch on each process comes out even with."""
    with tarfile.open(folder / "pictures.tar", "w") as archive:
        for part, numbers in (("train", range(20)), ("test", range(100, 107))):
            for colour in pictures.COLOURS:
                for number in numbers:
                    data = pictures.picture(colour, number)
                    pictures.add(archive, f"{part}/{colour}/{number:03}.png", data)


@pytest.mark.parametrize(
    ("write", "config", "more"),
    [
        (write_pictures, pictures.CONFIG, ("--model.mixup=0", "--model.cutmix=0")),
        (write_pictures, LEVELS, ("--model.mixup=0", "--model.cutmix=0")),
        (speech.write, speech.CONFIG, ()),
    ],
    ids=["pictures", "levels", "speech"],
)
def test_two_processes_learn_what_one_does(lm, start_lm, tmp_path, write, config, more):
    write(tmp_path)
    config = json.loads(json.dumps(config))
    config["model"]["init_args"]["optimizer"] = SGD
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
    words = ("--config=c.yaml", *PLAIN, *more)
    one = lm("fit", *words, "--name=one")
    assert one.status == 0, one.err
    two = start_lm("fit", *words, *TWO, "--name=two")
    _, err = two.communicate()
    assert two.returncode == 0, err
    runs = [tmp_path / "checkpoints" / name for name in ("one", "two")]
    ours, theirs = (torch.load(run / "last.ckpt", weights_only=True)["state_dict"] for run in runs)
    assert ours.keys() == theirs.keys()
    for key in ours:
        torch.testing.assert_close(ours[key], theirs[key], rtol=0, atol=1e-5)
    losses, figures = [scalars(run) for run in runs], [measured(run) for run in runs]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4) and len(losses[0]) == 6
    assert figures[0] == pytest.approx(figures[1], rel=1e-4) and "test_loss" in figures[0]


@pytest.mark.parametrize(
    ("write", "config"), [(write_pictures, LEVELS), (speech.write, speech.CONFIG)], ids=["levels", "speech"]
)
def test_sharded_it_learns_in_bf16(start_lm, tmp_path, write, config):
    write(tmp_path)
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
    words = ("--config=c.yaml", *PLAIN, f"--config={CONFIGS}/trainer/fsdp.yaml", *TWO[1:])
    run = start_lm("fit", *words, "--name=two")
    _, err = run.communicate()
    assert run.returncode == 0, err
    losses = scalars(tmp_path / "checkpoints/two")
    assert len(losses) == 6 and losses[6] < losses[1]


def measured(run: Path) -> dict[str, Any]:
    """What a run's validation and test have found."""
    facts = json.loads((run / "summary.json").read_text())
    return {name: value for name, value in facts.items() if name.startswith(("val_", "test_", "best_"))}


def test_two_processes_write_one_row_of_a_long_sound(lm, start_lm, tmp_path):
    """Its windows go to either."""
    speech.write(tmp_path)
    for number in range(3):
        said = np.concatenate([speech.speech(text, number) for text in speech.texts(5 * number + 4, number)])
        (tmp_path / f"sounds/long{number}.wav").write_bytes(speech.wav(said))
    lines = ["split\tid\tspeaker", *(f"test\tlong{number}\t0" for number in range(3))]
    (tmp_path / "long.tsv").write_text("\n".join(lines))
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(speech.CONFIG))
    assert lm("fit", "--config=c.yaml", *PLAIN).status == 0
    run = tmp_path / "checkpoints/speech"
    words = ("predict", run, "--data.test=long.tsv")
    assert lm(*words).status == 0
    one = (run / "predictions.jsonl").read_text().splitlines()
    two = start_lm(*words, *TWO, "--data.batch_size=1")
    _, err = two.communicate()
    assert two.returncode == 0, err
    both = [(run / f"predictions-{rank}.jsonl").read_text().splitlines() for rank in range(2)]
    assert len(one) == 3 and sorted(both[0] + both[1]) == sorted(one)
