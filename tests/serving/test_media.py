"""Things in pictures, pixels and speech over HTTP: as the model says it in Python, whoever asks beside."""

import base64
import io
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import openai
import pytest
import torch
from PIL import Image

import lm
from lm import checkpoint as checkpoints
from lm.backbone import BackboneConfig, Frames, Patches
from lm.data.images.masks import thing_mask
from lm.processors.images import ImageProcessor
from lm.processors.speech import SoundProcessor
from lm.serving.limits import FILES, SECONDS, Limits
from lm.tasks.image.drawing import colours
from lm.tokenizer.spelling import spelling_tokenizer

soundfile = pytest.importorskip("soundfile")
pytest.importorskip("soxr")

RATE = 4000
SHAPE = {"hidden_size": 32, "num_layers": 1, "num_heads": 2, "causal": False, "vocab_size": 1}


def made(path, task, input, processor, head, positions, **more):
    """A model with random weights, opened."""
    torch.manual_seed(0)
    config = BackboneConfig(**SHAPE, max_seq_len=1024, positions=positions)
    head = {"pooling": None, "pooler": False, "dropout": 0.0, **head}
    network = checkpoints.make_network(config, head, input.make(config))
    with torch.no_grad():
        network.head.weight.mul_(30)  # so that it is not of one mind
    record = checkpoints.make_record(f"lm.tasks.{task}", config, processor)
    record |= {"head": head, "input": input.described(), **more}
    state = {f"net.{key}": value for key, value in network.state_dict().items()}
    checkpoints.write({"lm": record, "state_dict": state, "global_step": 1}, path)
    return lm.load(path)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("media")
    patches, fits = Patches(4, size=(24, 32)), ImageProcessor((24, 32), fit="pad")
    letters = spelling_tokenizer(["abc de"])
    texts = ["" if letters.is_special(id) else letters.piece(id) for id in range(letters.vocab_size)]
    written = {"case": False, "punctuation": False, "spelling": base64.b64encode(letters.to_bytes()).decode()}
    sounds = SoundProcessor(rate=RATE, bins=8, seconds=2.0, norm="utterance")
    frames = Frames(bins=8, max_frames=100, positions="sine")
    places = {"kind": "positions", "outputs": 6}
    return {
        "finder": made(
            *(folder / "f.ckpt", "ObjectDetection", patches, fits, places, "none"),
            **{"labels": ["cat", "dog"], "queries": 0},
        ),
        "painter": made(
            *(folder / "p.ckpt", "Segmentation", patches, fits, {**places, "outputs": 12}, "none"),
            **{"labels": ["sky", "road", "tree"], "squares": 2, "queries": 0},
        ),
        "cutter": made(
            *(folder / "i.ckpt", "Segmentation", Patches(4, size=(24, 32), queries=6), fits),
            *({"kind": "queries", "outputs": 2 + 1 + 64 * (1 + 4)}, "none"),
            **{"labels": ["cat", "dog"], "squares": 2, "queries": 6, "instances": True},
        ),
        "clerk": made(
            *(folder / "c.ckpt", "SpeechRecognition", frames, sounds),
            *({"kind": "tokens", "outputs": len(texts)}, "rotary"),
            **{"labels": texts, **written},
        ),
    }


def picture(seed: int, size: tuple[int, int] = (40, 60), kind: str = "PNG") -> bytes:
    file, rng = io.BytesIO(), np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 7, 3), dtype=np.uint8))
    coarse.resize(size[::-1]).save(file, kind)
    return file.getvalue()


def sound(seed: int, seconds: float = 5.0, kind: str = "WAV", rate: int = RATE) -> bytes:
    """Tones one after the other: longer than the model hears at once."""
    file, rng = io.BytesIO(), np.random.default_rng(seed)
    pitch = np.repeat(rng.uniform(200, 1500, int(seconds * 8) + 1), rate // 8)[: round(seconds * rate)]
    soundfile.write(file, 0.5 * np.sin(2 * np.pi * np.cumsum(pitch) / rate), rate, format=kind)
    return file.getvalue()


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def ask(http, ability, model, **body):
    return http.post(f"/v1/{ability}", json={"model": model, **body})


def refused(found, status: int = 400) -> str:
    """The one line that an error says."""
    assert found.status_code == status, found.text
    said = found.json()["error"]["message"]
    assert "\n" not in said
    return said


def test_things_in_pictures_are_found(http, models):
    photos = [picture(1), picture(2, (70, 30), "JPEG")]
    given = [text(photos[0]), f"data:image/jpeg;base64,{text(photos[1])}"]
    found = ask(http, "detect", "finder", input=given, threshold=0).json()["data"]
    assert [row["boxes"] for row in found] == [
        models["finder"].detect(p, threshold=0)["boxes"] for p in photos
    ]
    assert found[0]["boxes"] != found[1]["boxes"]
    box = found[1]["boxes"][0]
    assert box.keys() == {"label", "score", "box"} and box["label"] in ("cat", "dog")
    assert 0 <= box["box"][0] < box["box"][2] <= 30 and 0 <= box["box"][1] < box["box"][3] <= 70


def test_a_threshold_holds_for_its_request_alone(http, models):
    """Asked at once by many, and by who says nothing."""
    photo = picture(3)
    scores = [each["score"] for each in models["finder"].detect(photo, threshold=0)["boxes"]]
    thresholds = [None, 0.0, scores[len(scores) // 2], 1.0] * 8

    def count(threshold):
        found = ask(http, "detect", "finder", input=text(photo), threshold=threshold)
        return len(found.json()["data"][0]["boxes"])

    with ThreadPoolExecutor(8) as pool:
        counts = list(pool.map(count, thresholds))
    least = [0.3 if threshold is None else threshold for threshold in thresholds]
    assert counts == [sum(score >= each for score in scores) for each in least]
    assert len(set(counts)) >= 3
    assert len(models["finder"].detect(photo)["boxes"]) == counts[0]


@pytest.mark.parametrize("size", [(40, 60), (1, 1), (3, 200)])
def test_pixels_are_named(http, models, size, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    photo = picture(4, size)
    answer = ask(http, "segment", "painter", input=text(photo), out="masks", draw="drawn").json()
    (row,) = answer["data"]
    expected = models["painter"].segment(photo)
    mask = Image.open(io.BytesIO(base64.b64decode(row["mask"])))
    assert mask.mode == "P" and np.array_equal(np.asarray(mask), expected["mask"])
    assert row["shares"] == expected["shares"] and sum(row["shares"].values()) == pytest.approx(1, abs=1e-3)
    shades = ["#{:02x}{:02x}{:02x}".format(*colour) for colour in colours(3)]
    assert [each["label"] for each in answer["classes"]] == ["sky", "road", "tree"]
    assert [each["colour"] for each in answer["classes"]] == shades
    assert [tuple(mask.getpalette()[3 * n : 3 * n + 3]) for n in range(3)] == colours(3)
    assert list(tmp_path.iterdir()) == []  # no request names a folder


def test_things_have_masks_as_coco_s_runs(http, models):
    photo = picture(5)
    answer = ask(http, "segment", "cutter", input=[text(photo), text(picture(6, (30, 9)))]).json()
    assert answer["data"][0] == {"index": 0, **models["cutter"].segment(photo)} and "classes" not in answer
    thing = answer["data"][0]["things"][0]
    mask = thing_mask(thing["mask"], 40, 60)
    x0, y0, x1, y1 = thing["box"]
    assert thing["label"] in ("cat", "dog") and mask.any() and mask.sum() == mask[y0:y1, x0:x1].sum()


def test_speech_is_written_down(http, models):
    files = [sound(1), sound(2, 0.4, "FLAC", 8000), sound(3, 3, "OGG", 8000)]
    found = ask(http, "transcribe", "clerk", input=[text(each) for each in files]).json()["data"]
    beams = ask(http, "transcribe", "clerk", input=text(files[0]), beam_width=8).json()["data"]
    for row, data in zip(found, files, strict=True):
        expected = models["clerk"].transcribe(data)
        assert {"text": row["text"], "words": row["words"]} == expected
    assert found[0]["words"] and 0 <= found[0]["words"][-1]["end"] <= 5.1
    assert beams[0]["text"] == models["clerk"].transcribe(files[0], beam_width=8)["text"] != found[0]["text"]
    assert models["clerk"].transcribe(files[0])["text"] == found[0]["text"]  # no longer by a beam


def test_as_openai_s_client_asks(url, models):
    data = sound(4)
    expected = models["clerk"].transcribe(data)
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        ask = client.audio.transcriptions.create
        asked = {"model": "clerk", "file": ("speech.wav", data)}
        assert ask(**asked, language="en", temperature=0).text == expected["text"]
        assert ask(**asked, response_format="text") == expected["text"] + "\n"
        words = ask(**asked, response_format="verbose_json", timestamp_granularities=["word"])
        assert words.text == expected["text"] and words.duration == pytest.approx(5.0)
        assert [each.model_dump() for each in words.words] == expected["words"]
        wide = ask(**asked, extra_body={"beam_width": 8})
        assert wide.text == models["clerk"].transcribe(data, beam_width=8)["text"]
        for more, words in (
            ({"response_format": "srt"}, "response_format"),
            ({"stream": True}, "stream"),
            ({"response_format": "verbose_json", "timestamp_granularities": ["segment"]}, "timestamp_gran"),
            ({"extra_body": {"language_model": "lm.txt"}}, "no such thing"),
            ({"extra_body": {"beam_width": 1000}}, "beam_width"),
            ({"file": ("speech.wav", b"")}, "no sound that can be read"),
            ({"file": ("speech.wav", data[:1000])}, "is cut short"),
        ):
            with pytest.raises(openai.BadRequestError, match=words):
                ask(**asked | more)
        with pytest.raises(openai.BadRequestError, match="ask /v1/detect"):
            ask(model="finder", file=("speech.wav", data))


def test_forms_that_are_none(http):
    path, kind = "/v1/audio/transcriptions", "multipart/form-data; boundary=x"
    whole = http.build_request("POST", path, data={"model": "clerk"}, files={"file": ("a", sound(1))})
    whole.read()
    half = {"content": whole.content[:2000], "headers": {"Content-Type": whole.headers["Content-Type"]}}
    assert "`file`" in refused(http.post(path, **half))
    assert "`file`" in refused(http.post(path, data={"model": "clerk"}))
    assert "`file`" in refused(http.post(path, data={"model": "clerk", "file": "speech.wav"}))
    assert "is missing" in refused(http.post(path, json={"model": "clerk", "file": "speech.wav"}))
    assert "`model`" in refused(http.post(path, files={"file": ("a", sound(1))}))
    assert "the form" in refused(http.post(path, content=b"\0\1", headers={"Content-Type": kind}))
    assert "the form" in refused(
        http.post(path, content=b"", headers={"Content-Type": "multipart/form-data"})
    )


def test_no_name_opens_a_file_of_the_server(http, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "one.png").write_bytes(picture(1))
    (tmp_path / "aaaa").write_bytes(picture(1))  # a name that is base64 as well
    for ability, model in (("detect", "finder"), ("segment", "painter"), ("transcribe", "clerk")):
        for name in (str(tmp_path / "one.png"), "one.png", f"file://{tmp_path}/one.png"):
            assert "in base64" in refused(ask(http, ability, model, input=name))
        assert "file 1 is no" in refused(ask(http, ability, model, input="aaaa"))
    said = refused(ask(http, "transcribe", "clerk", input=text(sound(1)), language_model="one.png"))
    assert "no such thing" in said


def wav_of_none() -> bytes:
    file = io.BytesIO()
    soundfile.write(file, np.zeros(0), RATE, format="WAV")
    return file.getvalue()


def bomb() -> bytes:
    file = io.BytesIO()
    Image.new("1", (20_000, 5_001)).save(file, "PNG")
    return file.getvalue()


def not_numbers() -> bytes:
    file = io.BytesIO()
    soundfile.write(file, np.full(99, np.nan, np.float32), RATE, format="WAV", subtype="FLOAT")
    return file.getvalue()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([], "`input`: list should have at least 1 item"),
        ("", "`input`: a file is empty"),
        (["", ""], "`input`: a file is empty"),
        ("data:image/png;base64,", "`input`: a file is empty"),
        ("a b", "in base64, or as a data: URL"),
        (7, "`input`: "),
        ([text(b"text")] * (FILES + 1), f"at most {FILES} items"),
        (text(b"a text, nothing else"), "file 1 is no "),
    ],
)
def test_what_no_model_takes(http, given, words):
    for ability, model in (("detect", "finder"), ("segment", "painter"), ("transcribe", "clerk")):
        assert words in refused(ask(http, ability, model, input=given))


def test_damaged_files(http):
    for model, ability in (("finder", "detect"), ("painter", "segment")):
        for data, words in (
            (picture(1)[:200], "file 2: the picture is"),
            (picture(1, kind="JPEG")[:500], "file 2: the picture is cut short"),
            (bomb(), "file 2: the picture has more than 100 million pixels"),
            (sound(1), "file 2 is no picture"),
        ):
            assert words in refused(ask(http, ability, model, input=[text(picture(1)), text(data)]))
    for data, words in (
        (sound(1)[:9000], "file 2 is cut short"),
        (sound(1, kind="OGG", rate=8000)[:5000], "file 2 is cut short"),
        (sound(1, kind="FLAC")[:9000], "file 2 is cut short"),
        (wav_of_none(), "file 2 has no samples"),
        (not_numbers(), "file 2 has samples that are not numbers"),
        (picture(1), "file 2 is no sound"),
    ):
        assert words in refused(ask(http, "transcribe", "clerk", input=[text(sound(1)), text(data)]))


@pytest.mark.parametrize("samples", [1, 2, 39, 40, 41, 399])
def test_a_sound_of_a_few_samples_says_little(http, samples):
    data = sound(1, samples / RATE)
    found = ask(http, "transcribe", "clerk", input=text(data), beam_width=4)
    assert found.status_code == 200, found.text
    assert len(found.json()["data"][0]["words"]) <= 5


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # within soundfile
def test_any_bytes_get_an_answer(http):
    """Files with some bytes changed or lost are found in or refused, and none is an error of the server's."""
    rng = np.random.default_rng(0)
    for number in range(100):
        model, ability, data = (
            ("finder", "detect", picture(1, kind=("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP")[number % 6])),
            ("clerk", "transcribe", sound(1, 1, ("WAV", "FLAC", "OGG", "AIFF", "MP3")[number % 5], 8000)),
        )[number % 2]
        broken = np.frombuffer(data, np.uint8).copy()
        places = rng.integers(0, min(len(broken), 80 if number % 3 else len(broken)), rng.integers(1, 8))
        broken[places] = rng.integers(0, 256, len(places))
        broken = broken[: rng.integers(1, len(broken) + 1)] if number % 4 == 3 else broken
        found = ask(http, ability, model, input=text(broken.tobytes()))
        assert found.status_code in (200, 400, 413), (number, found.text)


def test_how_much_may_be_brought_along(models, http, serving):
    minutes = text(sound(1, 600))  # ten
    assert len(minutes) > Limits().body
    assert ask(http, "transcribe", "clerk", input=minutes).status_code == 200
    long = text(sound(1, SECONDS / 2 + 1, "FLAC", 1000))
    assert f"at most {SECONDS} at once" in refused(ask(http, "transcribe", "clerk", input=[long, long]), 413)
    quiet = text(sound(1, 61, "FLAC", 1000))
    said = refused(ask(http, "transcribe", "clerk", input=quiet, beam_width=64), 413)
    assert said == "these are 61 seconds of sound: send at most 60 at once with a `beam_width` of 64"
    assert ask(http, "transcribe", "clerk", input=quiet, beam_width=1).status_code == 200
    with serving(models, limits=Limits(body=2000, files=20_000)) as url, httpx.Client(base_url=url) as narrow:
        assert ask(narrow, "detect", "finder", input=text(picture(1))).status_code == 200
        assert "20,000 bytes" in refused(ask(narrow, "detect", "finder", input="a" * 20_000), 413)
        assert "2,000 bytes" in refused(ask(narrow, "classify", "finder", input="a" * 3000), 413)


def test_what_the_server_says_of_them(http):
    cards = {card["id"]: card for card in http.get("/v1/models").json()["data"]}
    assert cards["finder"]["abilities"] == ["detect"] and cards["painter"]["abilities"] == ["segment"]
    assert cards["clerk"]["abilities"] == ["transcribe", "audio/transcriptions"] and cards["clerk"]["files"]
    described = http.get("/openapi.json").json()
    assert described["components"]["schemas"]["Transcription"]["properties"]["model"]["enum"] == ["clerk"]
    form = described["paths"]["/v1/audio/transcriptions"]["post"]["requestBody"]["content"]
    assert form.keys() == {"multipart/form-data"}
    assert "ask /v1/detect" in refused(ask(http, "segment", "finder", input="aaaa"))


def test_photos_of_one_name_don_t_overwrite_one_another(models, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    photos = ["a/cat.png", "b/cat.png", "b/cat.jpg", "c/b/cat.png", "a/cat.png"]
    for number, name in enumerate(photos):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(picture(number % 4, kind="JPEG" if name.endswith("jpg") else "PNG"))
    names = ["cat", "b-cat.png", "b-cat.jpg", "c-b-cat.png", "cat"]
    masks = [row["mask"] for row in models["painter"].segment(photos, out="masks")]
    assert masks == [f"masks/{name}.png" for name in names]
    drawn = [row["drawn"] for row in models["finder"].detect(photos, draw="drawn")]
    assert drawn == [f"drawn/{name}.png" for name in names]
    for photo, mask in zip(photos, masks, strict=True):
        assert np.array_equal(np.asarray(Image.open(mask)), models["painter"].segment(photo)["mask"])
