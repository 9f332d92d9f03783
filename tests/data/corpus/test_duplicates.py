"""Duplicates: what is found agrees with theory, with datatrove, and with a union-find written out."""

import json
import random
import re
import struct
import subprocess
import sys

import numpy as np
import pytest

from lm.data.corpus.documents import Document
from lm.data.corpus.steps import duplicates
from lm.data.corpus.steps.duplicates import Duplicates, RepeatedPassages, shingles, sketch, words_of
from lm.errors import UserError

EDITS = (0, 0.02, 0.05, 0.1, 0.2)
PAIRS = 160  # an edit
GOLDEN = [9199674212552092155, 11462720725007118637, 10750651168710722623]


def found_in(texts: list[str], **options) -> dict[int, tuple[str, int]]:
    step = Duplicates(**options)
    notes = np.stack([step.note(Document(text)) for text in texts])
    return {number: (reason, kept) for number, reason, kept in step.decide(notes)}


def test_words_are_found_where_they_stand():
    text = "Don’t STOP: 中文，ＡＢc naïve 3.5 हिन्दी 𠀀x\t😀"
    words = words_of(text)
    spans = [text[start:end] for start, end in zip(words.starts, words.ends, strict=True)]
    assert spans == ["Don", "t", "STOP", "中", "文", "ＡＢc", "naïve", "3", "5", "हिन्दी", "𠀀", "x", "😀"]


def test_case_width_and_punctuation_make_no_difference():
    one, other = words_of("abc, stop -- it's 中文。").hashes, words_of("ＡＢc\nSTOP it s《中 文》").hashes
    assert one.tolist() == other.tolist()
    assert len(set(words_of("ab ba a b 😀 😁 abc a1").hashes.tolist())) == 8
    assert words_of("naive word").hashes[1] == words_of("naïve word").hashes[1], "ASCII's own path agrees"


@pytest.mark.parametrize(
    "text", ["some words of an old tale, " * 300, "话说天下大势，分久必合。" * 300, "ab" * 3000]
)
def test_long_texts_are_hashed_in_pieces_all_the_same(monkeypatch, text):
    whole = words_of(text)
    monkeypatch.setattr(duplicates, "_CHUNK", 1000)
    pieces = words_of(text)
    if " " in text or len(whole.hashes) > 1:
        assert all(np.array_equal(one, other) for one, other in zip(whole, pieces, strict=True))
    else:  # a word longer than a piece falls apart, always at the same places
        assert len(pieces.hashes) == 6


@pytest.mark.parametrize("size", [3, 30, 300, 3000])
def test_a_sketch_agrees_as_often_as_two_sets_are_alike(size):
    choose, agreed = np.random.default_rng(0), []
    for _ in range(100):  # 2/3 of each is shared: a similarity of 1/2
        both = choose.integers(0, 1 << 63, 4 * size, dtype=np.uint64)
        agreed.append(np.mean(sketch(both[: 3 * size], 112) == sketch(both[size:], 112)))
    assert abs(np.mean(agreed) - 0.5) < 4 * 0.5 / np.sqrt(100 * min(112, 4 * size))
    # Not more apart than 112 throws of a coin, and what the choice of a small set itself adds.
    assert np.std(agreed) < 1.3 * 0.5 / np.sqrt(112) + 0.5 / np.sqrt(4 * size)


def test_exact_goes_but_for_case_and_blanks_and_the_first_stays():
    texts = ["A  story.\n", "another one", "a story.", "A\tSTORY. ", "a story"]
    assert found_in(texts) == {2: ("exact duplicate", 0), 3: ("exact duplicate", 0)}
    assert found_in(texts, exact=False) == {}, "too short to be near to anything"
    assert found_in(["... !", "? ;"]) == {} and found_in(["", ""]) == {1: ("exact duplicate", 0)}


def test_what_can_not_work_is_said():
    for options, name in ({"rows": 0}, "rows"), ({"buckets": 5000}, "buckets"):
        with pytest.raises(UserError, match=f"`{name}`"):
            Duplicates(**options)
    with pytest.raises(UserError, match="looks for nothing"):
        Duplicates(exact=False, near=False)


def clusters(notes: np.ndarray) -> list[int]:
    """The lowest member of each one's cluster, by a union-find over all pairs."""
    parents = list(range(len(notes)))

    def root(number: int) -> int:
        return number if parents[number] == number else root(parents[number])

    for one in range(len(notes)):
        for other in range(one):
            if any(a == b != 0 for a, b in zip(notes[one], notes[other], strict=True)):
                low, high = sorted((root(one), root(other)))
                parents[high] = low
    return [root(number) for number in range(len(notes))]


@pytest.mark.parametrize("values", [3, 60, 200, 1000])
def test_clusters_are_those_of_a_plain_union_find(values):
    notes = np.random.default_rng(values).integers(0, values, (150, 15)).astype(np.uint64)
    notes[np.random.default_rng(1).random(notes.shape) < 0.5] = 0
    expected = clusters(notes)
    decided = Duplicates().decide(notes)
    assert [(number, kept) for number, _, kept in decided] == [
        (number, first) for number, first in enumerate(expected) if number != first
    ]
    for number, reason, _ in decided:
        hash = notes[number, 0]
        assert (reason == "exact duplicate") == (hash != 0 and hash in notes[:number, 0])


def test_a_long_chain_is_one_cluster_whatever_its_order():
    links = np.random.default_rng(0).permutation(20_000)
    notes = np.zeros((20_000, 15), np.uint64)
    for column in (1, 2):  # each is near to the one before and the one after
        notes[links, column] = (np.arange(20_000) + column) // 2 + 1
    assert [kept for _, _, kept in Duplicates().decide(notes)] == [0] * 19_999


def test_notes_are_the_same_in_every_process():
    text = "It was a bright cold day in April, and the clocks were striking thirteen. 话说天下大势"
    script = (
        "from lm.data.corpus.documents import Document\n"
        "from lm.data.corpus.steps.duplicates import Duplicates\n"
        f"print(Duplicates().note(Document({text!r})).tolist())"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    note = Duplicates().note(Document(text)).tolist()
    assert json.loads(found) == note
    assert note[:3] == GOLDEN, "notes of other versions no longer match"


def pieces(folder, language: str) -> list[list[str]]:
    """Units (words or characters) of different passages of real text."""
    if language == "en":
        lines = (folder / "llamafactory-lm" / "c4_demo.jsonl").read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line)["text"].split() for line in lines]
        rows += [(folder / "llamafactory-lm" / "wiki_demo.txt").read_text(encoding="utf-8").split()]
        size = 150
    else:
        rows = [
            re.findall("[\u4e00-\u9fff]", path.read_text(encoding="utf-8"))
            for path in sorted((folder / "chinese-classics").glob("*.txt"))
        ]
        size = 300
    cut = [row[at : at + size] for row in rows for at in range(0, len(row) - size + 1, size)]
    random.Random(0).shuffle(cut)
    return cut[: PAIRS * len(EDITS)]


def planted(folder, language: str) -> tuple[list[str], np.ndarray]:
    """Passages and, in the second half, each again with edits; the true similarity of each pair."""
    choose, glue = random.Random(1), " " if language == "en" else ""
    first = pieces(folder, language)
    every = [unit for units in first for unit in units]
    second = []
    for number, units in enumerate(first):
        changed = list(units)
        for at in choose.sample(range(len(units)), round(EDITS[number % len(EDITS)] * len(units))):
            changed[at] = choose.choice(every)
        second.append(changed)
    texts = [glue.join(units) for units in first + second]
    grams = []
    for text in texts:
        units = re.findall(r"[\u4e00-\u9fff]|[^\W_]+", text.lower())
        grams.append({tuple(units[at : at + 5]) for at in range(len(units) - 4)})
    half = len(first)
    alike = [len(grams[n] & grams[n + half]) / len(grams[n] | grams[n + half]) for n in range(half)]
    return texts, np.array(alike)


@pytest.mark.real_data
@pytest.mark.parametrize("language", ["en", "zh"])
def test_near_duplicates_are_found_as_often_as_theory_says(real_data, language):
    texts, alike = planted(real_data, language)
    half = len(alike)
    assert half == PAIRS * len(EDITS)
    found = found_in(texts, exact=False)
    assert all(number >= half and kept == number - half for number, (_, kept) in found.items()), (
        "a wrong pair"
    )
    hit = np.array([number + half in found for number in range(half)])
    expected = 1 - (1 - alike**8) ** 14
    assert hit[:: len(EDITS)].all(), "identical ones are always found"
    assert hit[1 :: len(EDITS)].mean() > 0.9, "2% of the words changed"
    edited = np.arange(half) % len(EDITS) > 0
    spread = np.sqrt(np.sum((expected * (1 - expected))[edited]))
    assert abs(np.sum((hit - expected)[edited])) < 3.5 * spread


@pytest.mark.real_data
@pytest.mark.parametrize("language", ["en", "zh"])
def test_as_many_are_found_as_by_datatrove(real_data, tmp_path, language):
    texts, alike = planted(real_data, language)
    half, found = len(alike), found_in(texts, exact=False)
    theirs = by_datatrove(texts, tmp_path)
    ours = {number - half for number in found}
    both = {number % half for number in theirs}
    assert len(theirs) == len(both), "one of each pair"
    likely = 1 - (1 - alike**8) ** 14
    disagreed = len(ours ^ both)  # each draws its own lots where a pair is neither alike nor different
    assert disagreed < 2 * np.sum(likely * (1 - likely)) + 4 * np.sqrt(half / 8)
    for level in range(len(EDITS)):
        counts = [sum(number % len(EDITS) == level for number in one) for one in (ours, both)]
        assert abs(counts[0] - counts[1]) <= 0.2 * PAIRS


def by_datatrove(texts: list[str], folder) -> set[int]:
    """Which of these its MinHash pipeline leaves out, with a splitter that needs no download."""
    minhash = pytest.importorskip("datatrove.pipeline.dedup.minhash")
    from datatrove.data import Document as Theirs
    from datatrove.utils.hashing import HashConfig
    from datatrove.utils.word_tokenizers import WordTokenizer

    class Split(WordTokenizer):
        def word_tokenize(self, text):
            return re.findall(r"[\u4e00-\u9fff]|[^\W_]+", text)

        sent_tokenize = span_tokenize = word_tokenize

    config = minhash.MinhashConfig(hash_config=HashConfig(precision=64))
    sign = minhash.MinhashDedupSignature(str(folder / "signatures"), config, language=Split())
    sign.run((Theirs(text=text, id=str(number)) for number, text in enumerate(texts)), 0, 1)
    match = minhash.MinhashDedupBuckets(str(folder / "signatures"), str(folder / "buckets"), config=config)
    for bucket in range(14):
        match.run(None, bucket, 14)
    minhash.MinhashDedupCluster(str(folder / "buckets"), str(folder / "remove"), config=config).run(
        None, 0, 1
    )
    removed = (folder / "remove" / "000000.remove").read_bytes()
    return {number for (number,) in struct.iter_unpack("<I", removed)}


@pytest.mark.real_data
def test_no_two_poems_of_three_hundred_are_taken_for_one(real_data):
    poems = json.loads((real_data / "chinese-poetry/全唐诗/唐诗三百首.json").read_text(encoding="utf-8"))
    texts = ["".join(poem["paragraphs"]) for poem in poems]
    for number, (_, kept) in found_in(texts).items():
        grams = [set(shingles(words_of(texts[at]).hashes, 5).tolist()) for at in (number, kept)]
        assert len(grams[0] & grams[1]) > 0.4 * len(grams[0] | grams[1])


def without_repeats(texts: list[str], words: int = 50) -> list[str | None]:
    """The texts as they are after a whole pass; None for one that is left out."""
    step = RepeatedPassages(words)
    documents = [Document(text) for text in texts]
    notes = [step.note(document) for document in documents]
    parts = np.split(step.decide(np.concatenate(notes)), np.cumsum([len(note) for note in notes])[:-1])
    reasons = [step.cut(document, part) for document, part in zip(documents, parts, strict=True)]
    return [None if reason else document.text for document, reason in zip(documents, reasons, strict=True)]


@pytest.mark.real_data
@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_passage_stays_where_it_stands_first_and_nothing_else_goes(real_data, language):
    glue = " " if language == "en" else ""
    *hosts, one, other = pieces(real_data, language)[:202]
    notice = [unit for unit in one + other if unit.isalpha()][:60]
    texts = [glue.join(units) for units in hosts]
    assert without_repeats(texts) == texts, "real passages, all different"
    choose, ends = random.Random(0), []
    planted = []
    for units in hosts:  # anywhere
        at = choose.randrange(len(units) + 1)
        ends.append((units[:at], units[at:]))
        planted.append(glue.join([*units[:at], *notice, *units[at:]]))
    found = without_repeats(planted)
    assert found[0] == planted[0]
    for (before, after), text in zip(ends[1:], found[1:], strict=True):
        left = text.split() if glue else list(text.replace("\n", ""))
        rest = len(left) - len(before) - len(after)
        assert -6 <= rest <= 35, "of the notice at least one n-gram of 25 is gone, and nothing but the notice"
        # What stands beside the notice may happen to stand there in the first document, too.
        near, far = before[:-3], after[3:]
        assert left[: len(near)] == near and left[len(left) - len(far) :] == far


def test_a_text_that_repeats_itself_and_one_that_is_nothing_else():
    choose = random.Random(0)
    tale = " ".join(f"word{choose.randrange(10_000)}" for _ in range(200))
    found = without_repeats([tale + " and again " + tale, tale, "short"])
    assert found[0].startswith(tale + " and again") and len(found[0].split()) < 202 + 50
    assert found[1:] == [None, "short"] or len(found[1].split()) < 50
    with pytest.raises(UserError, match="`words`"):
        RepeatedPassages(9)


def test_it_decides_the_same_whatever_fits_into_memory(monkeypatch):
    notes = np.random.default_rng(0).integers(1, 2000, 3000, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    whole = RepeatedPassages().decide(notes)
    seen: set[int] = set()
    assert whole.tolist() == [bool(note in seen or seen.add(note)) for note in notes.tolist()]
    monkeypatch.setattr("lm.data.corpus.steps.duplicates._SORTED", 100)
    assert np.array_equal(RepeatedPassages().decide(notes), whole)
