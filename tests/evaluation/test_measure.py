"""`lm eval`: the harness's own model beside ours, and figures by hand."""

import json
import math
import random
import shutil
from pathlib import Path

import pytest
import torch

import lm as package
from lm import evaluation
from lm.errors import UserError
from lm.evaluation import evaluate
from lm.evaluation.records import read
from tests.inference.test_chat import save

pytest.importorskip("lm_eval", reason="the extra `eval` is not installed")
from lm.evaluation import harness

SHIPPED = ["local_arc_easy", "local_winogrande", "local_lambada"]
DATA = """
dataset_path: json
dataset_kwargs: {data_files: {test: mine.jsonl}}
test_split: test
"""
CHOICES = (
    f"{DATA}task: mine"
    + """
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: options
doc_to_target: right
target_delimiter: ""
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
metadata: {version: 3}
"""
)
WRITING = (
    f"{DATA}task: writing"
    + """
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{options[right]}}"
generation_kwargs: {until: ["\\n"], max_gen_toks: 8}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""
)
ROWS = [
    {"question": "def parse", "options": ["(self)", "(self, text, name=None)", " xyz"], "right": 0},
    {"question": "import", "options": [" os", " sys as _sys", " qqq"], "right": 1},
    {"question": "    return self", "options": [".", ".prefix_chars", "jjj"], "right": 1},
    {"question": "raise", "options": [" ValueError(message)", " error", "zzz"], "right": 0},
]


@pytest.fixture
def mine(tmp_path) -> Path:
    """Tasks on a file of one's own."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data/mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (tmp_path / "mine.yaml").write_text(CHOICES)
    (tmp_path / "writing.yaml").write_text(WRITING)
    return tmp_path


def nats(path: Path, task: str) -> list[list[float]]:
    return [[answer[0] for answer in row["answers"]] for row in read(path / f"{task}.json").records]


@torch.no_grad()
def by_hand(model: package.Predictor, context: str, continuation: str) -> float:
    """Of the continuation, a token after the other."""
    words, network = model.tokenizer, model.writer()
    ids = [words.bos_id, *words.encode(context + continuation)]
    start = len(words.encode(context)) + 1
    logits = network(torch.tensor([ids]))[0].double().log_softmax(-1)
    return float(sum(logits[at - 1, ids[at]] for at in range(start, len(ids))))


def test_each_choice_by_hand(lm, trained, mine):
    run = trained / "checkpoints/gpt"
    for size in ("1", "16"):
        done = lm("eval", run, "--tasks", "mine.yaml", "--batch_size", size, "--out", f"out-{size}")
        assert done.status == 0, done.err
    alone, together = nats(mine / "out-1", "mine"), nats(mine / "out-16", "mine")
    model = package.load(run)
    right = 0
    for row, a, b in zip(ROWS, alone, together, strict=True):
        expected = [by_hand(model, row["question"], option) for option in row["options"]]
        assert a == pytest.approx(expected, abs=1e-4) and b == pytest.approx(expected, abs=1e-4)
        right += max(range(3), key=lambda i: expected[i]) == row["right"]
    result = read(mine / "out-1/mine.json")
    assert result.metrics["acc"]["value"] == right / 4
    assert result.metrics["acc"]["stderr"] == pytest.approx(math.sqrt(right / 4 * (1 - right / 4) / 3))
    assert (result.chance, result.shots, result.task_version) == (pytest.approx(1 / 3), 0, 3)
    assert [row["doc"] for row in result.records] == ROWS and len({row["id"] for row in result.records}) == 4
    assert len(result.weights_sha256) == 64 and result.lm_version == package.__version__
    head, row = done.out.splitlines()
    assert head.split() == ["task", "shots", "examples", "metric", "±", "stderr", "chance"]
    assert row.split() == [
        "mine",
        "0",
        "4",
        "acc",
        f"{right / 4:.4f}",
        f"{result.metrics['acc']['stderr']:.4f}",
        "0.333",
    ]
    assert "4 examples" in done.err and done.err.endswith("out-16/mine.json\n")


def test_shots_limits_and_json(lm, trained, mine):
    run = trained / "checkpoints/gpt"
    options = ("--tasks", "mine.yaml", "--shots", "1", "--limit", "2", "--json", "--out", "a")
    done = lm("eval", run, *options)
    assert done.status == 0, done.err
    (task,) = json.loads(done.out)["tasks"]
    assert (task["shots"], task["limit"], task["task"]) == (1, 2, "mine") and "records" not in task
    rows = read(mine / "a/mine-1-shot-first-2.json").records
    assert len(rows) == 2
    other = lm("eval", run, *options[:-1], "b", "--seed", "1")
    assert other.status == 0
    assert lm("eval", run, *options[:-1], "c").status == 0
    name = "mine-1-shot-first-2.json"
    assert (mine / "a" / name).read_bytes() == (mine / "c" / name).read_bytes(), "the same again"


def test_what_it_writes(lm, trained, mine):
    run = trained / "checkpoints/gpt"
    done = lm("eval", run, "--tasks", "writing.yaml", "--out", "out")
    assert done.status == 0, done.err
    model = package.load(run)
    for row in read(mine / "out/writing.json").records:
        whole = model.generate(row["doc"]["question"], 8, temperature=0)
        assert row["answers"] == [whole.split("\n")[0]]


def test_a_bert_fills_each_token(lm, trained, mine):
    run = trained / "checkpoints/bert"
    done = lm("eval", run, "--tasks", "mine.yaml", "--out", "out")
    assert done.status == 0, done.err
    model = package.load(run)
    words, network = model.tokenizer, model.writer("fill")
    for row, found in zip(ROWS, nats(mine / "out", "mine"), strict=True):
        for option, value in zip(row["options"], found, strict=True):
            ids = [words.bos_id, *words.encode(row["question"] + option), words.eos_id]
            start, total = len(words.encode(row["question"])) + 1, 0.0
            for at in range(start, len(ids) - 1):
                masked = torch.tensor([[*ids[:at], words.mask_id, *ids[at + 1 :]]])
                with torch.no_grad():
                    total += float(network(masked)[0, at].double().log_softmax(-1)[ids[at]])
            assert value == pytest.approx(total, abs=1e-4)
    failed = lm("eval", run, "--tasks", "writing.yaml")
    assert failed.status == 1 and "writing wants text: " in failed.err and "is a BERT" in failed.err


def test_a_context_longer_than_the_model_sees(lm, trained, mine):
    long = {"question": "self.x = y\n" * 30 + "return", "options": [" self", " import os"], "right": 0}
    longer = {"question": "def", "options": [" abc" * 40, "b"], "right": 0}  # longer than all that it sees
    (mine / "data/mine.jsonl").write_text(json.dumps(long) + "\n" + json.dumps(longer) + "\n")
    run = trained / "checkpoints/gpt"
    done = lm("eval", run, "--tasks", "mine.yaml", "--out", "out")
    assert done.status == 0, done.err
    assert "mine: 3 texts are longer than the 32 tokens that the model sees" in done.err
    model = package.load(run)
    words = model.tokenizer
    (first, _), (second, _) = nats(mine / "out", "mine")
    ids = [words.bos_id, *words.encode(long["question"] + " self")]
    count = len(ids) - 1 - len(words.encode(long["question"]))
    seen = torch.tensor([ids[-33:]])
    with torch.no_grad():
        logits = model.writer()(seen[:, :-1])[0].double().log_softmax(-1)
    expected = sum(logits[-1 - i, ids[-1 - i]] for i in range(count))
    assert first == pytest.approx(float(expected), abs=1e-4)
    assert -1000 < second < -100, "all of its tokens count"


@pytest.mark.real_data
def test_the_same_as_the_harness_own_model(lm, real_data, tmp_path):
    """Its model is transformers' own, with full logits."""
    folder = real_data / "stories260K-hf"
    words = ("--tasks", *SHIPPED, "--data_dir", real_data, "--limit", "200", "--out")
    done = lm("eval", folder, *words, "one")
    assert done.status == 0, done.err
    from lm_eval.evaluator import evaluate as run
    from lm_eval.models.huggingface import HFLM

    from lm.evaluation.tasks import load_tasks

    theirs = HFLM(pretrained=str(folder), batch_size=16, add_bos_token=True, dtype="float32", device="cpu")
    made = run(lm=theirs, task_dict=load_tasks(SHIPPED, str(real_data)), limit=200, bootstrap_iters=1000)
    torch.set_num_threads(1)
    for task in SHIPPED:
        ours = read(tmp_path / f"one/{task}-first-200.json")
        for mine, sample in zip(ours.records, made["samples"][task], strict=True):
            assert mine["id"] == sample["doc_hash"][:16]
            for (value, greedy), ((expected, likeliest),) in zip(
                mine["answers"], sample["resps"], strict=True
            ):
                assert value == pytest.approx(float(expected), abs=1e-4) and greedy == likeliest
        for name, metric in ours.metrics.items():
            assert metric["value"] == pytest.approx(made["results"][task][f"{name},none"], rel=1e-5)
            assert metric["stderr"] == pytest.approx(made["results"][task][f"{name}_stderr,none"], rel=1e-3)


def test_examples_of_the_training_corpus_are_found_and_named(lm, trained, mine):
    """Planted in two documents: one example whole, of another the question alone."""
    from lm.data.corpus.prepare import CorpusSettings, prepare
    from tests.data.corpus.test_prepare import texts

    rows = [
        {
            "question": " ".join(text.split()[:20]),
            "options": [" ".join(text.split()[20:26]), "no"],
            "right": 0,
        }
        for text in texts(60)
        if len(text.split()) > 26
    ]
    (mine / "data/mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (mine / "text").mkdir()
    documents = [f"{text}\n" * 3 for text in texts(200)[100:]]
    documents[50] += f"Quiz: {rows[3]['question'].upper()}, {rows[3]['options'][0]}!"
    short = " ".join(rows[3]["question"].split()[2:11])  # within a passage that another one has
    rows.append({"question": short, "options": ["yes", "no"], "right": 0})
    (mine / "data/mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    documents[60] = f"{rows[5]['question']} and so on. " + documents[60]
    for number, text in enumerate(documents):
        (mine / f"text/{number:03}.txt").write_text(text)
    corpus = prepare(CorpusSettings(str(mine / "text"), vocab_size=400, val_fraction=0.02))
    run = trained / "checkpoints/gpt"
    done = lm("eval", run, "--tasks", "mine.yaml", "--corpus", corpus, "--out", "out")
    assert done.status == 0, done.err
    result = read(mine / "out/mine.json")
    held = {record["doc_id"]: record["contaminated"] for record in result.records if record["contaminated"]}
    assert {3, 5, len(rows) - 1} == set(held)
    assert held[3][0]["document"].endswith("050.txt#0") and held[5][0]["document"].endswith("060.txt#0")
    assert f"mine: 3 of {len(rows)} examples stand in the corpus" in done.out
    assert f"({len(rows) - 3} examples)" in done.out
    values = [record["metrics"]["acc"] for record in result.records if not record["contaminated"]]
    assert result.clean["acc"]["value"] == pytest.approx(sum(values) / len(values))


def test_a_chat_is_asked_as_it_was_taught(tmp_path, tokenizer):
    from lm.evaluation.harness import HarnessModel

    model = package.load(save(tmp_path / "chat.ckpt", tokenizer))
    harness = HarnessModel(model)
    history = [{"role": "user", "content": "<|im_end|> hello"}]
    text = harness.apply_chat_template(history) + " there"
    expected = model.dialogue().chat.render([("user", "<|im_end|> hello")], True)[0]
    assert harness.tok_encode(text) == [*expected, *model.tokenizer.encode(" there")]


def _noting(function, asked):
    return lambda network, texts, *rest: asked.append(texts) or function(network, texts, *rest)


@torch.no_grad()
def test_what_has_no_context_or_melts_into_it(trained, monkeypatch):
    """Empty contexts, blanks, and continuations that are a part of the context's last token."""
    from lm.evaluation.harness import HarnessModel

    for kind in ("gpt", "bert"):
        predictor = package.load(trained / f"checkpoints/{kind}")
        model, words = HarnessModel(predictor), predictor.tokenizer
        asked = []
        for name in ("score", "pseudo_score"):
            monkeypatch.setattr(harness, name, _noting(getattr(harness, name), asked))
        found = model._loglikelihood_tokens([("", [5, 6], []), ("", [], [7]), ("", [words.bos_id], [7])])
        monkeypatch.undo()
        texts = [list(ids) for ids, _ in asked[0]]
        # A BERT's as it is framed; nothing begins a text twice.
        begun = [words.bos_id, 7] if kind == "gpt" else words.frame([7])[0]
        assert texts[1:] == [begun, begun] and found[1] == found[2]
        assert all(value < -0.1 for value, _ in found), "nothing is certain for being nothing"


def test_the_generators_are_left_as_they_were(trained, mine, monkeypatch):
    monkeypatch.chdir(mine)
    model = package.load(trained / "checkpoints/gpt")
    random.seed(3)
    torch.manual_seed(3)
    expected = random.random(), torch.rand(1)
    random.seed(3)
    torch.manual_seed(3)
    for _ in range(2):  # a function still, when its module has been imported
        results, _ = evaluation.evaluate(model, ["mine.yaml"])
    assert (random.random(), torch.rand(1)) == expected and results[0].task == "mine"


def test_results_of_each_checkpoint_lie_apart(lm, trained, mine):
    shutil.copytree(trained / "checkpoints/gpt", mine / "run")
    for name in ("best", "last"):
        assert lm("eval", f"run/{name}.ckpt", "--tasks", "mine.yaml").status == 0
    assert (mine / "run/eval/mine.json").is_file() and (mine / "run/eval-last/mine.json").is_file()
    done = lm("eval", "run", "--tasks", "mine.yaml", "--dtype", "bf16", "--out", "b")
    assert done.status == 0 and read(mine / "b/mine.json").dtype == "bfloat16"
    assert lm("compare", "run/eval", "b").status == 0
    (mine / "mine.yaml").write_text(CHOICES.replace("{{question}}", "Q: {{question}}"))
    assert lm("eval", "run", "--tasks", "mine.yaml", "--out", "other").status == 0
    failed = lm("compare", "run/eval", "other")
    assert failed.status == 1 and "what the task asks" in failed.err


@pytest.fixture
def few_tasks(tmp_path, monkeypatch):
    """Of the harness's 14,000 files, which it takes ten seconds to look through, those of two kinds."""
    from lm_eval.tasks import manager

    from lm.evaluation import tasks

    for name in ("arc", "hellaswag"):
        shutil.copytree(Path(manager.__file__).parent / name, tmp_path / "tasks" / name)
    monkeypatch.setattr(manager, "__file__", str(tmp_path / "tasks/manager.py"))
    tasks._manager.cache_clear()
    yield
    tasks._manager.cache_clear()


@pytest.mark.usefixtures("few_tasks")
def test_bad_input(lm, trained, mine, monkeypatch):
    run = trained / "checkpoints/gpt"
    (mine / "broken.yaml").write_text("task: [")
    (mine / "none.yaml").write_text("dataset_path: json")
    (mine / "group.yaml").write_text("group: both\ntask: [a, b]")
    (mine / "absent.yaml").write_text(CHOICES.replace("mine.jsonl", "nowhere.jsonl"))
    for words, status, what in (
        (("--tasks", "arc_eazy"), 2, "there is no task 'arc_eazy': did you mean arc_easy"),
        (("--tasks", "nothing.yaml"), 2, "there is no task file nothing.yaml"),
        (("--tasks", "broken.yaml"), 1, "broken.yaml: "),
        (("--tasks", "none.yaml"), 1, "none.yaml is no task: it has no `task`"),
        (("--tasks", "group.yaml"), 1, "group.yaml is a group of tasks: name its tasks themselves"),
        (
            ("--tasks", "mine.yaml", "--shots", "9"),
            1,
            "mine: there are fewer examples than `shots` are to be shown",
        ),
        (("--tasks", "absent.yaml"), 1, "no file nowhere.jsonl in ., data, .: give the folder"),
        ((), 2, "say which tasks: --tasks TASK"),
        (("--tasks", "mine.yaml", "--limit", "0"), 2, "--limit 0: it must be at least 1"),
        (("--tasks", "mine.yaml", "--shots", "-1"), 2, "--shots -1: it must be at least 0"),
    ):
        failed = lm("eval", run, *words)
        assert failed.status == status and what in failed.err and len(failed.err.splitlines()) == 1, (
            failed.err
        )
    failed = lm("eval", "--tasks", "mine.yaml")
    assert failed.status == 2 and "which model?" in failed.err
    listed = lm("eval", "--tasks")
    assert listed.out.splitlines()[0].startswith("local_") and "hellaswag" in listed.out.split()
    # A task whose data are on a hub that can't be reached.
    import datasets

    def unreachable(*_, **__):
        raise ConnectionError("Name or service not known")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    failed = lm("eval", run, "--tasks", "arc_easy")
    assert failed.status == 1 and "on the Hugging Face hub, which can't be reached from here" in failed.err
    with pytest.raises(UserError, match="nothing"):
        evaluate(package.load("nothing"), ["mine.yaml"])
