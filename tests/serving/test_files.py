"""Models of pictures over HTTP: a request brings the file along, and no name in it opens another."""

import base64
import io
import re
import shutil
import subprocess

import httpx
import numpy as np
import pytest
import torch
from PIL import Image

import lm
from lm import checkpoint as checkpoints
from lm.backbone import BackboneConfig, Patches
from lm.processors.images import ImageProcessor


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp("pictures") / "one.png"
    pixels = np.random.default_rng(0).integers(0, 256, (12, 9, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "num_layers": 1, "num_heads": 2, "causal": False, "positions": "none"}
    config, patches = BackboneConfig(**shape, vocab_size=1, max_seq_len=1), Patches(4, size=(8, 8))
    head = {"kind": "pooled", "outputs": 3, "pooling": "mean", "pooler": False, "dropout": 0.0}
    network = checkpoints.make_network(config, head, patches.make(config))
    record = checkpoints.make_record("lm.tasks.ImageClassification", config, ImageProcessor((8, 8)))
    record |= {"head": head, "labels": ["a", "b", "c"], "kind": "single", "input": patches.described()}
    state = {f"net.{key}": value for key, value in network.state_dict().items()}
    path = tmp_path_factory.mktemp("served") / "pictures.ckpt"
    checkpoints.write({"lm": record, "state_dict": state, "global_step": 1}, path)
    return lm.load(path)


@pytest.fixture(scope="module")
def http(model, serving):
    with serving({"pictures": model}) as url, httpx.Client(base_url=url, timeout=60) as made:
        yield made


def test_a_file_that_a_request_brings_along_is_classified(http, model, picture):
    content = base64.b64encode(picture.read_bytes()).decode()
    asked = {"model": "pictures", "input": [content, f"data:image/png;base64,{content}"]}
    rows = http.post("/v1/classify", json=asked).json()["data"]
    alone = model.classify(picture)
    assert [row["prediction"] for row in rows] == [alone["prediction"]] * 2
    assert rows[0]["probabilities"] == pytest.approx(alone["probabilities"], abs=1e-5)
    (card,) = http.get("/v1/models").json()["data"]
    assert card["abilities"] == ["classify"] and card["files"] is True and "context" not in card


def test_no_name_opens_a_file_of_the_server(http, picture, monkeypatch):
    monkeypatch.chdir(picture.parent)
    (picture.parent / "aaaa").write_bytes(picture.read_bytes())  # a name that is base64 as well
    for name, words in (
        (str(picture), "in base64, or as a data: URL"),
        ("one.png", "in base64, or as a data: URL"),
        (f"file://{picture}", "in base64, or as a data: URL"),
        ("aaaa", "file 1 is no picture"),
        (base64.b64encode(b"text").decode(), "file 1 is no picture"),
        (base64.b64encode(picture.read_bytes()[:90]).decode(), "the picture is"),
        ("", "a file is empty"),
    ):
        refused = http.post("/v1/classify", json={"model": "pictures", "input": name})
        assert refused.status_code == 400, (name, refused.text)
        assert words in refused.json()["error"]["message"]
        assert str(picture.parent) not in refused.text.replace(name, "")
    assert http.post("/v1/embeddings", json={"model": "pictures", "input": "a"}).status_code == 400


def test_a_picture_that_fills_the_memory_is_refused(http):
    file = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(file, "PNG")
    body = {"model": "pictures", "input": base64.b64encode(file.getvalue()).decode()}
    refused = http.post("/v1/classify", json=body)
    assert refused.status_code == 400 and "100 million pixels" in refused.json()["error"]["message"]


def test_more_files_than_one_request_may_have(http, picture):
    content = base64.b64encode(picture.read_bytes()).decode()
    asked = [http.post("/v1/classify", json={"model": "pictures", "input": [content] * n}) for n in (64, 65)]
    assert [answer.status_code for answer in asked] == [200, 400]
    assert "`input`: send at most 64 files at once" in asked[1].json()["error"]["message"]


@pytest.mark.skipif(not shutil.which("chromium"), reason="no Chromium")
def test_the_page_asks_for_a_file(http):
    words = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=2000"]
    address = str(http.base_url)
    done = subprocess.run([*words, "--dump-dom", address], capture_output=True, text=True, timeout=60)
    assert re.search(r'<input[^>]* type="file"', done.stdout) and "a classifier of pictures" in done.stdout
