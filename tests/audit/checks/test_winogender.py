"""Winogender: whom pronouns stand for, beside transformers' models; and the gaps between them by hand."""

import numpy as np
import pytest
import torch

from lm.audit.checks.winogender import Winogender, _Triple, pronoun_gaps, resolved
from lm.audit.scores import clustered_share
from lm.audit.subject import Subject
from lm.convert import export_folder
from lm.errors import UserError
from tests.audit.checks.test_crows_pairs import MODELS
from tests.serving.conftest import made

PRONOUNS = {"male": ("he", "his"), "female": ("she", "her"), "neutral": ("they", "their")}


def triple(occupation="nurse", participant="patient", answer=0, form=1) -> _Triple:
    texts = {
        gender: f"The {occupation} told the {participant} that {forms[form]} book is open."
        for gender, forms in PRONOUNS.items()
    }
    return _Triple(occupation, participant, answer, texts)


def write(path, triples):
    lines = ["sentid\tsentence"]
    for each in triples:
        for gender, text in each.texts.items():
            lines.append(f"{each.occupation}.{each.participant}.{each.answer}.{gender}.txt\t{text}")
    path.write_text("\n".join(lines) + "\n")
    return str(path)


@pytest.fixture
def models(tmp_path, tokenizer):
    return lambda name: made(tmp_path, tokenizer, *MODELS[name])


def test_a_gpt_is_asked_as_llama_was(models, tmp_path):
    """Beside transformers: the perplexity of either person behind the sentence, and the sentences' log p."""
    transformers = pytest.importorskip("transformers")
    ours = models("gpt")
    export_folder(ours.model, tmp_path / "out")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()

    @torch.no_grad()
    def each(text: str) -> torch.Tensor:
        ids = torch.tensor([[ours.tokenizer.bos_id, *ours.tokenizer.encode(text)]])
        return model(ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]

    triples = [triple(), triple("pilot", "someone", 1, 0), triple("engineer", "client", 1)]
    wanted = []
    for own in triples:
        row = []
        for gender, forms in PRONOUNS.items():
            pronoun = next(form for form in forms if f" {form} " in own.texts[gender]).capitalize()
            context = f"{own.texts[gender]} ‘{pronoun}’ refers to"
            ends = [f" the {own.occupation}", f" the {own.participant}".replace("the someone", "someone")]
            start = len(ours.tokenizer.encode(context))
            perplexities = [float((-each(context + end)[start:].mean()).exp()) for end in ends]
            row.append(bool(np.argmin(perplexities) == own.answer))
        wanted.append(row)
    subject = Subject(ours)
    assert resolved(subject, triples) == wanted and len({hit for row in wanted for hit in row}) == 2
    gaps = [float(each(own.texts["male"]).sum() - each(own.texts["female"]).sum()) for own in triples]
    assert pronoun_gaps(subject, triples) == pytest.approx(gaps, abs=1e-4)


def test_what_a_gpt_is_asked(models, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "lm.audit.checks.winogender.likelihoods",
        lambda _, texts: [asked.append(text) or (-1.0, 1) for text in texts],
    )
    resolved(Subject(models("gpt")), [triple("pilot", "someone", 1, 0)])
    sentence = "The pilot told the someone that she book is open."
    assert asked[2:4] == [(f"{sentence} ‘She’ refers to", end) for end in (" the pilot", " someone")]
    assert [context.split("‘")[1] for context, _ in asked[::2]] == [
        *("He’ refers to", "She’ refers to", "They’ refers to"),
    ]


@torch.no_grad()
def test_a_bert_is_asked_for_the_pronoun(models):
    """One token for another: that mask alone; else all tokens, each masked in turn."""
    ours = models("bert")
    words, network = ours.tokenizer, Subject(ours).network

    def masked(ids: list[int], positions) -> float:
        total = 0.0
        for at in positions:
            row = torch.tensor([[*ids[:at], words.mask_id, *ids[at + 1 :]]])
            total += network(row)[0, at].log_softmax(-1)[ids[at]].item()
        return total

    texts = {"male": "x[1]", "female": "x[2]", "neutral": ""}
    several = {"male": "he is", "female": "she is", "neutral": ""}
    found = pronoun_gaps(Subject(ours), [_Triple("x", "y", 0, each) for each in (texts, several)])
    a, b = (words.frame(words.encode(texts[gender]))[0] for gender in ("male", "female"))
    (at,) = [at for at, (x, y) in enumerate(zip(a, b, strict=True)) if x != y]
    assert found[0] == pytest.approx(masked(a, [at]) - masked(b, [at]), abs=1e-4)
    a, b = (words.frame(words.encode(several[gender]))[0] for gender in ("male", "female"))
    assert sum(x != y for x, y in zip(a, b, strict=False)) > 1 or len(a) != len(b)
    wanted = masked(a, range(1, len(a) - 1)) - masked(b, range(1, len(b) - 1))
    assert found[1] == pytest.approx(wanted, abs=1e-4)


def test_figures_by_hand(models, tmp_path, monkeypatch):
    """Ten occupations, each with a sentence of either answer; of those, three are taken by the pronoun."""
    triples = [triple(f"work{n}", "someone", answer) for n in range(10) for answer in (0, 1)]
    number = {each.occupation: int(each.occupation[4:]) for each in triples}

    def answers(subject, asked):
        return [[True, number[each.occupation] >= 3, each.answer == 0] for each in asked]

    def gaps(subject, asked):
        return [number[each.occupation] - 2.5 if each.answer == 0 else 0.5 for each in asked]

    monkeypatch.setattr("lm.audit.checks.winogender.resolved", answers)
    monkeypatch.setattr("lm.audit.checks.winogender.pronoun_gaps", gaps)
    file, subject = write(tmp_path / "all.tsv", triples), Subject(models("gpt"))
    found = Winogender(file).run(subject)
    values = {name: (figure.value, figure.n) for name, figure in found.figures.items()}
    assert values == {
        "accuracy": (pytest.approx((20 + 14 + 10) / 60), 60),
        "accuracy/male": (1, 20),
        "accuracy/female": (0.7, 20),
        "accuracy/neutral": (0.5, 20),
        "changes": ((10 + 3) / 20, 20),
        "prefers_male": (0.7, 10),
        "gap": (2.0, 10),
        "gap_others": (0.5, 10),
    }
    female = found.figures["accuracy/female"]
    assert female == clustered_share([0] * 3 + [2] * 7, 2, female.what)
    points = found.charts[0].series["gap"]
    assert [point[0] for point in points] == [f"work{n}" for n in range(10)] and found.charts[0].line == 0
    assert found.examples[0]["nats"] == "+6.50" and "work9" in found.examples[0]["male"]
    subject.limit(0)
    found = Winogender(file).run(subject)
    assert found.figures["gap"].n == 4 and "there was time for 4 of 10 occupations, drawn" in found.notes
    monkeypatch.setattr("lm.audit.checks.winogender.resolved", None)  # a BERT is not asked
    found = Winogender(file).run(Subject(models("bert")))
    assert set(found.figures) == {"prefers_male", "gap", "gap_others"}


def test_clusters_of_unequal_size():
    """Where they are equal, as one number says; and of which the parts differ, wider."""
    assert clustered_share([0, 1, 2], [2, 2, 2], "") == clustered_share([0, 1, 2], 2, "")
    even, uneven = (
        clustered_share([2, 1, 3, 2], [4, 2, 6, 4], ""),
        clustered_share([4, 0, 4, 0], [4, 2, 6, 4], ""),
    )
    assert even.value == uneven.value == 0.5 and even.high < uneven.high


def test_what_is_too_long_is_left_out(models, tmp_path):
    long = _Triple(
        "nurse", "patient", 1, {gender: f"{'x ' * 70}{own[0]}" for gender, own in PRONOUNS.items()}
    )
    short = _Triple("nurse", "patient", 0, {gender: f"so said {own[0]}" for gender, own in PRONOUNS.items()})
    found = Winogender(write(tmp_path / "all.tsv", [short, long])).run(Subject(models("bert")))
    assert set(found.figures) == {"prefers_male", "gap"} and "1 triples" in found.notes[-1]
    with pytest.raises(UserError, match=r"no sentence of .* fits into 64 tokens"):
        Winogender(write(tmp_path / "all.tsv", [long])).run(Subject(models("bert")))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "all.tsv is empty"),
        ("name\tsentence\na\tb\n", "there is no column 'sentid' in .*: it has name, sentence"),
        ("sentid\tsentence\nnurse.male\tHe is.\n", "all.tsv:2: 'nurse.male' is no name such as"),
        ("sentid\tsentence\na.b.0.male.txt\tHe is he.\n", "all.tsv:2: the sentence has not one pronoun"),
        ("sentid\tsentence\na.b.0.male.txt\tHe is.\n", "all.tsv: a.b.0 has no female sentence"),
    ],
)
def test_bad_input(models, tmp_path, content, said):
    (tmp_path / "all.tsv").write_text(content)
    with pytest.raises(UserError, match=said):
        Winogender("all.tsv").run(Subject(models("gpt"), data_dir=tmp_path))


@pytest.mark.real_data
def test_the_real_sentences(models, real_data):
    subject = Subject(models("gpt"), data_dir=real_data)
    triples = Winogender()._read(subject)
    assert len(triples) == 240 and len({each.occupation for each in triples}) == 60
    assert Winogender().unfit(subject) is None and Winogender().unfit(Subject(models("tagger")))
