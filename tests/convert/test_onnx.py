"""ONNX files beside the networks that they were made of: by onnxruntime itself, and by the commands."""

import json
import shutil
import sys

import numpy as np
import pytest
import torch

import lm as package
from lm.backbone import Backbone, BackboneConfig
from lm.checkpoint import identity, make_network
from lm.convert import export_onnx, open_model
from tests.commands.test_apply import CLASSES, CODE, KINDS, head_of
from tests.commands.test_apply import save as save_checkpoint

from .conftest import SIZES, opened, scramble

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

SMALL = {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "vocab_size": 430, "max_seq_len": 40}
BERT = {**SMALL, "causal": False, "norm": "layer", "norm_position": "after", "positions": "learned"}
BERT |= {"embedding_norm": True, "mlp": "gelu", "bias": True, "segments": 2}
MODERN = {
    **SMALL,
    "num_layers": 3,
    "causal": False,
    "window": 5,
    "global_every": 2,
    "local_rope_theta": 100.0,
}
LLAMA = {**SMALL, "num_kv_heads": 2, "qk_norm": True}
POOLED = {"kind": "pooled", "outputs": 3, "pooler": False}
PLACES = {"kind": "tokens", "outputs": 5, "pooling": None, "pooler": False}
# The shape, the head.
CASES = {
    "the mean of a text": ({**SMALL, "causal": False}, {**POOLED, "pooling": "mean"}),
    "bert's pooler": (BERT, {**POOLED, "pooling": "first", "pooler": True}),
    "a gpt that classifies": (LLAMA, {**POOLED, "pooling": "last"}),
    "tags, with a window": (MODERN, PLACES),
    "answers, with segments": (BERT, {**PLACES, "kind": "span", "outputs": 2}),
    "gaps": (BERT, {"kind": "language"}),
}


def inputs(batch: int, length: int, left: bool = False) -> dict[str, torch.Tensor]:
    """Random tokens; the rows end, or begin, with more and more padding."""
    generator = torch.Generator().manual_seed(batch * 100 + length)
    given = {
        "input_ids": torch.randint(4, 430, (batch, length), generator=generator),
        "attention_mask": torch.ones(batch, length, dtype=torch.int64),
        "token_type_ids": torch.randint(0, 2, (batch, length), generator=generator),
    }
    for row in range(batch):
        pads = min(5 * row, length - 1)
        given["attention_mask"][row, slice(0, pads) if left else slice(length - pads, None)] = 0
    return given


def check(network, path, output: str = "logits") -> None:
    """The network's outputs by onnxruntime, for every shape of a batch, with and without padding."""
    session = onnxruntime.InferenceSession(str(path))
    names = [each.name for each in session.get_inputs()]
    segments = "token_type_ids" in names
    assert names == ["input_ids", "attention_mask", "token_type_ids"][: 2 + segments]
    assert [each.name for each in session.get_outputs()] == [output]
    shapes = [(1, 1), (1, 2), (2, 1), (1, 40), (2, 3), (3, 7), (7, 31), (2, 40)]
    for given in [*(inputs(*shape) for shape in shapes), inputs(4, 20, left=True)]:
        found = session.run([output], {name: given[name].numpy() for name in names})[0]
        mask = given["attention_mask"]
        more = {"segments": given["token_type_ids"]} if segments else {}
        with torch.no_grad():
            ours = network(given["input_ids"], mask - 1, **more).numpy()
        assert found.dtype == np.float32 and found.shape == ours.shape
        real = mask.bool().numpy() if found.ndim == 3 else slice(None)  # what padding gives nobody reads
        np.testing.assert_allclose(found[real], ours[real], atol=1e-4, rtol=1e-4)
    assert ours.std() > 0.1, "the network is too dull for this test"


@pytest.mark.parametrize(("shape", "head"), CASES.values(), ids=CASES)
def test_outputs_are_the_networks(tokenizer, tmp_path, shape, head):
    network = scramble(make_network(BackboneConfig(**shape), head))
    made = export_onnx(opened(network, tokenizer, {"head": head}), tmp_path / "x.onnx")
    check(network, tmp_path / "x.onnx")
    assert made["parameters"] == network.num_parameters() and made["bits"] == 32
    again = package.load(tmp_path / "x.onnx").model
    assert again.step == 7 and again.config.hidden_size == 32
    assert again.tokenizer.fingerprint == tokenizer.fingerprint
    given = inputs(3, 17)
    more = {"segments": given["token_type_ids"]} if shape is BERT else {}
    with torch.inference_mode():
        theirs, ours = (net(given["input_ids"], **more) for net in (again.network, network))
    torch.testing.assert_close(theirs, ours, atol=1e-4, rtol=1e-4)


def test_hidden_states_of_a_real_encoder(minilm, tmp_path, lm):
    assert lm("export", minilm, "m.onnx", "--to", "onnx").status == 0
    start = open_model(minilm)
    network = Backbone(start.config).eval()
    weights = {name.removeprefix("backbone."): value for name, value in start.weights.items()}
    network.load_state_dict({name: weights[name] for name in network.state_dict()})
    check(network, tmp_path / "m.onnx", "last_hidden_state")
    shown = lm("info", "m.onnx")
    assert "hidden states, for other programs" in shown.out and "22,565,376, 32 bits" in shown.out
    assert "has no language-model head" in lm("fill", "m.onnx", "a <mask>").err
    assert (tmp_path / "m.onnx").stat().st_size < 1.02 * (minilm / "model.safetensors").stat().st_size


LINES = {
    "single": [{"text": CODE[at : at + 5 + at % 140]} for at in range(0, 400, 9)],
    "tag": [{"text": CODE[at : at + 5 + at % 140]} for at in range(0, 400, 19)],
    "answer": [{"id": str(n), "question": "who?", "context": CODE[: 40 * n + 9]} for n in range(9)],
}


def close(found, expected) -> bool:
    """Whether two results say the same, numbers within 2e-4."""
    if isinstance(found, dict):
        return found.keys() == expected.keys() and all(close(found[k], expected[k]) for k in found)
    if isinstance(found, list):
        return len(found) == len(expected) and all(map(close, found, expected))
    return found == (pytest.approx(expected, abs=2e-4) if isinstance(expected, float) else expected)


@pytest.mark.parametrize("name", LINES)
def test_the_commands_say_the_same(lm, pipe, tokenizer, tmp_path, name, request):
    task, extra = KINDS[name]
    path = tmp_path / "c.ckpt"
    if name == "single":  # which is there already
        shutil.copytree(request.getfixturevalue("classifier"), tmp_path, dirs_exist_ok=True)
    else:
        save_checkpoint(path, tokenizer, CLASSES[task.__name__], head_of(name, extra), **extra)
        assert lm("export", path, "c.onnx").status == 0, "by its name"
    command = {"tag": "tag", "answer": "answer"}.get(name, "classify")
    content = "".join(json.dumps(line) + "\n" for line in LINES[name])
    found, expected = (pipe(content, command, each) for each in ("c.onnx", path))
    assert found.status == 0, found.err
    rows = [[json.loads(line) for line in each.out.splitlines()] for each in (found, expected)]
    assert len(rows[0]) == len(LINES[name]) and close(*rows)
    shown = lm("info", "c.onnx")
    assert f"lm {command} c.onnx" in shown.out and "input_ids, attention_mask; gives logits" in shown.out
    wrong = lm({"tag": "classify"}.get(command, "tag"), "c.onnx", "a")
    assert wrong.status == 1 and f"use `lm {command}`" in wrong.err


def test_gaps_are_filled(lm, trained):
    run = trained / "checkpoints/bert"
    assert lm("export", run, "b.onnx", "--to", "onnx").status == 0
    assert lm("fill", "b.onnx", "import <mask>").out == lm("fill", run, "import <mask>").out != ""


def test_integers(lm, make_foreign, tmp_path):
    folder = make_foreign("BertForSequenceClassification", **SIZES).folder
    done = lm("export", folder, "x.onnx", "--to", "onnx", "--bits", "8")
    assert done.status == 0 and done.err == "", done.err
    assert "8 bits, " in done.out and "8 bits" in lm("info", "x.onnx").out
    whole, small = open_model(folder), package.load(tmp_path / "x.onnx").model
    assert small.record["onnx"]["bytes"] < 0.4 * 4 * whole.network.num_parameters()
    given = inputs(4, 20)
    with torch.no_grad():
        a, b = (each.network(given["input_ids"], given["attention_mask"] - 1) for each in (whole, small))
    assert 0 < (a - b).abs().mean() < 0.15 * a.std()


@pytest.fixture(scope="module")
def classifier(tokenizer, tmp_path_factory):
    """A folder with c.ckpt and what was made of it, c.onnx. Not to be changed."""
    folder = tmp_path_factory.mktemp("onnx")
    task, extra = KINDS["single"]
    head = head_of("single", extra)
    save_checkpoint(folder / "c.ckpt", tokenizer, CLASSES[task.__name__], head, **extra)
    export_onnx(open_model(folder / "c.ckpt"), folder / "c.onnx")
    return folder


def test_another_weight_is_another_model(classifier, tmp_path):
    """Of an ONNX file the weights are in the graph alone: an audit of one must not hold for another."""
    model = open_model(classifier / "c.ckpt")
    model.weights["backbone.norm.weight"][0] += 1
    export_onnx(model, tmp_path / "d.onnx")
    own, other = (open_model(path, integers=True) for path in (classifier / "c.onnx", tmp_path / "d.onnx"))
    assert identity(own) != identity(other) and identity(own) == identity(
        open_model(classifier / "c.onnx", integers=True)
    )


def test_a_damaged_file_is_refused(lm, classifier, tmp_path):
    content = (classifier / "c.onnx").read_bytes()
    changed = bytearray(content)
    changed[len(content) // 3] ^= 1
    import onnx

    other = onnx.load(classifier / "c.onnx")
    other.ClearField("metadata_props")
    half = onnx.load(classifier / "c.onnx")
    half.metadata_props[0].value = "{}"
    for wrong, what in (
        (content[: len(content) // 2], "is damaged, or no ONNX file"),
        (b"no model at all", "is damaged, or no ONNX file"),
        (b"", "is damaged, or no ONNX file"),
        (bytes(changed), "is damaged: it has another checksum"),
        (other.SerializeToString(), "is not lm's, and does not say how texts become its input"),
        (half.SerializeToString(), "it does not say what its model looks like"),
    ):
        (tmp_path / "w.onnx").write_bytes(wrong)
        for command in (("classify", "w.onnx", "a"), ("info", "w.onnx")):
            failed = lm(*command)
            assert failed.status == 1 and what in failed.err, failed.err
            assert len(failed.err.splitlines()) == 1


def test_bad_input(lm, classifier, trained, tmp_path, monkeypatch):
    onnx = classifier / "c.onnx"
    (tmp_path / "t.csv").write_text("text,label\na,good\nb,bad\n")
    for words, status, what in (
        (
            ("export", trained / "checkpoints/gpt", "g.onnx", "--to", "onnx"),
            1,
            "for which an ONNX file has no",
        ),
        (
            ("export", classifier / "c.ckpt", "folder", "--to", "onnx"),
            2,
            "folder: the name of an ONNX file ends",
        ),
        (("export", classifier / "c.ckpt", onnx, "--to", "onnx"), 1, "or --force to replace it"),
        (
            ("export", classifier / "c.ckpt", "no/x.onnx", "--to", "onnx"),
            1,
            "cannot write no/x.onnx: No such",
        ),
        (("export", classifier / "c.ckpt", "x.onnx", "--to", "onnx", "--dtype=float16"), 2, "has --bits"),
        (("export", classifier / "c.ckpt", "x", "--bits=8"), 2, "--bits is for --to onnx"),
        (("export", classifier / "c.ckpt", "x.onnx", "--to", "onnx", "--bits=4"), 2, "invalid choice: 4"),
        (("export", onnx, "folder"), 1, "is an ONNX file, for use alone: give the model that it was made of"),
        (
            ("fit", "texts", "--data.train=t.csv", f"--model.init_from={onnx}"),
            1,
            "is an ONNX file, for use alone",
        ),
        (("test", onnx, "--data.test=t.csv"), 1, "is an ONNX file, for use alone"),
        (
            ("classify", onnx, "a", "--device", "meta"),
            2,
            "works on the CPU: --device meta is for checkpoints",
        ),
        (("generate", onnx, "a"), 1, "is a classifier of texts: use `lm classify`"),
        (("classify", "nothing.onnx", "a"), 1, "no such checkpoint or folder: nothing.onnx"),
        (("info", "nothing.onnx"), 1, "no such file or folder: nothing.onnx"),
    ):
        failed = lm(*words)
        assert failed.status == status and what in failed.err.splitlines()[-1], (words, failed.err)
    with pytest.raises(package.UserError, match="works in what it was written in"):
        package.load(onnx, dtype="bf16")
    assert not list(tmp_path.glob("*.onnx")) and not (tmp_path / "folder").exists()
    for missing, words in (
        ("onnxruntime", ("classify", onnx, "a")),
        ("onnxscript", ("export", classifier / "c.ckpt", "x.onnx", "--to", "onnx")),
    ):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, missing, None)
            failed = lm(*words)
        assert failed.status == 1 and f"needs {missing}: pip install -e '.[onnx]'" in failed.err, failed.err


def test_too_large_for_a_file(tokenizer, tmp_path):
    config = BackboneConfig(hidden_size=8192, num_layers=4, vocab_size=430, causal=False)
    with torch.device("meta"):
        network = make_network(config, CASES["gaps"][1])
    model = opened(network, tokenizer, {})
    with pytest.raises(package.UserError, match="more than the 2 GB that an ONNX file holds"):
        export_onnx(model, tmp_path / "x.onnx")
