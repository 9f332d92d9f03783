"""`lm classify`, `lm tag` and `lm answer` on tiny checkpoints: their results against the network itself."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import lm
from lm import checkpoint as checkpoints
from lm import tasks
from lm.backbone import BackboneConfig
from lm.data.examples.records import QuestionExample, TagExample, TextExample
from lm.inference.lines import Line
from lm.tasks import QuestionAnswering, SequenceClassification, TokenClassification
from lm.tasks.applying import apply
from lm.tasks.table import BASES, TASKS, path_of

ROOT = Path(__file__).resolve().parents[2]
CLASSES = {
    cls.__name__: path_of(cls) for cls in (SequenceClassification, TokenClassification, QuestionAnswering)
}
TAGS = ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]
KINDS = {
    "single": (
        SequenceClassification,
        {"labels": ["bad", "good", "so-so"], "kind": "single", "cut": "start"},
    ),
    "multi": (SequenceClassification, {"labels": ["a", "b", "c", "d"], "kind": "multi", "cut": "both"}),
    "rating": (SequenceClassification, {"labels": [], "kind": "rating", "cut": "end"}),
    "tag": (TokenClassification, {"labels": TAGS, "joiner": " "}),
    "zh": (TokenClassification, {"labels": TAGS, "joiner": ""}),
    "pos": (TokenClassification, {"labels": ["NOUN", "VERB"], "joiner": " "}),
    "answer": (
        QuestionAnswering,
        {
            "labels": [],
            "windows": {"overlap": 8, "max_question": 16, "max_answer": 10},
            "unanswerable": False,
        },
    ),
}


def head_of(name: str, extra: dict) -> dict:
    task = KINDS[name][0]
    if task is SequenceClassification:
        return {"kind": "pooled", "outputs": max(len(extra["labels"]), 1), "pooling": "mean", "pooler": False}
    if task is TokenClassification:
        return {"kind": "tokens", "outputs": len(extra["labels"]), "pooling": None, "pooler": False}
    return {"kind": "span", "outputs": 2, "pooling": None, "pooler": False}


def save(path: Path, tokenizer, task: str, head: dict, **changes) -> Path:
    """A checkpoint of a network with random weights, large enough that texts differ."""
    torch.manual_seed(1)
    shape = {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "max_seq_len": 48, "causal": False}
    config = BackboneConfig(**shape, vocab_size=tokenizer.vocab_size)
    net = checkpoints.make_network(config, head)
    with torch.no_grad():
        for p in net.parameters():
            if p.ndim == 2:
                p.mul_(6)
    record = {**checkpoints.make_record(task, config, tokenizer), "head": head, "init_from": None, **changes}
    state = {f"net.{name}": value for name, value in net.state_dict().items()}
    checkpoints.write({"lm": record, "state_dict": state, "global_step": 7}, path)
    return path


@pytest.fixture(scope="module")
def ckpt(tmp_path_factory, tokenizer):
    """Checkpoints by name, see `KINDS`."""
    folder = tmp_path_factory.mktemp("tuned")
    return {
        name: save(folder / f"{name}.ckpt", tokenizer, CLASSES[task.__name__], head_of(name, extra), **extra)
        for name, (task, extra) in KINDS.items()
    }


def rows(result) -> list[dict]:
    assert result.status == 0, result.err
    return [json.loads(line) for line in result.out.splitlines()]


def lines_of(items: list[dict]) -> str:
    return "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items)


CODE = (ROOT / "lm/errors.py").read_text(encoding="utf-8")
TEXTS = [CODE[start : start + 3 + (start * 7) % 110] for start in range(0, 600, 4)]  # short and long
TEXTS = [text for text in TEXTS if text.strip()]
CHINESE = ["北京是中华人民共和国的首都。", "国务院总理李鹏在北京会见了客人", "好", "他说：「今天很好」"]


# Classifying.


def test_many_texts_are_classified_as_each_alone(pipe, ckpt, tokenizer):
    texts = [*TEXTS, *CHINESE]
    given = [{"id": i, "text": text, "note": {"deep": [i]}, "label": None} for i, text in enumerate(texts)]
    found = rows(pipe(lines_of(given), "classify", ckpt["single"]))
    assert [row["id"] for row in found] == list(range(len(texts)))
    net = checkpoints.open_checkpoint(ckpt["single"]).network
    seen = set()
    for row, source in zip(found, given, strict=True):
        assert {k: row[k] for k in source} == source
        ids = tokenizer.frame(tokenizer.encode(source["text"])[: 48 - 2])[0]
        with torch.no_grad():
            expected = net(torch.tensor([ids])).softmax(-1)[0].tolist()
        assert list(row["probabilities"].values()) == pytest.approx(expected, abs=1e-5)
        assert list(row["probabilities"]) == ["bad", "good", "so-so"]
        best = max(row["probabilities"], key=row["probabilities"].get)
        assert row["prediction"] == best
        seen.add(best)
    assert len(seen) > 1, "the network is too dull for this test"


def test_several_labels_and_ratings(pipe, ckpt, tokenizer):
    several = rows(pipe(lines_of([{"text": t} for t in TEXTS[:9]]), "classify", ckpt["multi"]))
    for row in several:
        assert row["prediction"] == [name for name, p in row["probabilities"].items() if p >= 0.5]
    assert any(len(row["prediction"]) != 1 for row in several)
    net = checkpoints.open_checkpoint(ckpt["rating"]).network
    rated = rows(pipe("\n".join(["x", "def f():", *CHINESE]), "classify", ckpt["rating"]))
    assert [row["text"] for row in rated] == ["x", "def f():", *CHINESE]
    for row in rated:
        ids = tokenizer.frame(tokenizer.encode(row["text"]))[0][:48]
        assert "probabilities" not in row
        with torch.no_grad():
            assert row["prediction"] == pytest.approx(net(torch.tensor([ids])).item(), abs=1e-5)


def test_pairs_and_other_columns(pipe, ckpt, tokenizer):
    task = SequenceClassification.load(ckpt["single"])
    batch = task.collate(task.encode(TextExample("a = 1", "b = 2"), False))
    with torch.no_grad():
        expected = task.probabilities(task.logits(batch))[0].tolist()
    plain = rows(pipe(lines_of([{"text": "a = 1", "pair": "b = 2"}]), "classify", ckpt["single"]))
    named = rows(
        pipe(
            lines_of([{"one": "a = 1", "two": "b = 2"}]),
            *("classify", ckpt["single"], "--text", "one", "--pair", "two"),
        )
    )
    alone = rows(pipe(lines_of([{"text": "a = 1"}]), "classify", ckpt["single"]))
    for (row,) in (plain, named):
        assert list(row["probabilities"].values()) == pytest.approx(expected, abs=1e-5)
    assert alone[0]["probabilities"] != plain[0]["probabilities"]


def test_empty_texts_keep_their_place(pipe, ckpt):
    found = rows(pipe(lines_of([{"text": "a"}, {"text": "  "}, {"text": "b"}]), "classify", ckpt["single"]))
    assert [row["prediction"] is None for row in found] == [False, True, False]
    assert found[1]["probabilities"] is None


def test_lines_that_are_no_objects_are_texts(pipe, ckpt):
    content = '\ufeff[1, 2]\r\n\n"quoted"\n{"text": "a \\ud800 b", "n": 1}\n 12\n'
    found = rows(pipe(content, "classify", ckpt["single"]))
    assert [row["text"] for row in found] == ["[1, 2]", '"quoted"', "a \ud800 b", " 12"]


def test_arguments_are_shown_to_a_person(lm, ckpt):
    one = lm("classify", ckpt["single"], "a good film", "--best", "2")
    (row,) = rows(lm("classify", ckpt["single"], "a good film", "--json"))
    ordered = sorted(row["probabilities"].items(), key=lambda pair: -pair[1])
    assert one.out == "".join(f"  {p:6.1%}  {name}\n" for name, p in ordered[:2])
    assert lm("classify", "--best", "2", ckpt["single"], "a good film").out == one.out
    assert lm("classify", ckpt["single"], "--best", "2", "a good film").out == one.out
    assert lm("classify", ckpt["single"], "--best", "2", "--", "--x").out.count("%") == 2
    two = lm("classify", ckpt["multi"], "a good\nfilm", "x").out.split("\n\n")
    assert [part.splitlines()[0] for part in two] == ["a good film", "x"]
    marked = [line.split()[1] for line in two[0].splitlines() if line.endswith(" *")]
    (row,) = rows(lm("classify", ckpt["multi"], "a good\nfilm", "--json"))
    assert sorted(marked) == row["prediction"]
    assert float(lm("classify", ckpt["rating"], "a good film").out)


# Tagging.


def expected_tags(path: Path, tokenizer, words: list[str], joiner: str) -> list[tuple[str, float]]:
    """From the network itself: the best tag at each word's first token. The sentence has to fit."""
    ids, offsets = tokenizer.encode_with_offsets(joiner.join(words))
    framed = tokenizer.frame(ids)[0]
    assert len(framed) <= 48
    with torch.no_grad():
        best = checkpoints.open_checkpoint(path).network(torch.tensor([framed]))[0].softmax(-1).max(-1)
    found, place = [], 0
    for word in words:
        at = 1 + next(i for i, (a, b) in enumerate(offsets) if a < place + len(word) and b > place)
        found.append((TAGS[int(best.indices[at])], float(best.values[at])))
        place += len(word) + len(joiner)
    return found


def test_tags_are_the_networks(pipe, ckpt, tokenizer):
    texts = ["return  the value", "class Parser : def", "x", *(" ".join(t.split()[:6]) for t in TEXTS[:40])]
    texts = [text for text in texts if len(tokenizer.encode(text)) < 40 and text]
    found = rows(pipe(lines_of([{"text": t, "n": i} for i, t in enumerate(texts)]), "tag", ckpt["tag"]))
    assert [row["n"] for row in found] == list(range(len(texts)))
    entities = 0
    for row, text in zip(found, texts, strict=True):
        expected = expected_tags(ckpt["tag"], tokenizer, text.split(), " ")
        assert row["words"] == text.split()
        assert row["tags"] == [tag for tag, _ in expected]
        for entity in row["entities"]:
            assert text[entity["start"] : entity["end"]] == entity["text"]
            assert any(entity["probability"] == pytest.approx(p, abs=1e-5) for _, p in expected)
        entities += len(row["entities"])
    assert entities > 3, "the network is too dull for this test"


def test_chinese_is_tagged_by_character(pipe, ckpt, tokenizer):
    texts = ["北京 是首都", "好", "李鹏会见"]
    found = rows(pipe("\n".join(texts), "tag", ckpt["zh"]))
    for row, text in zip(found, texts, strict=True):
        characters = [c for c in text if c != " "]
        assert row["words"] == characters
        assert row["tags"] == [tag for tag, _ in expected_tags(ckpt["zh"], tokenizer, characters, "")]
        for entity in row["entities"]:
            assert text[entity["start"] : entity["end"]] == entity["text"]


def test_words_that_are_given(pipe, ckpt):
    words = ["New York", "is", "big"]
    (row,) = rows(pipe(lines_of([{"words": words, "id": "a"}]), "tag", ckpt["tag"]))
    assert (row["id"], row["words"], len(row["tags"])) == ("a", words, 3)
    for entity in row["entities"]:
        assert "New York is big"[entity["start"] : entity["end"]] == entity["text"]


def tagger() -> TokenClassification:
    """A task that knows what there is to find, and has learned nothing."""
    task = TokenClassification(BackboneConfig(causal=False))
    task.labels = TAGS
    return task


def test_words_that_are_given_with_their_text():
    """Entities are counted in the text where the words stand in it; where they don't, nowhere."""
    tag = tagger()
    words = ["(", "Bob", "'s", "Bo", ")"]
    found = [{n: ("B-PER" if word.startswith("Bo") else "O", 0.9) for n, word in enumerate(words)}]
    rows = []
    for text in ("(Bob's  Bo)", "( Robert's Bo )", None):
        line = Line("here", {"words": words, "text": text})
        example = tag.from_line(line)
        assert example.words == tuple(words)
        rows.append(tag.result(line, example, found)["entities"])
    assert [[e["text"] for e in row] for row in rows] == [["Bob", "Bo"]] * 3
    places = [[(e.get("start"), e.get("end")) for e in row] for row in rows]
    assert places == [[(1, 4), (8, 10)], [(None, None)] * 2, [(2, 5), (9, 11)]]


def test_a_long_sentence_gets_a_tag_for_each_word(pipe, ckpt):
    words = CODE.split()
    (row,) = rows(pipe(lines_of([{"text": CODE}]), "tag", ckpt["tag"]))
    assert row["words"] == words
    assert len(row["tags"]) == len(words) > 48
    assert set(row["tags"]) <= set(TAGS)


def test_entities_by_hand():
    """Of a task that says what it finds: IOB1, whatever the spaces, the least probable tag, two windows."""
    tag = tagger()
    line = Line("here", {"text": "  Angela  Merkel saw\tNew York ."})
    example = tag.from_line(line)
    assert example == TagExample(("Angela", "Merkel", "saw", "New", "York", "."), (), " ")
    windows = [
        {0: ("B-PER", 0.9), 1: ("I-PER", 0.7), 2: ("O", 0.99)},
        {3: ("B-LOC", 0.8), 4: ("I-LOC", 0.95), 5: ("O", 1.0)},
    ]
    row = tag.result(line, example, windows)
    assert row["entities"] == [
        {"type": "PER", "text": "Angela  Merkel", "start": 2, "end": 16, "probability": 0.7},
        {"type": "LOC", "text": "New York", "start": 21, "end": 29, "probability": 0.8},
    ]
    assert tag.show(row).splitlines()[1] == "   80.0%  LOC     New York  (21 to 29)"


def test_parts_of_speech_have_no_entities(lm, ckpt):
    (row,) = rows(lm("tag", ckpt["pos"], "time flies", "--json"))
    assert set(row) == {"text", "words", "tags"}
    assert set(row["tags"]) <= {"NOUN", "VERB"}
    assert rows(lm("tag", ckpt["pos"], "--json", "time flies")) == [row]
    shown = lm("tag", ckpt["pos"], "time flies").out.split()
    assert shown == [row["tags"][0], "time", row["tags"][1], "flies"]


def test_the_joiner_is_remembered():
    data = SimpleNamespace(
        paths={"train": "x"}, examples=lambda split: [TagExample(("北", "京"), ("B-LOC", "I-LOC"), "")]
    )
    task = TokenClassification(BackboneConfig(causal=False))
    assert task.record()["joiner"] == " "
    task.find_labels(data)
    assert task.record()["joiner"] == ""


# Answering.


def test_answers_stand_where_they_say(pipe, ckpt, sources):
    data = json.loads((sources / "xquad/xquad.zh.json").read_text(encoding="utf-8"))["data"]
    paragraphs = [p for article in data[:4] for p in article["paragraphs"]][:5]
    given = [
        {"id": q["id"], "question": q["question"], "context": p["context"][: 60 + 40 * i]}
        for i, p in enumerate(paragraphs)
        for q in p["qas"][:2]
    ]
    given.insert(3, {"id": "none", "question": "?", "context": " "})
    found = rows(pipe(lines_of(given), "answer", ckpt["answer"]))
    assert [row["id"] for row in found] == [item["id"] for item in given]
    assert (found[3]["answer"], found[3]["start"]) == ("", None)
    for row in found[:3] + found[4:]:
        assert row["context"][row["start"] : row["start"] + len(row["answer"])] == row["answer"] != ""
    again = [rows(pipe(lines_of([item]), "answer", ckpt["answer"]))[0] for item in (given[0], given[-1])]
    for one, other in zip(again, (found[0], found[-1]), strict=True):
        assert one == {**other, "score": pytest.approx(other["score"], abs=2e-4)}


def test_an_answer_is_the_best_span_of_all_windows(ckpt):
    """Every window by itself, every span tried."""
    task = QuestionAnswering.load(ckpt["answer"])
    context = CODE[:400]
    windows = task.encode(QuestionExample("", "what?", context), False)
    assert len(windows) > 5
    best, none = (float("-inf"), 0, 0), float("inf")
    for window in windows:
        with torch.no_grad():
            start, end = task.net(torch.tensor([window["tokens"]]))[0].T.tolist()
        none = min(none, start[0] + end[0])
        for i, (begin, _) in enumerate(window["spans"]):
            for j in range(i, min(i + 10, len(window["spans"]))):
                at = window["first"]
                best = max(best, (start[at + i] + end[at + j], begin, window["spans"][j][1]))
    line = Line("here", {"question": "what?", "context": context})
    ((row,),) = [group for group in apply(task, [line]) if group]
    assert row["answer"] == context[best[1] : best[2]]
    assert row["start"] == best[1]
    assert row["score"] == pytest.approx(best[0] - none, abs=2e-4)


def test_one_question(lm, ckpt, tmp_path):
    (tmp_path / "c.txt").write_text(CODE[:300], encoding="utf-8")
    by_file = lm("answer", ckpt["answer"], "--question", "what?", "--context_file", "c.txt")
    by_word = lm("answer", ckpt["answer"], "--question", "what?", "--context", CODE[:300])
    (row,) = rows(lm("answer", ckpt["answer"], "--question", "what?", "--context", CODE[:300], "--json"))
    assert by_file.out == by_word.out
    assert by_word.out.startswith(f"{row['answer']}\n  characters {row['start']} to ")


# What all share.


def test_groups_come_as_soon_as_they_can(ckpt):
    """Nothing is read on before what is known is out, and nothing is lost between pools."""
    task = SequenceClassification.load(ckpt["single"])
    taken = []

    def lines():
        for i in range(600):
            taken.append(i)
            yield Line(str(i), {"text": "x" * (i % 7 + 1), "i": i})

    out = []
    for group in apply(task, lines()):
        out += [row["i"] for row in group]
        assert len(taken) <= 256 * (len(out) // 256 + 1)
    assert out == list(range(600))


@pytest.mark.parametrize(
    ("command", "name", "content", "status", "words"),
    [
        ("classify", "single", b"", 2, "standard input is empty"),
        ("classify", "single", b"\n \n", 2, "standard input is empty"),
        ("classify", "single", b'ok\n{"text": ', 1, "standard input:2: the line is not JSON"),
        (
            "classify",
            "single",
            b'{"text": "a"}\n{"txt": 1}\n',
            1,
            "standard input:2: there is no 'text', only txt",
        ),
        ("classify", "single", b'{"text": ["a"]}', 1, "standard input:1: 'text' is not a text"),
        ("classify", "single", b"ok\n\nb\xe9 cause\n", 1, "standard input:3: the line is not UTF-8 (byte 2)"),
        ("tag", "tag", b'{"words": ["a", 1]}', 1, "standard input:1: 'words' is not a list of words"),
        ("answer", "answer", b"what?", 1, "standard input:1: the line is not JSON"),
        ("answer", "answer", b"[1]", 1, "standard input:1: the line is not an object"),
        ("answer", "answer", b'{"question": "a"}', 1, "standard input:1: there is no 'context'"),
        ("tag", "single", b"x", 1, "is a classifier of texts: use `lm classify`"),
        ("classify", "answer", b"x", 1, "is a finder of answers in texts: use `lm answer`"),
        ("generate", "single", b"x", 1, "is a classifier of texts: use `lm classify`"),
        ("fill", "tag", b"x <mask>", 1, "is a tagger of words: use `lm tag`"),
        ("chat", "tag", b"x", 1, "is a tagger of words: use `lm tag`"),
    ],
)
def test_bad_input(pipe, ckpt, command, name, content, status, words):
    result = pipe(content, command, ckpt[name])
    assert result.status == status
    assert words in result.err
    assert len(result.err.splitlines()) == 1
    assert not result.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("classify", "single", " "), "text 1 is empty"),
        (("classify", "single", "a", "b\udcff"), "text 2 is not UTF-8 (character 2)"),
        (("tag", "tag", "\udcff"), "text 1 is not UTF-8"),
        (("generate", "single", "--prompt", "\udcff"), "a prompt is not UTF-8"),
        (("classify", "single", "a", "--best", "0"), "--best 0"),
        (("classify", "single", "a", "--pair", "b"), "--text and --pair name fields"),
        (("answer", "answer", "--question", "a"), "give --question, and --context or --context_file"),
        (("answer", "answer", "--question", "a", "--context_file", "absent"), "No such file"),
        (("answer", "answer", "--question", "a", "--context", ""), "is empty"),
        (("classify", "single", "a", "--device", "cuda:77"), "there is none here"),
    ],
)
def test_wrong_usage(lm, ckpt, words, message):
    result = lm(words[0], ckpt[words[1]], *words[2:])
    assert result.status == 2
    assert message in result.err


def test_nothing_given_at_a_terminal(lm, ckpt, monkeypatch):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True))
    result = lm("classify", ckpt["single"])
    assert result.status == 2
    assert "give a text, or lines on standard input" in result.err


def test_closed_standard_input(lm, ckpt, monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    for command, name in (("classify", "single"), ("tag", "tag"), ("answer", "answer")):
        result = lm(command, ckpt[name])
        assert (result.status, "standard input is empty" in result.err) == (2, True), result.err
    assert "give a prompt, or a text on" in lm("generate", ckpt["single"]).err


def test_a_checkpoint_cannot_say_what_is_imported(lm, tmp_path, tokenizer, monkeypatch):
    (tmp_path / "evil.py").write_text("raise SystemExit('was imported')", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    path = save(tmp_path / "evil.ckpt", tokenizer, "evil.Task", head_of("single", KINDS["single"][1]))
    for command in ("classify", "tag", "generate", "fill", "chat"):
        result = (
            lm(command, path, "a <mask>") if command != "generate" else lm(command, path, "--prompt", "a")
        )
        assert result.status == 1
        assert f"was trained by evil.Task, which is no task of lm: `lm {command}`" in result.err
    assert lm("info", path).status == 0
    assert "evil" not in sys.modules


def test_a_damaged_description(lm, tmp_path, tokenizer):
    """A tagger's record without its labels."""
    extra = {"labels": TAGS}
    path = save(tmp_path / "x.ckpt", tokenizer, CLASSES["TokenClassification"], head_of("tag", extra))
    result = lm("tag", path, "a")
    assert result.status == 1
    assert "is damaged: its description is not whole" in result.err


def test_an_adapter_alone_is_refused(lm, tmp_path, tokenizer):
    extra = KINDS["single"][1]
    path = save(
        tmp_path / "adapter.ckpt",
        tokenizer,
        CLASSES["SequenceClassification"],
        head_of("single", extra),
        **extra,
        base={"source": "b.ckpt", "fingerprint": "0" * 64},
    )
    result = lm("classify", path, "a")
    assert result.status == 1
    assert "was trained beside b.ckpt, which is not there: best.ckpt needs none" in result.err


def test_a_model_that_diverged(lm, tmp_path, ckpt):
    content = checkpoints.read(ckpt["single"], mmap=False)
    content["state_dict"]["net.head.bias"][:] = float("nan")
    checkpoints.write(content, tmp_path / "nan.ckpt")
    result = lm("classify", "nan.ckpt", "a")
    assert result.status == 1
    assert "not finite" in result.err


def test_help_imports_nothing_heavy():
    code = """
import sys
import lm.cli
for words in (["classify"], ["tag"], ["answer"], ["chat"]):
    try:
        lm.cli.run([*words, "--help"])
    except SystemExit as end:
        assert not end.code
heavy = {"torch", "lightning", "numpy", "sentencepiece"} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, capture_output=True)


def test_every_task_of_lm_is_known():
    """A new task has to say which command uses it."""
    known = {getattr(tasks, name) for name in dir(tasks) if name not in BASES}
    assert {(e.module, name) for name, e in TASKS.items()} == {
        (task.__module__.removeprefix("lm.tasks."), task.__name__) for task in known
    }


# What `lm info` says of them.


def test_info_of_a_fine_tuned_checkpoint(lm, ckpt):
    facts = json.loads(lm("info", ckpt["tag"], "--json").out)
    assert facts["task"] == CLASSES["TokenClassification"]
    assert facts["labels"] == "5: O, B-LOC, I-LOC, B-PER, I-PER"
    assert facts["head"] == "5 outputs at each position"
    assert facts["what for"] == f"a tagger of words: lm tag {ckpt['tag']}"
    net = checkpoints.open_checkpoint(ckpt["tag"]).network
    assert facts["parameters"] == f"{sum(p.numel() for p in net.parameters()):,}"
    assert json.loads(lm("info", ckpt["rating"], "--json").out)["head"] == (
        "1 output on the mean of all positions"
    )


def test_info_of_an_adapter_alone(lm, tmp_path, tokenizer):
    extra = {"labels": [f"class {i}" for i in range(20)], "kind": "single", "cut": "start"}
    head = {"kind": "pooled", "outputs": 20, "pooling": "first", "pooler": True, "dropout": 0.0}
    path = tmp_path / "adapter.ckpt"
    adapter = {"kind": "lora", "rank": 4, "alpha": 8.0, "dropout": 0.0, "layers": ["query", "value"]}
    base = {"source": "runs/b.ckpt", "fingerprint": "abcdef0123456789" * 4}
    task = CLASSES["SequenceClassification"]
    save(path, tokenizer, task, head, **extra, adapter=adapter, base=base, init_from="runs/b.ckpt")
    content = checkpoints.read(path, mmap=False)
    del content["lm"]["processor"], content["global_step"]
    content["state_dict"] = {k: v for k, v in content["state_dict"].items() if "head" in k or "pooler" in k}
    checkpoints.write(content, path)
    facts = json.loads(lm("info", path, "--json").out)
    assert facts["kind"] == "adapter"
    assert facts["adapter"] == "lora, rank 4, alpha 8, on query, value"
    assert facts["base"] == "runs/b.ckpt, backbone abcdef012345: not in this file"
    assert facts["started from"] == "runs/b.ckpt"
    assert facts["labels"].startswith("20: class 0, class 1,") and facts["labels"].endswith("and 8 more")
    assert facts["head"] == "20 outputs on the first position, through BERT's pooler"
    here = sum(v.numel() for v in content["state_dict"].values())
    assert facts["parameters"].startswith(f"{here:,} of the adapter and the head; ")
    assert facts["tokenizer"] == "the base's"
    assert "steps" not in facts and "what for" not in facts


# In Python.


def test_lm_load_finds_what_the_commands_find(pipe, ckpt):
    texts = [*TEXTS[:9], *CHINESE]
    for name, command in (
        ("single", "classify"),
        ("multi", "classify"),
        ("rating", "classify"),
        ("tag", "tag"),
    ):
        model = lm.load(ckpt[name])
        found = rows(pipe(lines_of([{"text": text} for text in texts]), command, ckpt[name]))
        found = [{key: value for key, value in row.items() if key != "text"} for row in found]
        use = getattr(model, command)
        assert use(texts) == found
        assert use(texts[0]).keys() == found[0].keys()
    model = lm.load(ckpt["answer"])
    single = model.answer("what is it?", CODE)
    assert model.answer(["what is it?", "who?"], [CODE, CODE])[0] == single
    assert CODE[single["start"] :].startswith(single["answer"])
    pairs = lm.load(ckpt["single"])
    assert pairs.classify(["a", "b"], ["c", "d"])[1] == pairs.classify("b", "d")
    assert pairs.labels == ["bad", "good", "so-so"]
