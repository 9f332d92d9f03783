"""Sounds through the command: trained on, measured, resumed, classified."""

import io
import json
import tarfile

import numpy as np
import pytest
import torch
import yaml

import lm as package
from lm.backbone import BackboneConfig, Classifier, Frames
from lm.data.audio import Gain, SpecAugment
from lm.data.audio.module import AudioData
from lm.tasks.speech.base import SoundCollate

soundfile = pytest.importorskip("soundfile")
pytest.importorskip("soxr")

TONES = {"high": 1300, "low": 200, "middle": 600}
CONFIG = {
    "name": "sounds",
    "data": {
        "class_path": "lm.data.AudioData",
        "init_args": {
            **{
                "train": "sounds.tar!train",
                "test": "sounds.tar!test",
                "seconds": 0.5,
                "rate": 4000,
                "bins": 16,
            },
            "augment": [
                {"class_path": "lm.data.audio.Speed", "init_args": {"factors": [0.95, 1.0, 1.05]}},
                {"class_path": "lm.data.audio.Noise", "init_args": {"snr": [20.0, 40.0]}},
                {"class_path": "lm.data.audio.SpecAugment", "init_args": {"band_width": 2}},
            ],
            "batch_size": 8,
        },
    },
    "model": {
        "class_path": "lm.tasks.AudioClassification",
        "init_args": {
            "backbone": {
                **{"hidden_size": 32, "num_layers": 2, "num_heads": 2, "mlp": "gelu", "norm": "layer"},
                **{"bias": True, "causal": False, "positions": "rotary", "dropout": 0.1},
            },
            "pooling": "attention",
            "mix_layers": True,
            "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 3e-3}},
        },
    },
    "trainer": {
        **{"accelerator": "cpu", "precision": "32-true", "max_epochs": 6, "log_every_n_steps": 1},
    },
    "checkpoint": {"every_n_steps": 5},
}


def sound(kind: str, number: int) -> bytes:
    """A tone of 0.3 to 0.7 seconds in noise."""
    rng = np.random.default_rng([number, TONES[kind]])
    at = np.arange(int(rng.integers(1200, 2800))) / 4000
    samples = 0.3 * np.sin(2 * np.pi * TONES[kind] * at) + 0.02 * rng.standard_normal(len(at))
    file = io.BytesIO()
    soundfile.write(file, samples, 4000, format="FLAC")
    return file.getvalue()


def add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    archive.addfile(info, io.BytesIO(data))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An archive of sounds, 20 to learn from and 4 to test on of each kind, and the YAML."""
    with tarfile.open(tmp_path / "sounds.tar", "w") as archive:
        for part, numbers in (("train", range(20)), ("test", range(100, 104))):
            for kind in TONES:
                for number in numbers:
                    add(archive, f"{part}/{kind}/{number:03}.flac", sound(kind, number))
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(CONFIG))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_it_learns_says_what_it_hears_and_opens_anywhere(lm, folder):
    result = lm("fit", "--config", "c.yaml")
    assert result.status == 0, result.err
    assert "examples are longer than allowed: cut" in result.err
    run = folder / "checkpoints/sounds"
    figures = json.loads((run / "summary.json").read_text())
    assert figures["test_accuracy"] == figures["test_unweighted_average_recall"] == 1.0
    for kind in TONES:
        (folder / f"{kind}.flac").write_bytes(sound(kind, 300))
    assert lm("classify", run, "low.flac", "--best", "1").out.split()[1] == "low"
    assert "classifier of sounds" in json.loads(lm("info", run / "best.ckpt", "--json").out)["what for"]
    model = package.load(run / "best.ckpt")
    together = model.classify([folder / f"{kind}.flac" for kind in TONES])
    assert [row["prediction"] for row in together] == [*TONES]
    for row, kind in zip(together, TONES, strict=True):  # whoever shares the batch
        alone = model.classify(sound(kind, 300))["probabilities"]
        assert alone == pytest.approx(row["probabilities"], abs=1e-5)
    (folder / "bad.flac").write_bytes(sound("low", 300)[:50])
    assert "bad.flac" in (refused := lm("classify", run, "bad.flac")).err and refused.status == 1
    assert "use `lm classify`" in lm("transcribe", run, "low.flac").err


@pytest.mark.parametrize("workers", [0, 2])
def test_killed_it_goes_on_to_the_last_bit(ends_alike_though_killed, folder, workers):
    words = ("--config=c.yaml", "--trainer.max_steps=20", f"--data.num_workers={workers}")
    ends_alike_though_killed(*words, at="step 13/", saved=10)


def network(**head) -> Classifier:
    torch.manual_seed(0)
    shape = CONFIG["model"]["init_args"]["backbone"]
    config = BackboneConfig(**{**shape, "max_seq_len": 50, "dropout": 0.0})
    return Classifier(config, 3, embeddings=Frames(16, 100).make(config), **head).eval()


def test_a_mix_of_layers_is_a_weighted_mean():
    net, frames = network(pooling="mean", mix_layers=True), torch.randn(2, 16, 40)
    layers: list[torch.Tensor] = []
    layers.append(net.backbone(frames, layers=layers))
    assert len(layers) == 3 and torch.equal(layers[0], net.backbone.embeddings(frames))
    normed = [(x - x.mean(-1, True)) / (x.var(-1, correction=0, keepdim=True) + 1e-5).sqrt() for x in layers]
    torch.testing.assert_close(net.hidden(frames, None), sum(normed) / 3, atol=1e-5, rtol=1e-5)
    net.mix.data = torch.tensor([0.0, 50.0, 0.0])
    torch.testing.assert_close(net.hidden(frames, None), normed[1], atol=1e-5, rtol=1e-5)


def test_attention_pooling_begins_as_the_mean_and_sees_no_padding():
    net = network(pooling="attention")
    hidden, documents = torch.randn(2, 20, 32), torch.zeros(2, 20, dtype=torch.int64)
    documents[1, 12:] = -1
    first = net.summary(hidden, documents)
    torch.testing.assert_close(first[1], hidden[1, :12].mean(0))
    net.query.data.normal_()
    found = net.summary(hidden, documents)
    weights = (hidden[1, :12] @ net.query / 32**0.5).softmax(0)
    torch.testing.assert_close(found[1], weights @ hidden[1, :12])
    torch.testing.assert_close(net.summary(hidden[1:, :12], None)[0], found[1])


def test_a_batch_is_what_its_draws_say(folder):
    data = AudioData("sounds.tar!train", rate=4000, bins=16, seconds=0.5)
    collate = SoundCollate(data.make_processor(), Frames(16, 50), (Gain(), SpecAugment(band_width=4)))
    features = [{"place": list(e.place), "draw": n} for n, e in enumerate(data.examples("train")[:4])]
    batch, again = collate(features), collate(features[::-1])
    assert torch.equal(batch["frames"], again["frames"].flip(0))
    assert not torch.equal(batch["frames"], collate([{**f, "draw": 9} for f in features])["frames"])
    lengths = (batch["documents"] == 0).sum(1)
    assert batch["seconds"].max() == 0.5 and lengths.max() == 25
    for row, length in zip(batch["frames"], lengths.tolist(), strict=True):
        assert not row[:, 2 * length :].any() and row[:, 2 * length - 2].any()


@pytest.mark.real_data
def test_lora_on_a_real_whisper(whisper_tiny, folder, lm):
    """The encoder stays as it is, small matrices beside it learn, and the adapter's file opens."""
    config = json.loads(json.dumps(CONFIG))
    del config["model"]["init_args"]["backbone"]
    (folder / "c.yaml").write_text(yaml.safe_dump(config))
    words = ("--data.rate=16000", f"--model.init_from={whisper_tiny}")
    adapter = ("--model.adapter.rank=4", "--model.adapter.layers=[query,value]", "--trainer.max_steps=3")
    result = lm("fit", "--config", "c.yaml", *words, *adapter)
    assert result.status == 0, result.err
    assert "parameters are trained" in result.err
    file = folder / "checkpoints/sounds/adapter.ckpt"
    assert file.stat().st_size < 2_000_000
    (folder / "one.flac").write_bytes(sound("low", 300))
    found = package.load(file).classify(folder / "one.flac")
    assert found == package.load(folder / "checkpoints/sounds/best.ckpt").classify(folder / "one.flac")
