"""What a report says of compressed models: its figures by hand, its table, its picture."""

import json
import math
import statistics
from dataclasses import replace
from types import SimpleNamespace

import pytest

import lm as package
from lm.compression import quantise
from lm.compression.picture import picture
from lm.compression.report import Variant, dominated, measurable, remarks, report, table
from lm.convert import export_onnx, open_model
from lm.errors import UserError
from lm.inference.scoring import score, windows
from lm.predictor import Predictor
from tests.commands.test_apply import CLASSES, CODE, KINDS, head_of
from tests.commands.test_apply import save as save_checkpoint


def test_a_text_by_hand(trained, code_text, tmp_path):
    text = code_text.read_text()[:6000]
    (tmp_path / "t.txt").write_text(text)
    plain = open_model(trained / "checkpoints/gpt")
    models = {"whole": Predictor(plain), "int4": Predictor(quantise(plain, 4))}
    whole, small = report(models, str(tmp_path / "t.txt"), (2,), {"int4": 1_500_000})
    tokenizer = plain.tokenizer
    parts = windows(tokenizer.encode(text), tokenizer.start_id, min(512, plain.config.max_seq_len))
    a, b = ([-each.total for each in score(model.writer(), parts)] for model in models.values())
    counts = [len(ids) - start for ids, start in parts]
    change = (sum(b) - sum(a)) / sum(counts)
    rest = [y - x - change * n for x, y, n in zip(a, b, counts, strict=True)]
    error = math.sqrt(len(parts)) * statistics.stdev(rest) / sum(counts)
    assert small.change == pytest.approx(math.expm1(change))
    assert (small.figure, small.change_of) == ("bits per byte", "perplexity")
    assert small.change_error == pytest.approx(error * math.exp(change))
    bits = sum(a) / math.log(2) / len(text.encode())
    rest = [x - sum(a) / sum(counts) * n for x, n in zip(a, counts, strict=True)]
    error = math.sqrt(len(parts)) * statistics.stdev(rest) / math.log(2) / len(text.encode())
    assert (whole.quality, whole.error) == (pytest.approx(bits), pytest.approx(error))
    assert (whole.change, whole.change_error, whole.disk, small.disk) == (0, 0, None, 1.5)
    tensors = {each.data_ptr(): each.nbytes for each in plain.network.state_dict().values()}
    assert whole.megabytes * 1e6 == sum(tensors.values()) > 1e6 * small.megabytes
    assert whole.layers is None and 6 < small.layers < 6.5 and whole.zeros == 0
    assert whole.unit == "tokens" and set(whole.speed) == {2} and whole.speed[2] > 0 < whole.noise[2]


@pytest.fixture(scope="module")
def classifier(tokenizer, tmp_path_factory):
    """A folder with single.ckpt, tag.ckpt and answer.ckpt, and texts with labels for the first, test.jsonl,
    most of which it has right. Not to be changed."""
    folder = tmp_path_factory.mktemp("report")
    for name in ("single", "tag", "answer"):
        task, extra = KINDS[name]
        path = folder / f"{name}.ckpt"
        save_checkpoint(path, tokenizer, CLASSES[task.__name__], head_of(name, extra), **extra)
    texts = [" ".join(CODE[at : at + 5 + at % 90].split()) for at in range(0, 600, 15)]
    found = [row["prediction"] for row in package.load(folder / "single.ckpt").classify(texts)]
    labels = ["bad" if n % 5 == 0 else label for n, label in enumerate(found)]
    rows = [json.dumps({"text": t, "label": v}) for t, v in zip(texts, labels, strict=True)]
    (folder / "test.jsonl").write_text("\n".join(rows))
    return folder


def test_a_classifier_by_hand(classifier, tmp_path):
    pytest.importorskip("onnxscript")
    plain = open_model(classifier / "single.ckpt")
    empty = replace(plain, weights={k: v * (v.abs() > 0.1) for k, v in plain.weights.items()})
    made = export_onnx(plain, tmp_path / "x.onnx")
    models = {name: Predictor(each) for name, each in {"whole": plain, "empty": empty}.items()}
    models["onnx"] = package.load(tmp_path / "x.onnx")
    measurable([*models.values()], str(classifier / "test.jsonl"))
    whole, zeros, onnx = report(models, str(classifier / "test.jsonl"), (1, 32))
    rows = [json.loads(line) for line in (classifier / "test.jsonl").open()]
    right = {
        name: [found["prediction"] == row["label"] for found, row in zip(answers, rows, strict=True)]
        for name, answers in (
            (name, model.classify([row["text"] for row in rows])) for name, model in models.items()
        )
    }
    n = len(rows)
    for variant, name in ((whole, "whole"), (zeros, "empty"), (onnx, "onnx")):
        share = sum(right[name]) / n
        assert (variant.figure, variant.higher, variant.unit) == ("accuracy", True, "examples")
        assert variant.change_of == "accuracy"
        assert variant.quality == pytest.approx(share)
        assert variant.error == pytest.approx(math.sqrt(share * (1 - share) / (n - 1)))
        more = [int(b) - int(a) for a, b in zip(right["whole"], right[name], strict=True)]
        assert variant.change == pytest.approx(sum(more) / n)
        assert variant.change_error == pytest.approx(statistics.stdev(more) / math.sqrt(n))
        assert set(variant.speed) == {1, 32} and min(variant.speed.values()) > 0
    assert 0.5 < whole.quality < 1 and zeros.change_error > 0 and onnx.change == 0
    assert onnx.megabytes == made["bytes"] / 1e6 == pytest.approx(whole.megabytes, rel=0.1)
    weights = [v for k, v in empty.weights.items() if "blocks" in k and v.ndim == 2]
    share = sum(int((v == 0).sum()) for v in weights) / sum(v.numel() for v in weights)
    assert zeros.zeros == pytest.approx(share) and share > 0.2 and whole.zeros == onnx.zeros == 0


@pytest.mark.parametrize(
    ("name", "figure", "row"),
    [
        ("tag", "F1 of entities", {"words": ["a", "big", "city"], "tags": ["O", "B-LOC", "I-LOC"]}),
        ("answer", "F1 of words", {"question": "who?", "context": "def parse", "answers": ["parse"]}),
    ],
)
def test_taggers_and_finders_of_answers(classifier, tmp_path, name, figure, row):
    (tmp_path / "t.jsonl").write_text("".join(json.dumps({**row, "id": str(n)}) + "\n" for n in range(3)))
    plain = open_model(classifier / f"{name}.ckpt")
    models = {"whole": Predictor(plain), "int8": Predictor(quantise(plain, 8))}
    found = report(models, str(tmp_path / "t.jsonl"), (1,))
    assert [each.figure for each in found] == [figure] * 2 and found[0].higher


def variant(name: str, size: float, speeds: tuple[float, float], change: float, **more) -> Variant:
    made = Variant(
        name,
        size,
        size,
        None,
        0.0,
        dict(zip((1, 32), speeds, strict=True)),
        "examples",
        "accuracy",
        0.9 + change,
        0.01,
        "accuracy",
    )
    return replace(made, **{"change": change, "change_error": abs(change) / 2, "higher": True, **more})


VARIANTS = [
    variant("as it is", 90.0, (50, 65), 0.0),
    variant("int8", 58.0, (60, 63), 0.001, layers=3.98),
    variant("int4", 54.0, (70, 64), -0.004, layers=6.4),
    variant("half zeros", 90.0, (51, 65.5), -0.006, zeros=0.5),
    variant("4 of 6 layers", 66.0, (73, 95), -0.02),
    variant("onnx", 90.3, (62, 58), 0.0),
]
TABLE = """\
               MB on disk  MB in memory  layers  zeros  ex/s at 1  ex/s at 32        accuracy      difference
as it is             90.0          90.0                 50 (1.00)   65 (1.00)  90.00% ± 1.00%
int8                 58.0          58.0  1/3.98         60 (1.20)   63 (0.97)  90.10% ± 1.00%  +0.10% ± 0.05%
int4                 54.0          54.0  1/6.40         70 (1.40)   64 (0.98)  89.60% ± 1.00%  -0.40% ± 0.20%
half zeros           90.0          90.0            50%  51 (1.02)   66 (1.01)  89.40% ± 1.00%  -0.60% ± 0.30%
4 of 6 layers        66.0          66.0                 73 (1.46)   95 (1.46)  88.00% ± 1.00%  -2.00% ± 1.00%
onnx                 90.3          90.3                 62 (1.24)   58 (0.89)  90.00% ± 1.00%  +0.00% ± 0.00%
as it is: outdone by int8, as small, as fast and as good, and better in one of these
half zeros: outdone by int4, as small, as fast and as good, and better in one of these
onnx: outdone by int8, as small, as fast and as good, and better in one of these
half zeros: 50% of the layers' weights are zero, which made it neither smaller nor faster: zeros are stored \
and multiplied as other numbers are"""


def test_the_table():
    assert table(VARIANTS) == TABLE
    texts = [
        replace(each, figure="bits per byte", change_of="perplexity", unit="tokens", disk=None)
        for each in VARIANTS[:3]
    ]
    texts = [replace(each, higher=False, change=-each.change) for each in texts]
    head, first, _, last, *rest = table(texts).splitlines()
    assert " ".join(head.split()) == "MB in memory layers tok/s at 1 tok/s at 32 bits per byte perplexity"
    assert first.split()[-3:] == ["0.9000", "±", "0.0100"] and last.endswith(
        "0.8960 ± 0.0100  +0.40% ± 0.20%"
    )
    assert len(rest) == 1, "of perplexity less is better, so the same one is preferred"


def test_what_is_close_counts_as_equal():
    first = variant("a", 10, (10, 10), 0.0)
    for other, wanted in (
        (variant("b", 10, (10, 10), 0.0), {}),
        (variant("b", 10.05, (10.4, 9.6), 0.0), {}),
        (variant("b", 10.05, (10.6, 9.6), 0.0), {"a": "b"}),
        (variant("b", 9.8, (9.6, 9.6), 0.0), {"a": "b"}),
        (variant("b", 10, (10, 9.4), 0.0), {"b": "a"}),
        (variant("b", 10, (10.6, 9.4), 0.0), {}),
        (variant("b", 10, (9.6, 10), 1e-6), {"a": "b"}),
        (variant("b", 2, (20, 20), -1e-6), {}),
    ):
        assert dominated([first, other]) == wanted, other


def test_who_varies_more_is_not_outdone_by_it():
    """Equal shapes, one of which was faster by 20%, while turns differ by 15% and 8%, or by 2%."""
    one, other = variant("a", 10, (10, 10), 0.0, zeros=0.5), variant("b", 10, (12, 10), 0.0, zeros=0.5)
    for noise, outdone in ((0.15, {}), (0.02, {"a": "b"})):
        pair = [replace(one, noise={1: noise, 32: 0}), replace(other, noise={1: 0.08, 32: 0})]
        assert dominated(pair) == outdone
        assert len(remarks(pair)) == 1, "outdone, or zeros that have brought nothing"


def test_the_picture(tmp_path, monkeypatch):
    canvas = pytest.importorskip("matplotlib.figure")
    from matplotlib.collections import PathCollection

    drawn, save = [], canvas.Figure.savefig
    monkeypatch.setattr(
        canvas.Figure, "savefig", lambda self, *a, **k: (drawn.append(self), save(self, *a, **k))
    )
    many = [*VARIANTS, replace(VARIANTS[0], name="a twin of it with $1 $2")]
    picture(many, tmp_path / "p.png")
    assert (tmp_path / "p.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    fourteen = [variant(f"twin {n}_$x$", 90 - n, (50 + n, 60), -0.001 * n) for n in range(14)]
    picture(fourteen, tmp_path / "p.png")  # names have no room
    figure, crowded = drawn
    for axis in crowded.axes:
        assert [text.get_text() for text in axis.texts] == [str(n) for n in range(1, 15)]
    (legend,) = crowded.legends
    named = [text.get_text() for text in legend.get_texts()]
    assert named == [f"{n}  {each.name}" for n, each in enumerate(fourteen, start=1)]
    assert crowded.bbox.contains(*legend.get_window_extent().max) and not figure.legends
    for axis, place in zip(figure.axes, (lambda v: v.speed[1], lambda v: v.size), strict=True):
        points = [each for each in axis.collections if isinstance(each, PathCollection)]
        offsets = [tuple(point.get_offsets()[0]) for point in points]
        assert offsets == [(place(v), v.change) for v in many]
        hollow = [v.name for v, point in zip(many, points, strict=True) if not len(point.get_facecolor())]
        assert hollow == list(dominated(many))
        assert [text.get_text() for text in axis.texts] == [v.name for v in many]
        boxes = [text.get_window_extent() for text in axis.texts]
        inside = axis.get_window_extent()
        for n, box in enumerate(boxes):
            assert not any(box.overlaps(other) for other in boxes[:n]), many[n].name
            assert inside.contains(box.x0, box.y0) and inside.contains(box.x1, box.y1), many[n].name
    # The front: the fastest, and what is better than all that is faster.
    line = figure.axes[0].lines[0]
    assert list(line.get_xdata()) == [73, 70, 60] and list(line.get_ydata()) == [-0.02, -0.004, 0.001]
    for name in ("p.svg", "p.pdf"):
        picture(many[:1], tmp_path / name)
        assert (tmp_path / name).stat().st_size > 1000
    for path, what in (("p.gif", "ends in .png, .svg, .pdf"), ("no/p.png", "there is no folder")):
        with pytest.raises(UserError, match=what):
            picture(many, tmp_path / path)


def test_what_can_not_be_measured(trained, classifier, tmp_path, code_text):
    gpt, bert, single = (
        package.load(path)
        for path in (
            *(trained / "checkpoints" / name for name in ("gpt", "bert")),
            classifier / "single.ckpt",
        )
    )
    (tmp_path / "short.txt").write_text("too short")
    (tmp_path / "bare.csv").write_text("text,label\na,\nb,\n")
    text, tests = str(code_text), str(classifier / "test.jsonl")
    for model, file, what in (
        (bert, text, "is a BERT, which fills gaps"),
        (gpt, str(tmp_path / "short.txt"), "a report wants 128 at least"),
        (gpt, "nothing.txt", r"nothing\.txt: No such file"),
        (single, str(tmp_path / "bare.csv"), "label"),
        (single, "nothing.csv", r"nothing\.csv"),
    ):
        with pytest.raises(UserError, match=what):
            measurable([model], file)
    tagger = package.load(classifier / "tag.ckpt")
    for beside, what in (((single, tagger), "a tagger of words"), ((gpt, single), "a classifier of texts")):
        with pytest.raises(UserError, match=f"is {what}, .* is a .*: a report compares models for the same"):
            measurable(beside, tests)
    other = Predictor(replace(single.model, processor=SimpleNamespace(fingerprint="another")))
    with pytest.raises(UserError, match="the same tokenizer"):
        report({"a": single, "b": other}, tests)
