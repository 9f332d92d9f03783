"""Classifiers that transformers wrote: their outputs and labels here, and by the commands."""

import json

import pytest
import torch

from lm.convert import open_model
from lm.errors import UserError
from lm.tasks.table import entry_of

from .conftest import GPT2, GROUPED, SIZES

NAMES = {0: "O", 1: "B-LOC", 2: "I-LOC"}
IDS = torch.arange(2, 42).view(2, 20) * 7 % 290
ROBERTA = {**SIZES, "type_vocab_size": 1}


@pytest.mark.parametrize(
    ("kind", "settings", "command"),
    [
        ("GPT2ForSequenceClassification", GPT2, "classify"),
        ("LlamaForSequenceClassification", GROUPED, "classify"),
        ("BertForSequenceClassification", SIZES, "classify"),
        ("RobertaForSequenceClassification", ROBERTA, "classify"),
        ("BertForTokenClassification", SIZES, "tag"),
        ("RobertaForTokenClassification", ROBERTA, "tag"),
        ("BertForQuestionAnswering", SIZES, "answer"),
    ],
)
def test_outputs_and_labels_are_those_of_transformers(kind, settings, command, make_foreign, pipe):
    labels = {} if command == "answer" else {"id2label": NAMES, "label2id": {n: i for i, n in NAMES.items()}}
    foreign = make_foreign(kind, **settings, **labels)
    model = open_model(foreign.folder)
    assert entry_of(model.record).command == command
    assert model.record["labels"] == list(labels.get("id2label", {}).values())
    for one in IDS:  # a GPT of theirs takes several only with a padding token
        with torch.no_grad():
            theirs = foreign.model(input_ids=one[None])
            ours = model.network(one[None])
        if command == "answer":
            ours = ours.unbind(-1)
            torch.testing.assert_close(ours, (theirs.start_logits, theirs.end_logits), atol=1e-4, rtol=1e-4)
        else:
            torch.testing.assert_close(ours, theirs.logits, atol=1e-4, rtol=1e-4)
    line = {"question": "who?", "context": "def f"} if command == "answer" else {"text": "def f"}
    result = pipe(json.dumps(line), command, foreign.folder)
    assert result.status == 0, result.err
    (row,) = map(json.loads, result.out.splitlines())
    if command == "classify":
        assert list(row["probabilities"]) == list(NAMES.values())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"id2label": {"0": "a"}}, "id2label does not name the 3 outputs"),
        ({"id2label": {"0": "a", "1": "a", "2": "b"}}, "gives two outputs one label"),
        ({"problem_type": "regression"}, "a rating is one number, and there are 3 outputs"),
    ],
)
def test_labels_that_do_not_fit_are_refused(fields, message, make_foreign):
    folder = make_foreign("BertForSequenceClassification", **SIZES, num_labels=3).folder
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | fields))
    with pytest.raises(UserError, match=rf"config\.json: .*{message}"):
        open_model(folder)


def test_a_pretrained_folder_is_no_classifier(make_foreign, lm):
    folder = make_foreign("LlamaForCausalLM", **GROUPED).folder
    result = lm("classify", folder, "a")
    assert (result.status, "`lm classify` needs one that was fine-tuned for it" in result.err) == (1, True)
    shown = lm("info", folder)
    assert shown.status == 0 and "Hugging Face folder" in shown.out and f"lm generate {folder}" in shown.out
    written = [lm("generate", folder, *words, "--tokens=5").out for words in (["def"], ["--prompt=def"])]
    assert written[0] == written[1] != ""
    assert lm("generate", folder, "a", "--prompt=b").status == 2


def test_a_classifier_of_transformers_is_tested_on_a_file(make_foreign, lm, tmp_path):
    labels = {"id2label": NAMES, "label2id": {n: i for i, n in NAMES.items()}}
    foreign = make_foreign("BertForSequenceClassification", **SIZES, **labels)
    rows = [(f"def f{i}", "O" if i % 2 else "B-LOC") for i in range(12)]
    (tmp_path / "t.csv").write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in rows))
    words = ("--data.test", "t.csv", "--data.root=.")
    result = lm("predict", foreign.folder, *words, "--name", "p")
    assert result.status == 0, result.err
    found = [json.loads(line) for line in (tmp_path / "checkpoints/p/predictions.jsonl").open()]
    right = sum(row["prediction"] == label for row, (_, label) in zip(found, rows, strict=True))
    result = lm("test", foreign.folder, *words)
    assert f"accuracy {right / 12:.1%}" in result.out
    assert "give --data.test FILE" in lm("test", foreign.folder).err
