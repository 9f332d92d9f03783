"""Pictures and sounds of all kinds that people have, named on the command line: looked at, or refused."""

import base64
import io
import json
import re
import struct
import tracemalloc
import zlib
from collections.abc import Sequence
from itertools import cycle, zip_longest
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from lm import checkpoint as checkpoints
from lm.backbone import BackboneConfig, Frames, Patches
from lm.processors.images import ImageProcessor
from lm.processors.speech import SoundProcessor
from lm.tokenizer.spelling import spelling_tokenizer

soundfile = pytest.importorskip("soundfile")
pytest.importorskip("soxr")

SHAPE = {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "causal": False, "vocab_size": 1}
POOLED = {"kind": "pooled", "outputs": 2, "pooling": "mean", "pooler": False, "dropout": 0.0}
PLACES = {**POOLED, "kind": "positions", "outputs": 7, "pooling": None}
RATE = 8000
GONE = b"gone"  # the content of a file that isn't there
Case = tuple[
    str, str, dict, int, tuple[str, ...]
]  # data, task, options, examples that are used, what is said


def packed(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def bomb(side: int) -> bytes:
    """A PNG of black and white, which no more than its header says is large."""
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)), (b"IDAT", b""), (b"IEND", b""))
    written = (
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(written)


def wav(samples: np.ndarray, rate: int = RATE, **options) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="WAV", **options)
    return file.getvalue()


PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8))
TURNED = Image.Exif()
TURNED[0x0112] = 6  # a quarter to the right
FRAMES = [PHOTO.convert("P"), Image.new("P", (40, 30))]
GOOD = {  # with height and width as they are seen
    "cmyk.jpg": (packed(PHOTO.convert("CMYK"), "JPEG"), (30, 40)),
    "deep.png": (packed(Image.fromarray(np.full((20, 10), 40_000, np.uint16)), "PNG"), (20, 10)),
    "dot.png": (packed(Image.new("L", (1, 1)), "PNG"), (1, 1)),
    "film.gif": (packed(FRAMES[0], "GIF", save_all=True, append_images=FRAMES[1:]), (30, 40)),
    "thin.png": (packed(Image.new("RGB", (3000, 1)), "PNG"), (1, 3000)),
    "turned.jpg": (packed(PHOTO, "JPEG", exif=TURNED), (40, 30)),
}
BAD = {
    "cut.jpg": (packed(PHOTO, "JPEG")[:900], "cut.jpg: the picture is cut short"),
    "text.png": (b"These are words.", "text.png is no picture"),
    "bomb.png": (bomb(20_000), "bomb.png: the picture has more than 100 million pixels: make it smaller"),
    "empty.png": (b"", "empty.png is no picture"),
}
ALL = {name: data for name, (data, _) in (GOOD | BAD).items()}
TONE = 0.3 * np.sin(np.arange(RATE) / 3)
HEARD = {
    **{f"{rate}.wav": wav(TONE, rate) for rate in (8000, 44_100, 192_000)},
    "double.wav": wav(TONE, subtype="DOUBLE"),
    "moment.wav": wav(TONE[:9], RATE),
    "silence.wav": wav(np.zeros(RATE)),
    "stereo.wav": wav(np.stack([TONE, -TONE], axis=1)),
}
UNHEARD = {
    "cut.wav": (wav(TONE)[:4000], "cut.wav is cut short: its end is missing"),
    "none.wav": (wav(TONE[:0]), "none.wav has no samples"),
    "nan.wav": (wav(TONE * np.nan, subtype="FLOAT"), "nan.wav has samples that are not numbers"),
    "short.wav": (wav(TONE[:1], 192_000), "short.wav is too short: nothing of it is left at 8000 samples a"),
    "text.wav": (b"These are words.", "text.wav is no sound that can be read"),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Models with random weights by what they do, and `hear` for the classifier of sounds."""
    folder = tmp_path_factory.mktemp("models")
    texts = spelling_tokenizer(["abc de"])
    letters = [""] + [texts.piece(number) for number in range(1, texts.vocab_size)]
    spelling = base64.b64encode(texts.to_bytes()).decode()
    patches, fits = Patches(4, size=(16, 24)), ImageProcessor((16, 24), fit="pad")
    # Ten frames a second, so that hours are soon heard.
    frames, sounds = Frames(8, 300, positions="sine"), SoundProcessor(RATE, 8, 800, 800, seconds=30.0)
    said = {"labels": letters, "case": False, "punctuation": False, "spelling": spelling}
    made = {
        "classify": ("ImageClassification", patches, fits, POOLED, {"labels": ["a", "b"]}),
        "detect": ("ObjectDetection", patches, fits, PLACES, {"labels": ["a", "b", "c"], "queries": 0}),
        "segment": (
            "Segmentation",
            patches,
            fits,
            PLACES,
            {"labels": [*"abcdefg"], "squares": 1, "queries": 0},
        ),
        "hear": ("AudioClassification", frames, sounds, POOLED, {"labels": ["a", "b"]}),
        "transcribe": ("SpeechRecognition", frames, sounds, {**PLACES, "kind": "tokens"}, said),
    }
    torch.manual_seed(0)
    for name, (task, input, processor, kind, more) in made.items():
        config = BackboneConfig(**SHAPE, max_seq_len=256, positions="none")
        head = {**kind, "outputs": len(more["labels"])} if name != "detect" else kind
        net = checkpoints.make_network(config, head, input.make(config))
        record = checkpoints.make_record(f"lm.tasks.{task}", config, processor)
        record |= {"head": head, "input": input.described(), **more}
        state = {f"net.{key}": value for key, value in net.state_dict().items()}
        checkpoints.write({"lm": record, "state_dict": state, "global_step": 1}, folder / f"{name}.ckpt")
    return folder


@pytest.mark.parametrize("command", ["classify", "detect", "segment"])
def test_pictures_of_every_kind(lm, tmp_path, models, command):
    for name, data in ALL.items():
        (tmp_path / name).write_bytes(data)
    options = {"detect": ("--draw=drawn",), "segment": ("--draw=drawn", "--out=masks")}.get(command, ())
    words = (command, models / f"{command}.ckpt", *options, "--json")
    result = lm(*words, *GOOD)
    assert result.status == 0, result.err
    rows = {row["path"]: row for row in map(json.loads, result.out.splitlines())}
    assert [*rows] == [*GOOD]
    for name, (_, size) in GOOD.items():
        for kind in {"drawn", "mask"} & rows[name].keys():
            assert Image.open(rows[name][kind]).size == size[::-1]
        for each in rows[name].get("boxes", ()):
            assert (np.array(each["box"]) <= [*size[::-1]] * 2).all()
    for name, (_, said) in BAD.items():
        refused = lm(*words, name)
        assert (refused.status, refused.out) == (1, "") and refused.err.startswith(f"lm {command}: {said}")
        assert refused.err.count("\n") == 1
    some_of_several_are_refused(lm, words, dict.fromkeys(GOOD), BAD)


def some_of_several_are_refused(lm, words, good, bad):
    """What is bad has an error in its place, the rest what it has alone, and the command fails at the end."""
    several = [name for pair in zip_longest(bad, good) for name in pair if name]
    result = lm(*words, *several)
    assert result.status == 1
    rows = [json.loads(line) for line in result.out.splitlines()]
    assert [row["path"] for row in rows] == several
    assert {row["path"] for row in rows if "error" in row} == bad.keys()
    alone = lm(*words, *good).out.splitlines()
    assert [row for row in rows if "error" not in row] == [json.loads(line) for line in alone]
    *each, last = result.err.splitlines()
    assert all(line.startswith(said) for line, (_, said) in zip(each, bad.values(), strict=True))
    assert last == f"lm {words[0]}: {len(bad)} of what was given could not be used, as said above"


def test_what_is_wrong_for_all_ends_it_behind_a_bad_file_too(lm, tmp_path, models):
    for name in ("cut.jpg", "dot.png"):
        (tmp_path / name).write_bytes(ALL[name])
    content = checkpoints.read(models / "classify.ckpt", mmap=False)
    content["state_dict"]["net.head.bias"][:] = float("nan")
    checkpoints.write(content, tmp_path / "nan.ckpt")
    result = lm("classify", "nan.ckpt", "cut.jpg", "dot.png", "--json")
    assert result.status == 1 and not any("not finite" in line for line in result.out.splitlines())
    assert result.err.splitlines()[-1].startswith("lm classify: the model's outputs are not finite")


@pytest.mark.parametrize(("command", "model"), [("classify", "hear"), ("transcribe", "transcribe")])
def test_sounds_of_every_kind(lm, tmp_path, models, command, model):
    for name, data in (HEARD | {name: data for name, (data, _) in UNHEARD.items()}).items():
        (tmp_path / name).write_bytes(data)
    words = (command, models / f"{model}.ckpt", "--json")
    result = lm(*words, *HEARD)
    assert result.status == 0, result.err
    rows = [json.loads(line) for line in result.out.splitlines()]
    assert [row["path"] for row in rows] == [*HEARD]
    assert lm(*words, "moment.wav").status == 0  # with nobody in its batch
    for name, (_, said) in UNHEARD.items():
        refused = lm(*words, name)
        assert (refused.status, refused.out) == (1, "") and refused.err.startswith(f"lm {command}: {said}")
        assert refused.err.count("\n") == 1
    some_of_several_are_refused(lm, words, dict.fromkeys(HEARD), UNHEARD)


def test_of_three_hours_no_more_than_some_windows_are_held(lm, tmp_path, models):
    with soundfile.SoundFile(tmp_path / "long.flac", "w", RATE, 1) as file:
        for _ in range(180):
            file.write(np.zeros(RATE * 60, np.int16))
    tracemalloc.start()
    result = lm("transcribe", models / "transcribe.ckpt", "long.flac", "--json")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert result.status == 0, result.err
    ends = [word["end"] for word in json.loads(result.out)["words"]]
    assert ends and ends[-1] > 3 * 3600 - 60
    assert peak < 100 << 20, peak  # of 345 MB
    assert lm("classify", models / "hear.ckpt", "long.flac").status == 0  # its beginning


def table(folder: Path, files: dict[str, bytes], column: str, values: Sequence[str]) -> None:
    """t.csv of files, of which some are written, and v.csv of the first of them."""
    rows = [f"{name},{value}" for name, value in zip(files, cycle(values), strict=False)]
    for name, data in files.items():
        if data is not GONE:
            (folder / name).write_bytes(data)
    (folder / "t.csv").write_text("\n".join([f"path,{column}", *rows, f"{next(iter(files))},"]))
    (folder / "v.csv").write_text(f"path,{column}\n{rows[0]}\n")


def pictures(folder: Path) -> Case:
    table(folder, {**ALL, "gone.png": GONE}, "label", "ab")
    said = (
        "1 skipped: the picture is cut short: get it again or leave it out (such as cut.jpg)",
        "2 skipped: is no picture, or none of a kind that Pillow reads (such as text.png)",
        "1 skipped: the picture has more than 100 million pixels: make it smaller (such as bomb.png)",
        "1 skipped: there is no such file (such as gone.png)",
        "1 skipped: no label (such as cmyk.jpg)",
    )
    return "ImageData", "ImageClassification", {"size": 16}, len(GOOD), said


def boxes(folder: Path) -> Case:
    """In COCO's file all pictures are 30 by 40, as one is not."""
    names = ["cmyk.jpg", "cut.jpg", "deep.png", "film.gif", "gone.png"]
    for name in {*names} & ALL.keys():
        (folder / name).write_bytes(ALL[name])
    things = [
        (0, 1, [1, 2, 20, 20]),
        (0, 2, [35, 1, 20, 20]),  # partly outside
        (0, 1, [50, 1, 20, 20]),
        (0, 1, [5, 5, 0, 20]),
        (0, 9, [5, 5, 10, 20]),
        (77, 1, [5, 5, 10, 20]),
        *((number, 1, [5, 5, 10, 20]) for number in (1, 2, 4)),  # film.gif has none, and is kept
    ]
    images = [{"id": n, "file_name": name, "height": 30, "width": 40} for n, name in enumerate(names)]
    made = [{"image_id": number, "category_id": kind, "bbox": box} for number, kind, box in things]
    kinds = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    for name, some in (("t", images), ("v", images[:1])):
        found = {"images": some, "annotations": made, "categories": kinds}
        (folder / f"{name}.json").write_text(json.dumps(found))
    said = (
        "1 skipped: boxes outside of their picture",
        "1 skipped: boxes of no size",
        "1 skipped: boxes of unknown classes",
        "1 skipped: boxes of pictures that are not listed",
        "1 mended: boxes partly outside of their picture, clipped",
        "1 skipped: the picture is cut short: get it again or leave it out (such as cut.jpg)",
        "1 skipped: the picture has not the shape that its boxes were measured by (such as deep.png)",
        "1 skipped: there is no such file (such as gone.png)",
    )
    options = {"train": "t.json", "val": "v.json", "files": ".", "size": 16}
    return "DetectionData", "ObjectDetection", options, 2, said


def masks(folder: Path) -> Case:
    labels = np.zeros((30, 40), np.uint8)
    labels[:9] = 1
    made = {
        "good": packed(Image.fromarray(labels), "PNG"),
        "colours": packed(PHOTO, "PNG"),
        "cut": packed(PHOTO.convert("L"), "PNG")[:500],
        "jpeg": packed(Image.fromarray(labels), "JPEG"),
        "other": packed(Image.fromarray(labels + 7), "PNG"),
        "small": packed(Image.fromarray(labels[1:]), "PNG"),
        "without": GONE,
    }
    for part in ("t", "v"):
        for place in (folder / part, folder / f"{part}annot"):
            place.mkdir()
        for name, data in made.items() if part == "t" else [("good", made["good"])]:
            PHOTO.save(folder / f"{part}/{name}.png")
            if data is not GONE:
                (folder / f"{part}annot/{name}.png").write_bytes(data)
    said = (
        "1 skipped: a mask has one number a pixel, this has colours (RGB): save it as PNG with a palette or "
        "in grey, each value a label (such as tannot/colours.png)",
        "1 skipped: the picture is cut short: get it again or leave it out (such as tannot/cut.png)",
        "1 skipped: a mask can't be a JPEG, which changes values a little: save it as PNG (such as tannot/jp",
        "1 skipped: the mask has labels of no class: 7, 8 (such as tannot/other.png)",
        "1 skipped: the mask is not as large as the picture (such as tannot/small.png)",
        "1 skipped: there is no mask (such as t/without.png)",
    )
    options = {
        "train": "t",
        "val": "v",
        "masks": "{folder}annot/{name}.png",
        "classes": ["a", "b"],
        "size": 16,
    }
    return "SegmentationData", "Segmentation", options, 1, said


def sounds(folder: Path) -> Case:
    table(
        folder,
        {**HEARD, **{name: data for name, (data, _) in UNHEARD.items()}, "gone.wav": GONE},
        "label",
        "ab",
    )
    said = (
        "1 skipped: is cut short: its end is missing (such as cut.wav)",
        "1 skipped: has no samples (such as none.wav)",
        "1 skipped: has samples that are not numbers: was it made by a program that failed?",
        "1 skipped: is too short: nothing of it is left at 8000 samples a second (such as short.wav)",
        "1 skipped: is no sound that can be read: give wav, flac, ogg or mp3 (such as text.wav)",
        "1 skipped: there is no such file (such as gone.wav)",
        "1 skipped: no label (such as 8000.wav)",
        "of 7 train examples are longer than allowed: cut",
    )
    return "AudioData", "AudioClassification", {"seconds": 0.5, "rate": RATE}, len(HEARD), said


def speech(folder: Path) -> Case:
    table(folder, {**HEARD, "long.wav": wav(np.zeros(9 * RATE)), "gone.wav": GONE}, "text", ["ab", "b a"])
    with (folder / "t.csv").open("a") as file:
        file.write("\n44100.wav,.\nstereo.wav," + 99 * "ab")
    (folder / "v.csv").write_text("path,text\n8000.wav,àb ça\nsilence.wav,ab\n")
    said = (
        "1 skipped: there is no such file (such as gone.wav)",
        "1 skipped: no label (such as 8000.wav)",
        "4 of 10 train examples can't be used: they are longer than --data.seconds, or too short for",
        "1 transcripts of v.csv have characters that were never learned: 'à', 'ç'",
    )
    return "SpeechData", "SpeechRecognition", {"seconds": 2, "rate": RATE}, len(HEARD) - 1, said


@pytest.mark.parametrize("write", [pictures, boxes, masks, sounds, speech])
def test_what_can_not_be_learned_from_is_counted_and_said(lm, tmp_path, write):
    """With batches of one, a step is an example that is learned from."""
    data, model, options, used, said = write(tmp_path)
    options = {"train": "t.csv", "val": "v.csv", "batch_size": 1, **options}
    shape = {**SHAPE, "positions": "none"}
    config = {
        "name": "bad",
        "data": {"class_path": f"lm.data.{data}", "init_args": options},
        "model": {"class_path": f"lm.tasks.{model}", "init_args": {"backbone": shape}},
        "trainer": {"accelerator": "cpu", "precision": "32-true", "max_epochs": 1},
    }
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
    result = lm("fit", "--config", "c.yaml")
    assert result.status == 0, result.err
    for line in said:
        assert line in result.err, result.err
    assert len(re.findall(r"\(train\): \d+ skipped", result.err)) == sum("skipped:" in line for line in said)
    assert json.loads((tmp_path / "checkpoints/bad/summary.json").read_text())["steps"] == used
