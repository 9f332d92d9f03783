"""Tagging words: each word has one token that carries its tag, whatever the tokenizer makes of it."""

import zipfile
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from lm import checkpoint as checkpoints
from lm.backbone import BackboneConfig
from lm.data.examples.files import Read
from lm.data.examples.records import TagExample
from lm.data.examples.tags import read_tags
from lm.errors import UserError
from lm.inference.lines import Line
from lm.tasks import TokenClassification
from lm.tokenizer import Tokenizer, load_tokenizer, train_tokenizer

LABELS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")


def tagged(words: str | list[str], joiner: str = " ") -> TagExample:
    """The words with tags in turn."""
    words = tuple(words.split() if isinstance(words, str) else words)
    return TagExample(words, tuple(LABELS[i % len(LABELS)] for i in range(len(words))), joiner)


ENGLISH = tagged("Wolfgang's e-mail reached Zürich-West, i.e. unbelievably far !")
CHINESE = tagged(list("那猴王在花果山，北京大学2024年。"), "")
# A zero-width space, a soft hyphen, a control character, a lone combining mark, a variation selector.
VANISHING = tagged(["\u200b", "seen", "\u00ad", "\x07", "\x01\u200d", "also", "\u0301", "end", "\ufe0f"])
ONE = tagged("word " * 30)
LONG = tagged(["a", "internationalisation" * 4, "b", "ten"])


@pytest.fixture(scope="session")
def minilm(sources) -> Tokenizer:
    """WordPiece, lower case."""
    return load_tokenizer(sources / "minilm-l6-config")


def light(tokenizer: Tokenizer, kind: str, seq_len: int, labels=LABELS) -> TokenClassification:
    """A task that can encode, without a network."""
    config = BackboneConfig(hidden_size=8, num_layers=1, num_heads=2, causal=kind == "gpt")
    task = TokenClassification(config)
    task.processor, task.labels, config.max_seq_len = tokenizer, list(labels), seq_len
    return task


@pytest.fixture(scope="session")
def chinese(sources, origin) -> Tokenizer:
    """A SentencePiece model with Chinese tokens of several characters."""
    text = (sources / "chinese-classics/西游记.txt").read_text(encoding="utf-8")[:20_000]
    return train_tokenizer([text], {"own": 900, "real": 3000}[origin])


@pytest.fixture
def make_task(ready, made, make_start, tmp_path):
    """A tagger on some tokenizer: `make_task(tokenizer, "gpt" or "bert", seq_len)`."""

    def make(tokenizer, kind, seq_len, train=None, **options):
        start = make_start(tmp_path / f"{kind}{seq_len}.ckpt", kind, tokenizer, max_seq_len=64)
        train = train or [tagged("x " * 9)] * 3
        return ready(TokenClassification, made(train, seq_len=seq_len, **options), init_from=start)

    return make


@pytest.mark.parametrize("seq_len", [9, 16, 60])
@pytest.mark.parametrize("kind", ["bert", "gpt"])
@pytest.mark.parametrize("name", ["tokenizer", "minilm", "chinese"])
@pytest.mark.parametrize(
    "example",
    [ENGLISH, CHINESE, VANISHING, ONE, LONG],
    ids=["english", "chinese", "vanishing", "one", "long"],
)
def test_every_word_has_one_carrier(tokenizer, minilm, chinese, name, kind, seq_len, example):
    task = light({"tokenizer": tokenizer, "minilm": minilm, "chinese": chinese}[name], kind, seq_len)
    windows = task.encode(example, True)
    found: dict[int, list[int]] = {}
    for window in windows:
        assert len(window["tokens"]) == len(window["targets"]) == len(window["words"]) <= seq_len
        for word, target in zip(window["words"], window["targets"], strict=True):
            assert (word < 0) == (target < 0)
            if word >= 0:
                found.setdefault(word, []).append(target)
    assert [word for window in windows for word in window["words"] if word >= 0] == list(
        range(len(example.words))
    )
    assert {word: [task.labels[t] for t in targets] for word, targets in found.items()} == {
        word: [tag] for word, tag in enumerate(example.tags)
    }
    # All windows together are the sentence's tokens, each once.
    lead = task.tokenizer.frame([-1])[0].index(-1)
    size = task.tokenizer.frame_size(False)
    inner = [window["tokens"][lead : len(window["tokens"]) - size + lead] for window in windows]
    ids, _ = task.pieces(example)
    assert [id for part in inner for id in part] == ids
    assert windows[0]["several"] is (len(windows) > 1)


@pytest.mark.parametrize("kind", ["bert", "gpt"])
def test_the_first_piece_of_a_bert_and_the_last_of_a_gpt(minilm, kind):
    task = light(minilm, kind, 60)
    words = ["unbelievably", "far", "Zürich-West", "!"]
    (window,) = task.encode(tagged(words), True)
    pieces = [task.tokenizer.piece(id) for id in window["tokens"]]
    assert pieces[1:-1] == ["un", "##bel", "##ie", "##va", "##bly", "far", "zurich", "-", "west", "!"]
    carriers = [pieces[place] for place, word in enumerate(window["words"]) if word >= 0]
    first, last = ["un", "far", "zurich", "!"], ["##bly", "far", "west", "!"]
    assert carriers == (first if kind == "bert" else last)


def test_words_stay_whole_where_they_can(tokenizer):
    """Windows end between words; only a word longer than a window is cut, and carried once."""
    task = light(tokenizer, "bert", 12)
    example = tagged(["internation", "of", "x", "international" * 3, "y", "z"])
    ids, word_of = task.pieces(example)
    assert word_of.count(3) > 10 > word_of.count(0) > 2
    begin = 0
    for window in task.encode(example, True):
        inner = len(window["tokens"]) - 2
        if begin and word_of[begin] == word_of[begin - 1]:
            assert word_of[begin] in (3, -1)
        begin += inner
    assert begin == len(ids)


def test_pieces_that_cover_several_words_are_taken_apart(chinese, origin):
    example = tagged(list({"own": "守塔的老人姓沈", "real": "那猴王在花果山"}[origin]), "")
    whole = chinese.encode("".join(example.words))
    assert len(whole) < len(example.words), "else this tokenizer shows nothing"
    ids, word_of = light(chinese, "bert", 30).pieces(example)
    assert chinese.decode(ids) == "".join(example.words)
    assert sorted(set(word_of)) == list(range(7))


def test_a_word_without_a_piece_becomes_the_unknown_one(minilm):
    task = light(minilm, "bert", 60)
    ids, word_of = task.pieces(VANISHING)
    unknown = task.tokenizer.unk_id
    assert task.tokenizer.encode(" ".join(VANISHING.words)) == [id for id in ids if id != unknown]
    assert [VANISHING.words[w] for id, w in zip(ids, word_of, strict=True) if id != unknown] == [
        "seen",
        "also",
        "end",
    ]
    assert sorted(word_of) == list(range(9))


def test_chinese_sentences(chinese, sources, origin, tmp_path):
    """Every character of a part of MSRA's corpus, on windows shorter than most sentences."""
    with zipfile.ZipFile(sources / "msra-ner/dh_msra.zip") as archive:
        name = max(archive.infolist(), key=lambda member: member.file_size)
        (tmp_path / "part.txt").write_bytes(archive.read(name)[:60_000].rpartition(b"\n\n")[0])
    examples = Read(read_tags(str(tmp_path / "part.txt")), "part.txt").examples
    assert examples[0].joiner == "" and len(examples) > {"own": 3, "real": 100}[origin]
    labels = sorted({tag for example in examples for tag in example.tags})
    for tokenizer in (chinese, load_tokenizer(sources / "bert-base-chinese-vocab")):
        task = light(tokenizer, "bert", 20, labels)
        for example in examples:
            windows = task.encode(example, True)
            words = [w for window in windows for w in window["words"] if w >= 0]
            targets = [t for window in windows for t in window["targets"] if t >= 0]
            assert words == list(range(len(example.words)))
            assert [task.labels[t] for t in targets] == list(example.tags)


def test_the_loss_counts_words(make_task, tokenizer):
    """Nats over all words, divided by the words of a mean batch: a long sentence weighs more than a short."""
    train = [tagged("alpha beta gamma delta epsilon"), tagged("alpha")] * 2
    task = make_task(tokenizer, "bert", 32, train, batch_size=2)
    task.net.eval()
    assert task.expected == (5 + 1 + 5 + 1) / 4 * 2
    batch = task.collate(task.data.features("train")[:2])
    logits = task.logits(batch)
    nats = 0.0
    for row in range(2):
        for place, target in enumerate(batch["targets"][row].tolist()):
            if target >= 0:
                nats += -F.log_softmax(logits[row, place], -1)[target].item()
    found = task.training_step(batch, 0)
    assert found["count"] == 6
    assert found["loss"].item() == pytest.approx(nats / 6, rel=1e-5)


def answered(task, examples, verb="test") -> dict[str, float]:
    """The figures where the network gives each word the tag that stands in `examples`."""
    right = {w: task.labels.index(t) for e in examples for w, t in zip(e.words, e.tags, strict=True)}
    test = task.data.examples("test")

    def logits(batch):
        made = torch.zeros(*batch["tokens"].shape, len(task.labels))
        for row, index in enumerate(batch["index"].tolist()):
            for place, word in enumerate(batch["words"][row].tolist()):
                if word >= 0 and index >= 0:
                    made[row, place, right[test[index].words[word]]] = 20.0
        return made

    task.logits = logits
    task._trainer = SimpleNamespace(
        strategy=None, global_rank=0, world_size=1, state=SimpleNamespace(fn=verb)
    )
    step = task.predict_step if verb == "predict" else task.validation_step
    features = sorted(task.data.features("test"), key=lambda f: len(f["tokens"]))
    for start in range(0, len(features), 3):
        step(task.collate(features[start : start + 3]), 0)
    return task.last_rows() if verb == "predict" else {k: float(v) for k, v in task.figures().items()}


def test_sentences_are_put_together_again(make_task, tokenizer, capsys):
    """Windows of a sentence that come in any order: every word tagged, entities across borders whole."""
    words = [f"w{i}" for i in range(40)]
    entities = ["B-PER" if i % 7 == 0 else "I-PER" if i % 7 < 4 else "O" for i in range(40)]
    test = [TagExample(tuple(words), tuple(entities)), TagExample(("w0", "w4"), ("B-PER", "O"))]
    task = make_task(tokenizer, "bert", 16, test, test=test)
    assert len(task.data.features("test")) > 4
    assert "1 of 2 test examples are longer than 16 tokens" in capsys.readouterr().err
    figures = answered(task, test)
    assert figures["f1"] == figures["accuracy"] == 1
    assert figures["loss"] < 1e-4
    rows = answered(task, test, "predict")
    assert [row["words"] for row in rows] == [words, ["w0", "w4"]]
    assert [row["tags"] for row in rows] == [entities, ["B-PER", "O"]]
    assert all(p > 0.99 for row in rows for p in row["probabilities"])
    wrong = [TagExample(tuple(words), tuple("O" if i == 3 else t for i, t in enumerate(entities)))]
    assert 0.8 < answered(task, wrong)["f1"] < 1


def test_parts_of_speech(make_task, tokenizer):
    test = [TagExample(("the", "old", "man"), ("DET", "ADJ", "NOUN")), TagExample(("old",), ("ADJ",))]
    task = make_task(tokenizer, "bert", 24, test, test=test)
    assert task.best_by == ("accuracy", "max")
    assert answered(task, test)["accuracy"] == 1
    wrong = [TagExample(("the", "old", "man"), ("DET", "NOUN", "NOUN"))]
    figures = answered(task, wrong)
    assert figures["accuracy"] == pytest.approx(2 / 4)
    assert figures["calibration_error"] == pytest.approx(0.5, abs=1e-3)


def test_words_marked_without_a_type_are_entities_wherever_one_asks(make_task, tokenizer):
    """Chinese words by B, M, E and S: words are counted and not characters, and `lm tag` shows them."""
    train = [
        TagExample(tuple("我爱北京"), tuple("SSBE"), ""),
        TagExample(tuple("北京人"), tuple("BME"), ""),
    ] * 2
    task = make_task(tokenizer, "bert", 24, train, test=train)
    assert task.entities and "entities" in task.result(Line("here", {}), None, [])
    assert task.best_by == ("f1", "max")
    figures = answered(task, [*train[:1], TagExample(("人",), ("E",), "")])
    assert figures.keys() == {"loss", "precision", "recall", "f1", "accuracy"}
    assert figures["f1"] == pytest.approx(2 * 6 / (10 + 8)), "北京|人 is wrong twice and a word too many"


def test_labels_are_sorted_with_the_outside_first(make_task, tokenizer):
    train = [TagExample(("x",) * 5, ("I-PER", "B-PER", "O", "B-LOC", "I-LOC"))] * 2
    assert make_task(tokenizer, "bert", 24, train).labels == ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]


@pytest.mark.parametrize(
    ("train", "val", "said"),
    [
        (
            [tagged("a b c")],
            [TagExample(("x", "y"), ("B-ORG", "O"))],
            "val.x has 1 words with tags .*'B-ORG'",
        ),
        ([tagged("a b c")], [TagExample(("x", "y"))], "val.x has no tags"),
        ([TagExample(("x", "y"), ("O", "O"))] * 2, None, r"train.x has one tag only \('O'\)"),
        ([TagExample(("x", "y"), ("B-PER", "PER"))] * 2, None, "the tag 'PER' is neither O nor"),
    ],
    ids=["unknown", "missing", "one", "odd"],
)
def test_tags_that_can_not_be_learned(make_task, tokenizer, train, val, said):
    with pytest.raises(UserError, match=said):
        make_task(tokenizer, "bert", 24, train, val=val)


def test_tags_that_the_limit_left_out(tokenizer):
    task = light(tokenizer, "bert", 32, ["O"])
    data = SimpleNamespace(limit=3, examples=lambda split: [ENGLISH], called=str)
    with pytest.raises(UserError, match=r"known are 'O'; raise `data\.limit`$"):
        task.check_labels(data, "val")


def test_what_has_no_tags_or_unknown_ones_can_be_tagged(make_task, ready, made, starts, tokenizer):
    learned = make_task(tokenizer, "bert", 24)
    record = {**checkpoints.make_record("", learned.config, tokenizer), **learned.record()}
    test = [TagExample(("x", "y")), TagExample(("x", "z"), ("B-NEW", "O"))]
    data = made([tagged("x y")], test=test, seq_len=24)
    task = ready(TokenClassification, data, record=record, verb="predict", init_from=starts["bert"])
    task._trainer = SimpleNamespace(strategy=None, global_rank=0, world_size=1)
    task.net.eval()
    with torch.no_grad():
        assert task.predict_step(task.collate(data.features("test")), 0) == []
    rows = task.last_rows()
    assert [row["words"] for row in rows] == [["x", "y"], ["x", "z"]]
    assert all(tag in learned.labels for row in rows for tag in row["tags"])
