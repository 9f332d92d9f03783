"""Entities by hand and by `conlleval`'s own rules, sequence by sequence."""

import random
import zipfile
from itertools import pairwise, product

import pytest
from torch import Tensor

from lm.errors import UserError
from lm.metrics import EntityScores
from lm.metrics.entities import are_entities, spans

pytestmark = pytest.mark.filterwarnings("ignore:The ``compute`` method")


def plain(figures: dict[str, Tensor]) -> dict[str, float]:
    return {name: value.item() for name, value in figures.items()}


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("", []),
        ("O O", []),
        ("B-PER I-PER O B-LOC", [("PER", 0, 2), ("LOC", 3, 4)]),
        ("B-PER B-PER", [("PER", 0, 1), ("PER", 1, 2)]),
        # I after O, at the beginning, and after another type, begins an entity
        ("O I-PER I-PER", [("PER", 1, 3)]),
        ("I-PER O I-PER", [("PER", 0, 1), ("PER", 2, 3)]),
        ("B-PER I-LOC I-LOC", [("PER", 0, 1), ("LOC", 1, 3)]),
        ("I-PER I-LOC I-PER", [("PER", 0, 1), ("LOC", 1, 2), ("PER", 2, 3)]),
        # IOB1: B between two neighbours of one type
        ("I-PER I-PER B-PER I-PER", [("PER", 0, 2), ("PER", 2, 4)]),
        # BIOES as it should be
        ("S-PER B-LOC I-LOC E-LOC B-LOC E-LOC O", [("PER", 0, 1), ("LOC", 1, 4), ("LOC", 4, 6)]),
        # and broken: no end, no beginning, two ends, going on after an end
        ("B-PER I-PER O", [("PER", 0, 2)]),
        ("O E-PER O", [("PER", 1, 2)]),
        ("I-PER E-PER E-PER", [("PER", 0, 2), ("PER", 2, 3)]),
        ("B-PER E-PER I-PER", [("PER", 0, 2), ("PER", 2, 3)]),
        ("S-PER I-PER", [("PER", 0, 1), ("PER", 1, 2)]),
        ("B-PER S-PER", [("PER", 0, 1), ("PER", 1, 2)]),
        ("B-PER E-LOC", [("PER", 0, 1), ("LOC", 1, 2)]),
        # other letters for the same, hyphens in types, and no types
        ("B-PER M-PER E-PER U-LOC B-LOC L-LOC", [("PER", 0, 3), ("LOC", 3, 4), ("LOC", 4, 6)]),
        ("B-a-b I-a-b I-a-c", [("a-b", 0, 2), ("a-c", 2, 3)]),
        ("B I O I", [("", 0, 2), ("", 3, 4)]),
    ],
)
def test_spans_by_hand(tags, expected):
    assert spans(tags.split()) == expected


# Which neighbouring letters end an entity and begin one, as the script and its ports for BIOES list them;
# besides, an entity ends before another type and begins after one.
ENDS = {*("BB", "BS", "BO", "IB", "IS", "IO"), *(a + b for a in "ES" for b in "BIESO")}
STARTS = {*("OB", "OS", "OI", "OE", "BB", "BS", "IB", "IS"), *(a + b for a in "ES" for b in "BIES")}


def conlleval(predicted: list[str], gold: list[str]) -> tuple[int, int, int]:
    """Right, found and true entities in one pass over the tokens with a flag, the way of the script."""
    right = found = true = 0
    both = False
    rows = [("O", "O"), *zip(predicted, gold, strict=True), ("O", "O")]
    for before, now in pairwise(rows):
        ends, starts = [], []
        for last, tag in zip(before, now, strict=True):
            other = last[2:] != tag[2:]
            ends.append(last[0] + tag[0] in ENDS or (last[0] != "O" and other))
            starts.append(last[0] + tag[0] in STARTS or (tag[0] != "O" and other))
        if both:
            if all(ends) and before[0][2:] == before[1][2:]:
                right += 1
                both = False
            elif ends[0] != ends[1] or now[0][2:] != now[1][2:]:
                both = False
        if all(starts) and now[0][2:] == now[1][2:]:
            both = True
        found += starts[0]
        true += starts[1]
    return right, found, true


def test_every_short_sequence_counts_as_in_conlleval():
    """All 4,681 sequences of up to four of eight tags, each against another one, ill-formed ones included."""
    tags = ["O", "B-X", "I-X", "E-X", "S-X", "B-Y", "I-Y", "E-Y"]
    generator = random.Random(0)
    for length in range(5):
        sequences = [list(sequence) for sequence in product(tags, repeat=length)]
        others = generator.sample(sequences, len(sequences))
        for predicted, gold in zip(sequences, others, strict=True):
            found, true = spans(predicted), spans(gold)
            assert (len(set(found) & set(true)), len(found), len(true)) == conlleval(predicted, gold)


def test_scores_by_hand(compute_together):
    """Found: PER right, LOC too short, ORG of no listed type right; true: PER, LOC, ORG, PER missed."""
    gold = [["B-PER", "I-PER", "O", "B-LOC", "I-LOC"], ["B-ORG", "O", "B-PER"]]
    predicted = [["B-PER", "I-PER", "O", "B-LOC", "O"], ["B-ORG", "O", "O"]]
    expected = {"precision": 2 / 3, "recall": 2 / 4, "f1": 4 / 7, "accuracy": 6 / 8}
    expected |= {"f1_PER": 2 / 3, "f1_LOC": 0.0}
    metric = EntityScores(["PER", "LOC", "MISC"])
    metric.update(predicted, gold)
    assert plain(metric.compute()) == pytest.approx(expected)  # no figure for MISC, which is never there
    parts = [EntityScores(["PER", "LOC", "MISC"]) for _ in range(3)]
    parts[1].update(predicted[:1], gold[:1])
    parts[2].update([], [])
    parts[2].update(predicted[1:], gold[1:])
    assert plain(compute_together(*parts)) == pytest.approx(expected)


def test_nothing_found_and_nothing_there():
    metric = EntityScores(["PER"])
    assert all(value.isnan() for value in metric.compute().values())
    metric.update([["O", "O"]], [["O", "O"]])
    assert plain(metric.compute()) == {"precision": 0, "recall": 0, "f1": 0, "accuracy": 1}
    metric.update([["B-PER", "O"]], [["O", "O"]])
    assert plain(metric.compute()) == {"precision": 0, "recall": 0, "f1": 0, "accuracy": 0.75}
    metric.reset()
    metric.update([["O"]], [["B-PER"]])
    assert plain(metric.compute()) == {"precision": 0, "recall": 0, "f1": 0, "accuracy": 0, "f1_PER": 0}


def in_bioes(bio: list[str]) -> list[str]:
    """The same tags in BIOES, by looking at what comes next."""
    goes_on = [tag.startswith("I") for tag in [*bio[1:], "O"]]
    letters = {("B", False): "S", ("I", False): "E"}
    return [letters.get((t[0], on), t[0]) + t[1:] for t, on in zip(bio, goes_on, strict=True)]


def in_iob1(bio: list[str]) -> list[str]:
    """The same tags in IOB1, by looking at what came before."""
    before = ["O", *bio[:-1]]
    return [
        t if t[0] == "B" and t[1:] == b[1:] else t.replace("B-", "I-")
        for t, b in zip(bio, before, strict=True)
    ]


def test_one_entity_written_in_every_scheme():
    bio = ["B-X", "B-X", "I-X", "O", "B-Y", "I-Y", "I-Y", "B-X", "I-X"]
    bioes = ["S-X", "B-X", "E-X", "O", "B-Y", "I-Y", "E-Y", "B-X", "E-X"]
    iob1 = ["I-X", "B-X", "I-X", "O", "I-Y", "I-Y", "I-Y", "I-X", "I-X"]
    assert (in_bioes(bio), in_iob1(bio)) == (bioes, iob1)
    expected = [("X", 0, 1), ("X", 1, 3), ("Y", 4, 7), ("X", 7, 9)]
    assert spans(bio) == spans(bioes) == spans(iob1) == expected


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ("O B-PER I-PER", True),
        ("O I-PER", True),
        ("B-X M-X E-X S-X U-X L-X", True),
        ("B M E S", True),
        ("O B I", True),
        ("NOUN VERB", False),
        ("O PER LOC", False),
    ],
)
def test_labels_of_entities_and_others(labels, expected):
    assert are_entities(labels.split()) is expected


def test_a_corpus_in_every_scheme(sources, origin):
    """Up to 2,000 sentences of a Chinese corpus in three schemes, and scored against themselves shifted."""
    with zipfile.ZipFile(sources / "msra-ner/dh_msra.zip") as archive, archive.open("dh_msra.txt") as file:
        lines = file.read(600_000).decode("utf-8", errors="ignore").split("\n")
    sentences: list[list[str]] = [[]]
    for line in lines:
        if line.strip():
            sentences[-1].append(line.strip().rpartition("\t")[2])
        else:
            sentences.append([])
    sentences = [tags for tags in sentences if tags][:2000]
    assert len(sentences) == {"own": 24, "real": 2000}[origin]
    for tags in sentences:
        assert spans(tags) == spans(in_bioes(tags)) == spans(in_iob1(tags))
    shifted = [[*tags[3:], *tags[:3]] for tags in sentences]
    right, found, true = map(sum, zip(*map(conlleval, shifted, sentences), strict=True))
    metric = EntityScores(sorted({tag[2:] for tags in sentences for tag in tags if tag != "O"}))
    metric.update(shifted, sentences)
    figures = plain(metric.compute())
    assert figures["precision"] == pytest.approx(right / found)
    assert figures["recall"] == pytest.approx(right / true)
    assert figures["f1"] == pytest.approx(2 * right / (found + true))


def test_wrong_tags():
    with pytest.raises(UserError, match="'X-PER' is neither O nor one of B, I, E, S"):
        spans(["O", "X-PER"])
    with pytest.raises(UserError, match="'PER' is neither O nor"):
        are_entities(["O", "B-PER", "PER"])
    with pytest.raises(UserError, match="''"):
        spans([""])
    with pytest.raises(ValueError, match="not equally many"):
        EntityScores(["PER"]).update([["O"]], [["O", "O"]])
