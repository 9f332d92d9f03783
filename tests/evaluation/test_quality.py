"""A corpus cleaned by a model of one's own."""

import json
import math
from pathlib import Path

import pytest
import torch

import lm as package
from lm.data.corpus.documents import Document
from lm.data.corpus.provenance import removed
from lm.errors import SetupError, UserError
from lm.evaluation import ModelScore
from tests.commands.test_apply import CLASSES, KINDS, head_of, save
from tests.data.corpus.test_prepare import texts

NOISE = "xq zzk jjjw qqx vvvk zxqj " * 8
RECIPE = """
name: rated
sources: [{class_path: JsonLines, init_args: {path: rows.jsonl, name: rows}}]
steps: [{class_path: lm.evaluation.ModelScore, init_args: {model: MODEL, BOUNDS}}]
vocab_size: 400
"""


def test_a_gpt_gives_bits_per_byte(trained):
    checkpoint = trained / "checkpoints/gpt"
    step = ModelScore(str(checkpoint), most=7)
    model = package.load(checkpoint)
    text = Path(__file__).read_text()[:24]
    good, bad = Document(text), Document(NOISE)
    step(good)
    assert step(bad) == "score above 7" and bad.meta["score"] > good.meta["score"]
    ids = [model.tokenizer.bos_id, *model.tokenizer.encode(text)]
    assert len(ids) <= model.config.max_seq_len
    with torch.no_grad():
        logits = model.writer()(torch.tensor([ids[:-1]]))[0].double().log_softmax(-1)
    nats = -logits[torch.arange(len(ids) - 1), torch.tensor(ids[1:])].sum()
    assert good.meta["score"] == pytest.approx(float(nats) / math.log(2) / len(text.encode()), abs=1e-3)
    assert ModelScore(str(checkpoint), least=0)(Document("x" * 1_000_000)) is None, "as far as it sees"


def test_a_recipe_leaves_out_what_a_model_finds_bad(lm, trained, tmp_path):
    pytest.importorskip("datatrove", reason="the extra `corpus` is not installed")
    rows = [*texts(40), *[NOISE + str(number) for number in range(10)]]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    recipe = RECIPE.replace("MODEL", str(trained / "checkpoints/gpt"))
    (tmp_path / "r.yaml").write_text(recipe.replace("BOUNDS", "most: 7.0"))
    done = lm("prepare", "r.yaml")
    assert done.status == 0, done.err
    (folder,) = (path for path in (tmp_path / "data").iterdir() if path.is_dir())
    assert {row["reason"] for row in removed(folder)} == {"score above 7"}
    gone = {row["id"] for row in removed(folder)}
    assert {f"rows/rows.jsonl#{number}" for number in range(40, 50)} <= gone and len(gone) < 30
    for bounds, what in (
        ("least: 0.5, label: good", ""),
        ("label: good", "ModelScore has no bound: give `least` or `most`"),
    ):
        (tmp_path / "r.yaml").write_text(recipe.replace("BOUNDS", bounds))
        failed = lm("prepare", "r.yaml")
        assert failed.status and what in failed.err if what else failed.status == 0
    (tmp_path / "r.yaml").write_text(RECIPE.replace("MODEL", "nothing").replace("BOUNDS", "most: 7"))
    failed = lm("prepare", "r.yaml")
    assert failed.status == 2 and "`model` nothing: there is no such file or folder" in failed.err
    (tmp_path / "r.yaml").write_text(
        RECIPE.replace("MODEL", str(trained / "checkpoints/bert")).replace("BOUNDS", "most: 7")
    )
    failed = lm("prepare", "r.yaml")
    assert failed.status == 1 and "is a BERT: ModelScore takes a GPT or a classifier" in failed.err


def test_a_classifier_gives_the_probability_of_a_label(tmp_path, tokenizer):
    for kind, label, wrong in (("single", "good", "fine"), ("rating", None, None)):
        task, extra = KINDS[kind]
        path = save(
            tmp_path / f"{kind}.ckpt", tokenizer, CLASSES[task.__name__], head_of(kind, extra), **extra
        )
        text = "raise ValueError"
        row = package.load(path).classify(text)
        expected = row["probabilities"][label] if label else row["prediction"]
        document = Document(text)
        assert ModelScore(str(path), label, least=expected - 0.01)(document) is None
        assert document.meta["score"] == pytest.approx(expected, abs=1e-4)
        assert ModelScore(str(path), label, least=expected + 0.01)(Document(text)).startswith("score below")
        assert ModelScore(str(path), label, most=expected - 0.01)(Document(text)).startswith("score above")
        if wrong:
            with pytest.raises(SetupError, match="has no label 'fine': give one of bad, good, so-so as"):
                ModelScore(str(path), wrong, least=0.5)(Document(text))
    with pytest.raises(UserError, match="no bound"):
        ModelScore(str(path))
