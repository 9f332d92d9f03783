"""`lm compare`: records, predictions, texts and test sets through the command, and every bad input."""

import json
import math
import random
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lm import checkpoint as checkpoints
from lm.audit.checks.groups import Groups
from lm.audit.checks.robustness import Robustness
from lm.audit.subject import Subject
from lm.backbone import BackboneConfig, LanguageModel
from lm.errors import UserError
from lm.evaluation.comparison.samples import columns_of, side_by_side, wrapped
from lm.evaluation.comparison.tested import command_of
from lm.evaluation.comparison.text import Text, block_size, text_figure
from lm.predictor import load


def record(path, accuracies, task="toy", more=None, **changes):
    """A file of `lm eval`, of examples that two models share."""
    rows = [
        {"id": f"{n:016x}", "metrics": {"acc": value}, **(more(n) if more else {})}
        for n, value in enumerate(accuracies)
    ]
    metrics = {"acc": {"value": 0.0, "stderr": 0.1, "higher_is_better": True, "aggregation": "mean"}}
    file = {"format": 1, "task": task, "model": str(path), "harness": "lm-eval 0.4.13", "task_version": 1.0}
    file |= {"shots": 0, "seed": 0, "limit": None, "metrics": metrics, "records": rows}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(file | changes))
    return path


def guesses(n=400, lead=0.0, seed=0):
    """Right and wrong answers of two models, for which the same examples are hard."""
    draw = np.random.default_rng(seed)
    hard = draw.normal(size=n)
    found = hard + 0.5 * draw.normal(size=(2, n)) + [[0], [lead]]
    return (found > 0).astype(float).tolist()


@pytest.fixture
def ab(tmp_path):
    """Two records, the second a better model's."""
    a, b = guesses(lead=0.5)
    return record(tmp_path / "a.json", a), record(tmp_path / "b.json", b)


def found(lm, *words):
    result = lm("compare", *words, "--json")
    assert result.status == 0, result.err
    return json.loads(result.out)


def test_a_table_a_picture_and_json_of_records(lm, ab, tmp_path):
    result = lm("compare", *ab, "--picture", "seen.svg")
    assert result.status == 0, result.err
    assert "toy acc: B is better than A" in result.out
    assert "<svg" in (tmp_path / "seen.svg").read_text()
    assert lm("compare", *ab, "--picture", "seen.png").status == 0
    assert (tmp_path / "seen.png").read_bytes().startswith(b"\x89PNG")
    shown = found(lm, *ab)
    assert shown["models"] == [str(path) for path in ab]
    row = shown["comparisons"][0]
    a, b = guesses(lead=0.5)
    assert row["value_a"] == pytest.approx(np.mean(a)) and row["value_b"] == pytest.approx(np.mean(b))
    assert row["difference"] == pytest.approx(np.mean(b) - np.mean(a))
    assert row["stderr"] == pytest.approx(np.std(np.subtract(b, a), ddof=1) / 20)
    assert row["stderr"] < row["stderr_unpaired"]
    assert (row["better"], row["verdict"], row["test"]) == ("B", "B is better than A", "t")
    assert row["low"] > 0 and row["p"] == row["p_corrected"] < 0.05
    assert row["detectable"] == pytest.approx((1.966 + 0.8425) * row["stderr"], rel=1e-3)
    # The other way round A is the better one.
    assert found(lm, *ab[::-1])["comparisons"][0]["better"] == "A"


def test_records_are_paired_by_example_and_not_by_place(lm, ab, tmp_path):
    file = json.loads(ab[1].read_text())
    random.Random(0).shuffle(file["records"])
    ab[1].write_text(json.dumps(file))
    a, b = guesses(lead=0.5)
    row = found(lm, *ab)["comparisons"][0]
    assert row["stderr"] == pytest.approx(np.std(np.subtract(b, a), ddof=1) / 20)


def test_equals_are_rarely_said_to_differ(tmp_path, monkeypatch, capsys):
    """100 pairs of models of the same ability."""
    from lm.evaluation.comparison.compare import compare
    from lm.evaluation.comparison.records import record_figures

    claims = 0
    for seed in range(100):
        paths = [record(tmp_path / f"{n}.json", each) for n, each in enumerate(guesses(200, seed=seed))]
        comparisons, _ = compare([record_figures([path])[0] for path in paths])
        claims += comparisons[0].better is not None
        assert comparisons[0].found.error < comparisons[0].found.unpaired
    assert claims <= 8


def test_no_difference_is_no_claim_and_says_what_could_have_been_seen(lm, tmp_path):
    a, b = guesses(200, seed=3)
    words = record(tmp_path / "a.json", a), record(tmp_path / "b.json", b)
    assert "no difference seen; one of 0." in lm("compare", *words).out
    assert "A and B are the same in every example" in lm("compare", words[0], words[0]).out


def test_clusters_make_errors_larger(lm, tmp_path):
    draw = np.random.default_rng(0)
    a = draw.normal(size=200)
    b = a + np.repeat(draw.normal(size=20), 10)

    def cluster(n):
        return {"cluster": f"text {n // 10}"}

    def errors(more):
        words = record(tmp_path / "a.json", a, more=more), record(tmp_path / "b.json", b, more=more)
        return found(lm, *words)["comparisons"][0]

    alone, together = errors(None), errors(cluster)
    assert (alone["clusters"], together["clusters"]) == (200, 20)
    assert together["stderr"] > 2 * alone["stderr"]


def test_folders_and_what_only_one_of_them_has(lm, tmp_path):
    a, b = guesses(lead=0.5)
    record(tmp_path / "a/eval/toy.json", a)
    record(tmp_path / "a/eval/other.json", a, task="other")
    record(tmp_path / "a/eval/third.json", a, task="third")
    record(tmp_path / "b/toy.json", b)
    record(tmp_path / "b/third.json", b, task="third")
    (tmp_path / "b/config.json").write_text("{}")  # a Hugging Face folder's
    shown = found(lm, "a", "b")
    assert {row["figure"] for row in shown["comparisons"]} == {"toy acc", "third acc"}
    assert shown["notes"] == ["only A and not B has other acc"]
    row = shown["comparisons"][0]
    assert row["comparisons"] == 2 and row["p_corrected"] > row["p"]  # Holm
    assert [row["figure"] for row in found(lm, "a", "b", "--figures", "third")["comparisons"]] == [
        "third acc"
    ]


def test_three_models_are_compared_with_the_first(lm, ab, tmp_path):
    c = record(tmp_path / "c.json", guesses()[0])
    shown = found(lm, *ab, c)
    assert [(row["a"], row["b"], row["comparisons"]) for row in shown["comparisons"]] == [
        ("A", "B", 2),
        ("A", "C", 2),
    ]
    out = lm("compare", *ab, c).out
    assert "B − A" in out and "C − A" in out and "2 comparisons at once" in out


def test_perplexities_are_compared_in_nats(lm, tmp_path):
    told = {"higher_is_better": False, "aggregation": "perplexity"}
    byte = {"higher_is_better": False, "aggregation": "bits_per_byte"}
    draw = np.random.default_rng(0)
    nats = draw.gamma(4, size=50)
    paths = []
    for name, factor in (("a", 1.0), ("b", 0.9)):
        path = record(tmp_path / f"{name}.json", [0] * 50)
        file = json.loads(path.read_text())
        file["metrics"] = {
            "perplexity": told,
            "bits": byte,
            "words": told | {"aggregation": "weighted_perplexity"},
        }
        file["metrics"]["bleu"] = {"aggregation": "bleu"}
        for number, row in enumerate(file["records"]):
            logs = -factor * nats[number]
            row["metrics"] = {"perplexity": logs, "bits": [logs, number + 1], "words": logs, "bleu": 0.5}
        path.write_text(json.dumps(file))
        paths.append(path)
    shown = found(lm, *paths)
    of = {row["figure"]: row for row in shown["comparisons"]}
    assert shown["notes"] == [f"{letter}: toy: bleu has no figure of each example" for letter in "AB"]
    assert set(of) == {
        "toy perplexity (nats per example)",
        "toy bits (bits per byte)",
        "toy words (nats per example)",
    }
    row = of["toy perplexity (nats per example)"]
    assert row["value_a"] == pytest.approx(nats.mean()) and row["better"] == "B"
    row = of["toy bits (bits per byte)"]
    assert row["value_b"] == pytest.approx(0.9 * nats.sum() / math.log(2) / (50 * 51 / 2))


def predictions(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (
            [{"text": f"{n}", "prediction": "yn"[n % 2], "label": "y"} for n in range(9)],
            {"accuracy": 5 / 9},
        ),
        (
            [{"text": f"{n}", "prediction": ["a"], "label": ["a", "b"][: n % 2 + 1]} for n in range(4)],
            {"exact match": 0.5, "F1 of labels": 8 / 10},
        ),
        (
            [{"text": f"{n}", "prediction": n + 2.0, "label": float(n)} for n in range(4)],
            {"squared error": 4, "absolute error": 2},
        ),
        (
            [{"prompt": f"{n}", "answer": "a red dog", "reference": "the dog"} for n in range(3)],
            {"exact match": 0, "F1 of words": 2 / 3},
        ),
        (
            [{"index": n, "chosen_reward": 1.0 * n, "rejected_reward": 1.5} for n in range(4)],
            {"accuracy": 0.5},
        ),
        ([{"loss": math.log(2), "tokens": 8, "bytes": 16} for _ in range(4)], {"bits per byte": 0.5}),
        (
            [
                {"words": ["x", "y", "z"], "tags": ["B-A", "O", "B-A"], "right": ["B-A", "O", "O"]},
                {"words": ["x", "y"], "tags": ["O", "O"], "right": ["O", "B-A"]},
            ],
            {"accuracy of words": 3 / 5, "F1 of entities": 2 / 4},
        ),
        (
            [{"question": f"{n}?", "answer": "The Dog!", "right": ["dog", "cat"]} for n in range(2)],
            {"exact match": 1, "F1 of words": 1},
        ),
    ],
    ids=["labels", "several", "ratings", "chats", "preferences", "windows", "tags", "answers"],
)
def test_each_kind_of_predictions(lm, tmp_path, rows, expected):
    path = predictions(tmp_path / "predictions.jsonl", rows)
    shown = found(lm, path, tmp_path)
    assert {row["figure"].removeprefix("predictions "): row["value_a"] for row in shown["comparisons"]} == {
        name: pytest.approx(value) for name, value in expected.items()
    }


def model(path, tokenizer, seed, **changes):
    """A checkpoint of a model that has not learned anything."""
    shape = {"hidden_size": 32, "num_layers": 1, "num_heads": 2, "max_seq_len": 32, "init_std": 0.2}
    config = BackboneConfig(**shape | changes, vocab_size=tokenizer.vocab_size)
    torch.manual_seed(seed)
    record = checkpoints.make_record("lm.tasks.CausalPretraining", config, tokenizer)
    state = {f"net.{name}": tensor for name, tensor in LanguageModel(config).state_dict().items()}
    checkpoints.write({"lm": record, "state_dict": state}, path)
    return path


@torch.no_grad()
def test_bits_per_byte_by_hand(tokenizer, tmp_path):
    """Of documents and of blocks: all bits of the text, each block's bytes, whatever the tokenizer."""
    predictor = load(model(tmp_path / "a.ckpt", tokenizer, 0))
    documents = ["def parse(self):\n    return 'ß中'\n" * n for n in (1, 4)]
    text = Text(documents, [len(each.encode()) for each in documents], [])
    figure, _ = text_figure(predictor, text, None)
    blocks, _ = text_figure(predictor, text, 24)
    assert list(figure.weights) == text.sizes and blocks.weights.sum() == text.total
    assert len(blocks.weights) > 6 and blocks.weights.max() <= 36
    assert blocks.values.sum() == pytest.approx(figure.values.sum())
    network, expected = predictor.writer(), []
    for each in documents:
        ids, bits, start = tokenizer.encode(each), 0.0, 0
        while start < len(ids):
            end = min(start + 32, len(ids))
            first = max(end - 32, 0)
            row = [tokenizer.bos_id, *ids][first : end + 1]
            logs = network(torch.tensor([row[:-1]]))[0].double().log_softmax(-1)
            bits -= sum(float(logs[n, row[n + 1]]) for n in range(start - first, end - first))
            start = end
        expected.append(bits / math.log(2))
    assert list(figure.values) == pytest.approx(expected, rel=1e-5)


def test_blocks_of_few_documents():
    def of(sizes):
        return Text(["" for _ in sizes], sizes, [])

    assert block_size(of([100] * 20), 64) is None
    assert block_size(of([100] * 20 + [10_000]), 64) == 400  # one of them is nearly all there is
    assert block_size(of([1_200_000]), 100) == 40_000
    assert block_size(of([10_000]), 300) == 600
    assert block_size(of([10_000]), 9_000) == 1_000


def test_models_on_a_text(lm, trained, tmp_path, tokenizer, code_text):
    """A model that has learned beside one that has not, with another tokenizer; and beside itself."""
    learned = trained / "checkpoints/gpt"
    words = model(tmp_path / "new.ckpt", tokenizer, 1), learned, "--text", code_text
    result = lm("compare", *words, "--prompts", "def f", "class", "--tokens", "5")
    assert result.status == 0, result.err
    assert "code.py bits per byte: B is better than A" in result.out
    assert "--- def f\nA" in result.out
    shown = found(lm, *words, "--prompts", "def f", "--tokens", "5")
    row = shown["comparisons"][0]
    assert not row["higher_is_better"] and row["difference"] < 0 and row["stderr"] < row["stderr_unpaired"]
    assert row["value_b"] == pytest.approx(
        json.loads((learned / "summary.json").read_text())["bits_per_byte"], rel=0.2
    )
    assert "errors are by document, long ones cut into blocks of about" in shown["notes"][0]
    assert len(shown["samples"][0]["texts"]) == 2
    code = code_text.read_text()
    predictions(tmp_path / "rows.jsonl", [{"text": code[n : n + 100]} for n in range(0, 6000, 100)])
    shown = found(lm, learned, learned, "--text", "rows.jsonl")
    row = shown["comparisons"][0]
    assert (row["examples"], row["test"], row["better"]) == (60, "same", None)
    assert shown["notes"][0].endswith("errors are by document")


@pytest.mark.parametrize("command", ["classify", "tag", "answer", "chat"])
def test_fine_tuned_models_on_a_test_set(lm, tmp_path, tokenizer, command):
    """A model beside itself with other weights: the figures are those that `lm test` gives."""
    data, task, start = {
        "classify": ("TextData", "SequenceClassification", "bert"),
        "tag": ("TagData", "TokenClassification", "bert"),
        "answer": ("QuestionData", "QuestionAnswering", "bert"),
        "chat": ("ChatData", "InstructionTuning", "gpt"),
    }[command]
    words = ("parser", "argument", "value", "option", "name", "type", "default")
    rows = []
    for n in range(24):
        chosen = [words[n * k % 7] for k in (2, 3, 5, 1)]
        text, pair = " ".join(chosen), " ".join(words[: n // 2 % 7]) + f" {n // 2}"
        rows.append(
            {
                "classify": {"text": f"{text} {n}", "label": ("yes", "no")[n % 2]},
                "tag": {
                    "words": [*chosen, str(n)],
                    "tags": ["B-X" if w[0] < "d" else "O" for w in chosen] + ["O"],
                },
                "answer": {
                    "id": str(n),
                    "question": f"what {n}?",
                    "context": f"the {pair}",
                    "answers": [{"text": pair[:6], "answer_start": 4}],
                },
                "chat": {
                    "messages": [
                        {"role": "user", "content": f"{text} {n}"},
                        {"role": "assistant", "content": chosen[0]},
                    ]
                },
            }[command]
        )
    predictions(tmp_path / "rows.jsonl", rows)
    shape = {"init_std": 0.2} | (
        {"causal": False, "positions": "learned", "segments": 2, "norm": "layer", "norm_position": "after"}
        if start == "bert"
        else {}
    )
    model(tmp_path / "start.ckpt", tokenizer, 0, max_seq_len=48, **shape)
    for name in ("a", "b"):
        result = lm(
            *("fit", "--data", f"lm.data.{data}", "--data.train=rows.jsonl", "--data.test=rows.jsonl"),
            *("--data.seq_len=48", "--data.batch_size=8", "--model", f"lm.tasks.{task}"),
            *("--model.init_from=start.ckpt", "--model.optimizer=torch.optim.AdamW"),
            *(f"--model.optimizer.lr={0.003 if name == 'a' else 0.01}", "--trainer.max_steps=3"),
            *("--trainer.accelerator=cpu", "--trainer.logger=false", f"--name={name}"),
        )
        assert result.status == 0, result.err
    shown = found(lm, "checkpoints/a", "checkpoints/b", "--test")
    of = {row["figure"].removeprefix("rows.jsonl "): row for row in shown["comparisons"]}
    tested = json.loads((tmp_path / "checkpoints/a/summary.json").read_text())
    for ours, theirs, scale in {
        "classify": [("accuracy", "accuracy", 1)],
        "tag": [("F1 of entities", "f1", 1), ("accuracy of words", "accuracy", 1)],
        "answer": [("exact match", "exact_match", 100), ("F1 of words", "f1", 100)],
        "chat": [("F1 of words", "", 1)],
    }[command]:
        assert ours in of
        if theirs:
            assert scale * of[ours]["value_a"] == pytest.approx(tested[f"test_{theirs}"], rel=1e-5)
    if command == "answer":
        assert next(iter(of.values()))["clusters"] == 12  # two questions on each text


def test_bad_input(lm, ab, tmp_path, trained, tokenizer):
    a = ab[0]
    gpt, bert = trained / "checkpoints/gpt", trained / "checkpoints/bert"
    few = record(tmp_path / "few.json", guesses()[0][:50])
    shots = record(tmp_path / "shots.json", guesses()[0], shots=5)
    version = record(tmp_path / "version.json", guesses()[0], task_version=2.0)
    other = record(tmp_path / "other.json", guesses()[0], task="other")
    new = record(tmp_path / "new.json", guesses()[0], format=2)
    nothing = record(tmp_path / "nothing.json", [])
    one = record(tmp_path / "one.json", [1.0])
    number = record(tmp_path / "number.json", [1.0, math.nan])
    lacks = record(tmp_path / "lacks.json", [1.0], records=[{"metrics": {}}])
    (tmp_path / "damaged.json").write_text(a.read_text()[:200])
    (tmp_path / "empty.json").write_text("")
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "void").mkdir()
    shutil.copytree(tmp_path / "void", tmp_path / "twice")
    record(tmp_path / "twice/1.json", [1.0, 0.0])
    record(tmp_path / "twice/2.json", [1.0, 0.0])
    record(tmp_path / "half/eval/1.json", [1.0, 0.0])
    (tmp_path / "half/eval/2.json").write_text('{"format": 1, "task": ')
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "odd.jsonl").write_text('{"x": 1}\n')
    (tmp_path / "bad.jsonl").write_text('{"prediction": 1\n')
    tags = predictions(tmp_path / "tags.jsonl", [{"words": ["a"], "tags": ["O"]}])
    unknown = predictions(tmp_path / "unknown.jsonl", [{"text": "a", "prediction": "x", "label": None}])
    (tmp_path / "short.txt").write_text("a few words")
    for words, status, says in (
        ([a], 2, "1 given: name two models or more"),
        ([a, few], 1, "hold records of other examples to compare in toy acc: 350 of 400 and 0 of 50"),
        ([a, shots], 1, "can't be compared in toy acc: the number of shots is 0 and 5"),
        ([a, version], 1, "the task's version is 1.0 and 2.0"),
        ([a, other], 1, "there is nothing to compare; only A and not B has toy acc; only B and not A has"),
        ([a, new], 1, "is of format 2; this lm reads 1"),
        ([a, nothing], 1, "nothing.json holds no records"),
        ([one, one], 1, "1 cluster"),
        ([number, number], 1, "the acc of record 2 is no finite number"),
        ([lacks, lacks], 1, "is damaged: record 1 has no id"),
        ([a, "damaged.json"], 1, "damaged.json is damaged: it is not JSON"),
        ([a, "empty.json"], 1, "empty.json is empty"),
        ([a, "empty.jsonl"], 1, "empty.jsonl is empty"),
        ([a, "list.json"], 1, "list.json holds no records of `lm eval`"),
        ([a, "missing.json"], 1, "there is no file or folder missing.json"),
        ([a, "void"], 1, "void holds neither records of `lm eval` nor predictions of `lm predict`"),
        ([a, "twice"], 1, "are both of toy: name one of them"),
        ([a, "half"], 1, "half/eval/2.json is damaged: it is not JSON"),
        ([a, "odd.jsonl"], 1, "odd.jsonl holds no predictions of `lm predict` that can be compared"),
        ([a, "bad.jsonl"], 1, "bad.jsonl:1 is damaged"),
        ([tags, tags], 1, "its rows hold no right answers"),
        ([unknown, unknown], 1, "row 1 has no label"),
        ([a, ab[1], "--figures", "f1"], 2, "no figure's name holds f1: there are toy acc"),
        ([a, ab[1], "--picture", "seen.gif"], 2, "its name must end in .png or .svg"),
        ([a, ab[1], "--picture", "no/seen.png"], 1, "there is no folder no"),
        (
            [gpt / "best.ckpt", gpt],
            2,
            "is a model: say on what to compare it, by --text, --test or --prompts",
        ),
        ([gpt, bert, "--text", "short.txt"], 1, "is a BERT: it sees both sides of a gap"),
        ([gpt, gpt, "--text", "short.txt"], 1, "the text has 11 bytes"),
        ([gpt, gpt, "--text", "none.txt"], 1, "no such file or folder: none.txt"),
        ([gpt, gpt, "--test", "short.txt"], 1, "is a pretrained GPT, to which no test set belongs"),
        ([gpt, bert, "--prompts", "a"], 1, "is a BERT"),
        ([gpt, gpt, "--prompts", " "], 2, "a prompt is empty"),
        ([gpt, gpt, "--prompts", "a", "--tokens", "0"], 2, "--tokens 0: it must be at least 1"),
        ([gpt, gpt, "--prompts", "a", "--picture", "a.png"], 2, "prompts have none"),
        ([gpt, "checkpoints/none", "--text", "short.txt"], 1, "no such checkpoint or folder"),
        ([a, ab[1], "--pictures", "a.png"], 2, "did you mean --picture?"),
    ):
        result = lm("compare", *words)
        assert (result.status, says in result.err) == (status, True), (words, result)
        assert len(result.err.splitlines()) == 1 and not result.out
    assert not list(tmp_path.glob("*seen*"))


def test_texts_side_by_side():
    assert wrapped("中文abc\nd", 4) == ["中文", "abc", "d"]
    assert columns_of("中a\u0301") == 3
    lines = list(side_by_side(["p\nq"], [["中文" * 20], ["a\x1b[2J"]], 63))
    assert lines[0] == "--- p q"
    assert all(columns_of(line) <= 63 for line in lines)
    assert lines[2].endswith("│ a[2J")
    assert list(side_by_side(["p"], [["x"], ["y"]], 40))[1:3] == ["A x", "B y"]


def test_prompts_of_files(lm, trained, tmp_path):
    (tmp_path / "prompts.txt").write_text('def f\n\n{"prompt": "class\\nA"}\n')
    gpt = trained / "checkpoints/gpt"
    shown = found(lm, gpt, gpt, "--prompts", "prompts.txt", "x", "--tokens", "4", "--temperature", "0.9")
    assert [row["prompt"] for row in shown["samples"]] == ["def f", "class\nA", "x"]
    assert all(row["texts"][0] == row["texts"][1] for row in shown["samples"])  # the same seeds
    assert shown["comparisons"] == []


@pytest.mark.parametrize("task", ["ImageClassification", "AudioClassification", "SpeechRecognition"])
def test_no_file_of_texts_tests_what_takes_none(task):
    """Nor do checks of classifiers of texts look at it."""
    model = SimpleNamespace(model=SimpleNamespace(record={"task": f"lm.tasks.{task}"}, source="m"))
    with pytest.raises(UserError, match="to which no test set belongs: compare what `lm test` finds"):
        command_of(model)
    assert Robustness().unfit(Subject(model)) == "it is no classifier of texts"
    assert Groups().unfit(Subject(model)) == "it does not put one label on a text"
