"""Speech through the command: learned, measured, resumed, written down. Each letter is a tone."""

import io
import json
import math
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml

import lm as package
from lm.backbone import BackboneConfig
from lm.data.audio.augment import SpecAugment
from lm.data.audio.module import SpeechData
from lm.errors import UserError
from lm.inference.ctc import Label, Likeliest, align, beam_search, greedy, words_of
from lm.tasks.speech.decoding import Decoder, open_language_model, stretches
from lm.tasks.speech.recognition import SpeechRecognition, disagreement

soundfile = pytest.importorskip("soundfile")
pytest.importorskip("soxr")

RATE = 4000
TONES = {"a": 300, "b": 700, "c": 1100, " ": 1600}
PARTS = {"train": 160, "val": 16, "test": 16}
CONFIG = {
    "name": "speech",
    "data": {
        "class_path": "lm.data.SpeechData",
        "init_args": {
            **dict.fromkeys(PARTS, "t.tsv"),
            **{"files": "sounds", "path": "{id}.wav", "part": "split", "group": "speaker"},
            **{"rate": RATE, "bins": 20, "seconds": 2.5, "norm": "utterance", "batch_size": 8},
            "augment": [
                {"class_path": "lm.data.audio.Speed", "init_args": {"factors": [0.95, 1.0, 1.05]}},
                {"class_path": "lm.data.audio.Gain"},
                {
                    "class_path": "lm.data.audio.SpecAugment",
                    "init_args": {"band_width": 1, "stretch_width": 3},
                },
            ],
        },
    },
    "model": {
        "class_path": "lm.tasks.SpeechRecognition",
        "init_args": {
            "backbone": {
                **{"hidden_size": 32, "num_layers": 1, "num_heads": 2, "mlp": "gelu", "norm": "layer"},
                **{"bias": True, "causal": False, "positions": "rotary", "dropout": 0.1},
            },
            "input": {"class_path": "lm.backbone.Frames", "init_args": {"positions": "sine"}},
            "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 1e-2}},
            "mix_layers": True,
        },
    },
    "trainer": {
        **{"accelerator": "cpu", "precision": "32-true", "max_epochs": 6, "log_every_n_steps": 1},
    },
    "checkpoint": {"every_n_steps": 5},
}


def speech(text: str, number: int = 0) -> np.ndarray:
    """Samples in which a text is said: 0.12 seconds a letter, with noise by a number."""
    rng = np.random.default_rng([number, *text.encode()])
    parts = [np.zeros(200)]
    for letter in text:
        at = np.arange(round(480 * rng.uniform(0.8, 1.2))) / RATE
        parts += [np.sin(2 * np.pi * TONES.get(letter, 0) * at) * np.hanning(len(at)), np.zeros(100)]
    samples = np.concatenate(parts)
    return (0.4 * samples + 0.01 * rng.standard_normal(len(samples))).astype(np.float32)


def wav(samples: np.ndarray) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, RATE, format="WAV")
    return file.getvalue()


def texts(count: int, seed: int) -> list[str]:
    """One to three words of one to three letters."""
    rng = np.random.default_rng(seed)
    letters = list("abc")
    return [
        " ".join("".join(rng.choice(letters, rng.integers(1, 4))) for _ in range(rng.integers(1, 4)))
        for _ in range(count)
    ]


def write(folder, config=CONFIG) -> None:
    """Sounds, the table that has their transcripts, and the YAML."""
    (folder / "sounds").mkdir()
    rows = ["split\tid\tspeaker\ttext"]
    for seed, (part, count) in enumerate(PARTS.items()):
        for number, text in enumerate(texts(count, seed)):
            (folder / f"sounds/{part}{number}.wav").write_bytes(wav(speech(text, number)))
            rows.append(f"{part}\t{part}{number}\t{number % 8}\t{text.upper()}.")
    (folder / "t.tsv").write_text("\n".join(rows))
    (folder / "c.yaml").write_text(yaml.safe_dump(config))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    write(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def shape() -> BackboneConfig:
    return BackboneConfig(**CONFIG["model"]["init_args"]["backbone"])


def test_it_learns_and_writes_down_what_is_said(lm, pipe, folder):
    result = lm("fit", "--config", "c.yaml")
    assert result.status == 0, result.err
    assert " seconds/s  " in result.err and "lm transcribe checkpoints/speech/best.ckpt" in result.out
    run = folder / "checkpoints/speech"
    figures = json.loads((run / "summary.json").read_text())
    assert figures["test_word_error_rate"] < 0.1 and figures["test_character_error_rate"] < 0.05
    assert figures["best_val_word_error_rate"] < 0.1

    assert lm("predict", "checkpoints/speech").status == 0
    rows = [json.loads(line) for line in (run / "predictions.jsonl").open()]
    assert [row["path"] for row in rows] == [f"test{n}.wav" for n in range(16)]
    assert sum(row["text"].upper() + "." == row["label"] for row in rows) >= 13
    assert "classes" not in (facts := json.loads(lm("info", run / "best.ckpt", "--json").out))
    assert "recogniser of speech" in facts["what for"]

    said = ["ab ca", "cab b"]
    for number, text in enumerate(said):
        (folder / f"own{number}.wav").write_bytes(wav(speech(text, 77)))
    assert lm("transcribe", run, "own0.wav").out == "ab ca\n"
    assert lm("transcribe", run, "own*.wav").out == "own0.wav\nab ca\n\nown1.wav\ncab b\n"
    row = json.loads(pipe('{"path": "own1.wav", "id": 7}\n', "transcribe", run).out)
    assert (row["id"], row["text"], [w["word"] for w in row["words"]]) == (7, "cab b", ["cab", "b"])
    first, second = row["words"]
    assert 0 <= first["start"] < first["end"] <= second["start"] < second["end"] <= 1.2
    assert first["start"] < 0.2 and 0.5 < second["start"] < 0.9

    # With words that are known to come together.
    (folder / "words.txt").write_text("cab b\nab ca\n" * 5)
    words = ("transcribe", run, "own1.wav", "--language_model", "words.txt", "--beam_width", "8")
    assert lm(*words).out == "cab b\n"
    measured = lm("test", run, "--model.language_model=transcripts", "--model.beam_width=8")
    assert "word_error_rate 0" in measured.out, measured.err

    model = package.load(run / "best.ckpt")
    alone, both = (
        model.transcribe(str(folder / "own0.wav")),
        model.transcribe([wav(speech(t, 77)) for t in said]),
    )
    assert [each["text"] for each in both] == said and alone == both[0]  # whoever shares the batch
    (folder / "bad.wav").write_text("no sound")
    for words, why in (
        ((run, "bad.wav"), "lm transcribe: bad.wav is no sound that can be read"),
        ((run, "none.wav"), "lm transcribe: no such file: none.wav"),
        ((run, "own0.wav", "--beam_width", "0"), "--beam_width 0: it must be at least 1"),
        ((run, "own0.wav", "--language_model", "none"), "none"),
        ((run, "own0.wav", "--language_model", run / "best.ckpt"), "is no language model that writes"),
        ((run, "own0.wav", "--language_model", "transcripts"), "has no transcripts any more"),
    ):
        refused = lm("transcribe", *words)
        assert refused.status and why in refused.err and refused.err.count("\n") <= 2, refused.err
    assert "use `lm transcribe`" in lm("classify", run, "own0.wav").err

    # Longer than it ever heard: in windows that overlap, as if it had been heard at once.
    long = texts(12, seed=9)
    (folder / "long.wav").write_bytes(wav(np.concatenate([speech(f"{text} ", 5) for text in long])))
    row = json.loads(lm("transcribe", run, "long.wav", "--json").out)
    wanted = " ".join(long).split()
    found = [word["word"] for word in row["words"]]
    assert row["text"].split() == found and abs(len(found) - len(wanted)) <= 2
    assert len(set(wanted) - set(found)) <= 2
    ends = [at for word in row["words"] for at in (word["start"], word["end"])]
    assert ends == sorted(ends) and ends[-1] > 8

    # And one row each of a table: all windows of a sound, in whatever batches they come.
    for number in range(3):
        said = np.concatenate([speech(f"{text} ", number) for text in long[: 4 * number + 1]])
        (folder / f"sounds/long{number}.wav").write_bytes(wav(said))
    table = "\n".join(["split\tid\tspeaker", *(f"test\tlong{number}\t0" for number in (2, 0, 1))])
    (folder / "long.tsv").write_text(table)
    words = ("predict", run, "--data.test=long.tsv", "--data.batch_size=2")
    predicted = lm(*words)
    assert predicted.status == 0, predicted.err
    rows = [json.loads(line) for line in (run / "predictions.jsonl").open()]
    assert [(row["index"], row["path"]) for row in rows] == [
        (0, "long2.wav"),
        (1, "long0.wav"),
        (2, "long1.wav"),
    ]
    for row in rows:
        assert row["text"] == model.transcribe(folder / "sounds" / row["path"])["text"] != ""
    assert lm(*words, "--trainer.limit_predict_batches=1").status == 0  # windows of the longest are not there
    assert "long2" not in (run / "predictions.jsonl").read_text()
    for settings, why in (
        ({"beam": 3}, "no setting beam of `transcribe`: it has beam_width, language_model, alpha, beta"),
        ({"beam_width": 0}, "beam_width is 0: it must be at least 1"),
    ):
        with pytest.raises(UserError, match=why):
            model.transcribe(folder / "long.wav", **settings)


@pytest.mark.parametrize("workers", [0, 2])
def test_killed_it_goes_on_to_the_last_bit(ends_alike_though_killed, folder, workers):
    words = ("--config=c.yaml", "--trainer.max_epochs=2", f"--data.num_workers={workers}")
    ends_alike_though_killed(*words, at="step 14/", saved=10)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--data.seconds=null",), "--data.seconds is not given"),
        (("--data.part=part",), "there is no column 'part' in t.tsv: it has split, id"),
        (("--data.path={name}.wav",), "there is no column 'name' in t.tsv"),
        (("--data.text=words",), "there is no column 'words' in t.tsv"),
        (("--data.path={id}.mp3",), "there is no such file (such as sounds/train0.mp3) (160)"),
        (("--data.joined=[3,2]",), "--data.joined is [3, 2]"),
        (("--model.beam_width=0",), "beam_width is 0"),
        (("--model.consistency=-1",), "consistency is -1"),
        (("--model.consistency=0.2", "--data.augment=[]"), "nothing varies the features of sounds"),
        (("--model.tokens=4",), "--model.tokens is 4: the texts have 4 characters: give at least 5"),
        (("--model.tokens=none.model",), "none.model"),
        (("--model.backbone.causal=true",), "SpeechRecognition needs a BERT"),
    ],
)
def test_settings_that_make_no_sense(lm, folder, options, words):
    result = lm("fit", "--config", "c.yaml", *options)
    assert result.status and result.err.count("\n") <= 3, result.err
    assert words in result.err


def test_pieces_of_words_are_written(lm, folder):
    assert lm("fit", "--config=c.yaml", "--model.tokens=12", "--trainer.max_epochs=1").status == 0
    assert lm("transcribe", "checkpoints/speech", "sounds/test0.wav").status == 0
    task = SpeechRecognition(shape(), tokens=12)
    task.prepare(SpeechData(**{k: v for k, v in CONFIG["data"]["init_args"].items() if k != "augment"}))
    assert len(task.labels) == 12 and any(len(label.strip()) > 1 for label in task.labels)
    for text in texts(20, seed=5):
        ids = task.targets(text)
        assert task.text_of(ids) == text and len(ids) <= len(text) + 1
    ab = task.targets("ab ca")
    one, other = task.targets("ab"), task.targets("ca")
    assert [*one, *task.space, *other] == ab  # as strings are joined
    log_probs = torch.full((2 * len(ab), 12), -9.0)
    log_probs[range(len(log_probs)), [id for each in ab for id in (each, 0)]] = 0.0
    words = words_of(Decoder(task.labels, task.text_of)(Likeliest(log_probs)), task.labels, seconds=0.02)
    assert [word.text for word in words] == ["ab", "ca"]


def test_two_views_killed_go_on_to_the_last_bit(ends_alike_though_killed, folder):
    words = ("--config=c.yaml", "--trainer.max_epochs=1", "--data.num_workers=1")
    ends_alike_though_killed(*words, "--model.consistency=0.2", at="step 14/", saved=10)


def test_views_that_agree_cost_nothing(task, folder):
    """And views that don't cost what the definition says, by hand; only one of a sound is measured."""
    mask = SpecAugment(bands=2, band_width=20, stretches=3, stretch_width=20)
    features = [{**task.data.features("train")[i], "draw": i} for i in range(3)]
    batch = replace(task.collate, views=2)(features)
    assert torch.equal(batch["frames"][0::2], batch["frames"][1::2])
    assert torch.equal(batch["targets"], task.collate(features)["targets"].repeat_interleave(2, 0))
    assert torch.allclose(batch["seconds"].sum(), task.collate(features)["seconds"].sum())
    logits, real = task.logits(batch), batch["documents"] >= 0
    assert torch.equal(disagreement(logits, real), torch.zeros(3))

    batch = replace(task.collate, views=2, augment=(mask,))(features)
    assert not torch.equal(batch["frames"][0::2], batch["frames"][1::2])
    logits = torch.randn(6, 4, 5, requires_grad=True)
    real = torch.tensor([4, 4, 2, 2, 3, 3])[:, None] > torch.arange(4)
    found = disagreement(logits, real)
    p = logits.detach().softmax(-1)
    for i, length in enumerate((4, 2, 3)):
        a, b = p[2 * i, :length], p[2 * i + 1, :length]
        wanted = ((a * (a / b).log()).sum() + (b * (b / a).log()).sum()) / 2
        assert torch.allclose(found[i], wanted, atol=1e-5)
    found.sum().backward()  # each is drawn to the other: dKL(q || p)/dlogits is p - q
    other = p.unflatten(0, (-1, 2)).flip(1).flatten(0, 1)
    assert torch.allclose(logits.grad, (p - other) * real[..., None] / 2, atol=1e-6)
    measured = replace(task.collate, views=2)(list(task.data.features("val"))[:3])
    assert len(measured["frames"]) == len(measured["index"]) == 3


@pytest.fixture
def task(folder) -> SpeechRecognition:
    """Before it has learned anything."""
    torch.manual_seed(0)
    args = {k: v for k, v in CONFIG["data"]["init_args"].items() if k != "augment"}
    made = SpeechRecognition(shape())
    made.prepare(SpeechData(**args))
    return made.eval()


def test_figures_do_not_depend_on_who_shares_the_batch(task):
    features = task.data.features("test")[:6]
    with torch.no_grad():
        batch = task.collate(features)
        together = task.losses(task.logits(batch), batch)
        for row, each in enumerate(features):
            one = task.collate([each])
            logits = task.logits(one)
            assert together[row].item() == pytest.approx(task.losses(logits, one).item(), rel=1e-4)
            # And it is what the definition says of this sound and these targets.
            wanted = F.ctc_loss(
                logits.log_softmax(-1)[0],
                torch.tensor(each["targets"]),
                [logits.shape[1]],
                [len(each["targets"])],
                reduction="sum",
            )
            assert together[row].item() == pytest.approx(wanted.item(), rel=1e-4)
    assert task.labels[0] == "" and set(task.labels[1:]) == set("abc ")


def test_what_is_drawn_is_decided_by_the_draw_alone(task):
    data = SpeechData(**{**CONFIG["data"]["init_args"], "augment": []}, joined=(2, 4))
    data.use(task)
    collate = data.training_collate()
    features = [{**f, "draw": n} for n, f in enumerate(data.features("train")[:5])]
    batch, again = collate(features), collate(features[::-1])
    for name in ("frames", "targets", "seconds"):
        assert torch.equal(batch[name], again[name].flip(0))
    other = collate([{**f, "draw": f["draw"] + 9} for f in features])
    assert not torch.equal(batch["seconds"], other["seconds"])
    for row, each in zip(batch["targets"], features, strict=True):
        said = task.text_of([t for t in row.tolist() if t >= 0])
        assert said.startswith(task.text_of(each["targets"]))
    assert batch["seconds"].max() <= 2.5
    # What it is measured by stays as it is.
    strings = data.examples("test")
    assert len(strings) <= 8 and all(2 <= len(each.parts) <= 4 for each in strings)
    assert strings == SpeechData(**{**CONFIG["data"]["init_args"], "augment": []}, joined=(2, 4)).examples(
        "test"
    )
    places = [place for each in strings for _, place in each.parts]
    assert len(places) == len(set(map(tuple, places)))
    one = strings[0]
    sound = collate.sound({"place": one.place, "parts": one.parts})
    assert sound.seconds == pytest.approx(one.seconds, abs=0.01)


def test_windows_of_a_long_sound_are_one(task):
    """Every position of a sound comes once, in its order."""
    task.data = None
    for length in (task.longest + 1, 3 * task.longest, 123_456):
        windows = task._windows({"length": length})
        ranges = []
        for each in windows:
            start, size = round(each["window"][0] * RATE), each["length"]
            assert start % task.hop == 0
            first = start // task.hop
            ranges.append(
                torch.arange(first, first + task.input.length(task.processor.frames(size)))[:, None]
            )
        assert start + size == length and size > 0
        whole = task._whole([Likeliest(each) for each in ranges]).values[:, 0]
        assert torch.equal(whole, torch.arange(len(whole)))
        assert len(whole) == math.ceil(length / task.hop)


def test_a_gpt_chooses_among_sentences(starts):
    """Of two sentences that sound alike, the one that the GPT likes better."""
    gpt = open_language_model(str(starts["gpt"]), "cpu")
    texts = ["", "a", "b", " "]
    probabilities = torch.tensor([[0.01, 0.5, 0.48, 0.01]]).log().repeat(2, 1)
    probabilities[1] = torch.tensor([0.98, 0.01, 0.005, 0.005]).log()

    def text_of(ids):
        return "".join(texts[id] for id in ids)

    assert [label.token for label in greedy(Likeliest(probabilities))] == [1]
    better = max("ab", key=lambda text: gpt.nats([text])[0])
    chosen = Decoder(texts, text_of, 8, gpt, alpha=1.0, beta=20.0)(Likeliest(probabilities))
    assert text_of([label.token for label in chosen]).strip() == better
    # Words that were counted choose likewise.
    counted = Decoder(texts, text_of, None, ["b"] * 9, alpha=2.0)(Likeliest(probabilities))
    assert text_of([label.token for label in counted]) == "b"
    with pytest.raises(UserError, match="is no language model that writes from left to right"):
        open_language_model(str(starts["bert"]), "cpu")


def spoken(length: int, seed: int, pauses: int = 0) -> torch.Tensor:
    """Log-probabilities (length, 5) of a class in every eighth position, but for long pauses."""
    rng = np.random.default_rng(seed)
    said = np.where(np.arange(length) % 8, 0, rng.integers(1, 5, length))
    for at in rng.integers(0, length, pauses):
        said[at : at + 60] = 0
    logits = 7 * np.eye(5)[said] + rng.standard_normal((length, 5))
    return torch.from_numpy(logits).float().log_softmax(-1)


def test_a_long_sound_is_searched_stretch_by_stretch():
    log_probs = spoken(7000, seed=1, pauses=20)
    decoder = Decoder(list(" abcd"), str, beam_width=2)
    decoder(Likeliest(log_probs[:50]))  # what is loaded at first
    tracemalloc.start()
    found = decoder(Likeliest(log_probs))
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 8e6  # at once one table alone of 7,000 positions and 1,750 places has 12 MB
    kept = Likeliest(log_probs)
    parts = list(stretches(kept))
    starts = [start for start, _ in parts]
    assert torch.equal(torch.cat([part.values for _, part in parts]), kept.values) and len(parts) >= 3
    assert all(1500 < len(part) <= 3000 for _, part in parts[:-1]) and len(parts[-1][1]) <= 3000
    for start in starts[1:]:  # in the middle of a pause, with nothing cut apart
        assert log_probs[start - 25 : start + 25].argmax(1).eq(0).all()
    alone = [
        Label(label.token, label.first + start, label.last + start)
        for start, part in parts
        for label in align(part, beam_search(part, width=2)[0].tokens)
    ]
    assert found == alone == greedy(kept)


@pytest.mark.parametrize("length", [0, 1, 2999, 3000])
def test_a_short_sound_is_one_stretch(length):
    ((start, part),) = stretches(kept := Likeliest(spoken(length, seed=2)))
    assert start == 0 and torch.equal(part.values, kept.values)


@pytest.mark.parametrize("said", [0, 1])
def test_stretches_of_one_sound_without_end(said):
    """Silence, or one letter."""
    kept = Likeliest((9 * torch.eye(3)[torch.full((10_000,), said)]).log_softmax(-1))
    parts = [part for _, part in stretches(kept)]
    assert torch.equal(torch.cat([part.values for part in parts]), kept.values)
    assert all(1500 <= len(part) <= 3000 for part in parts[:-1])


@pytest.mark.real_data
def test_real_digits_joined(real_data, whisper_tiny, lm):
    """Real recordings go through the configuration that ships: digits are known before much is learned."""
    words = ("--data.root", real_data, "--data.limit=64", "--data.batch_size=8", "--data.num_workers=0")
    words = (*words, f"--model.init_from={whisper_tiny}")
    few = ("--trainer.max_steps=2", "--trainer.limit_val_batches=1", "--trainer.limit_test_batches=1")
    result = lm(
        "fit", "fsdd-strings", *words, *few, "--trainer.accelerator=cpu", "--trainer.precision=32-true"
    )
    assert result.status == 0, result.err
    facts = json.loads(lm("info", "checkpoints/fsdd-strings/best.ckpt", "--json").out)
    assert facts["labels"].startswith("1,693: ")  # pieces of digits of the decoder, the space and the blank
