"""Answers in texts: targets that decode to the answer, windows that cover the text, the best span of all."""

from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from lm import checkpoint as checkpoints
from lm.backbone import BackboneConfig
from lm.data.examples.questions import read_questions
from lm.data.examples.records import QuestionExample
from lm.errors import UserError
from lm.tasks import QuestionAnswering
from lm.tokenizer import Tokenizer, load_tokenizer, train_tokenizer

TEXT = "The parser reads every argument of the command, one after another, and returns a namespace. " * 3
ANSWERED = QuestionExample("1", "what does it return?", TEXT, (("a namespace", TEXT.index("a namespace")),))
UNANSWERED = QuestionExample("2", "who wrote it?", TEXT)


def light(tokenizer: Tokenizer, seq_len: int, causal: bool = False, **options) -> QuestionAnswering:
    """A task that can encode, without a network."""
    config = BackboneConfig(hidden_size=8, num_layers=1, num_heads=2, causal=causal, segments=2)
    task = QuestionAnswering(config, **options)
    task.processor, config.max_seq_len = tokenizer, seq_len
    return task


@pytest.fixture(scope="session")
def engines(sources, origin) -> dict[str, Tokenizer]:
    """WordPiece; SentencePiece trained on Chinese and English; a Llama's, which puts a space first."""
    texts = [
        (sources / f"xquad/xquad.{language}.json").read_text(encoding="utf-8") for language in ("en", "zh")
    ]
    plain = [text.encode().decode("unicode_escape") if "\\u4e" in text else text for text in texts]
    return {
        "wordpiece": load_tokenizer(sources / "minilm-l6-config"),
        "sentencepiece": train_tokenizer(
            [text[:40_000] for text in plain], {"own": 800, "real": 4000}[origin]
        ),
        "llama": load_tokenizer(sources / "stories260K-hf/tokenizer.model"),
    }


@pytest.mark.parametrize(
    ("name", "language"), [("wordpiece", "en"), ("wordpiece", "zh"), ("sentencepiece", "zh"), ("llama", "en")]
)
def test_every_target_of_xquad_decodes_to_its_answer(engines, sources, origin, name, language):
    """All questions, 1,190 real ones, on windows shorter than most texts: what a right model points at is
    the answer, but for tokens that reach beyond it."""
    seq_len, overlap = {"own": (60, 20), "real": (200, 70)}[origin]
    task = light(engines[name], seq_len, causal=name == "llama", overlap=overlap)
    examples = list(read_questions(str(sources / f"xquad/xquad.{language}.json")))
    assert len(examples) == {"own": 18, "real": 1190}[origin]
    several = exact = 0
    contexts: dict[str, tuple] = {}
    encode = task.tokenizer.encode_with_offsets
    task.processor = KnownTexts(task.tokenizer, lambda text: contexts.setdefault(text, encode(text)))
    for example in examples:
        windows = task.encode(example, True)
        several += len(windows) > 1
        text, begin = example.answers[0]
        found = [w for w in windows if w["start"] > 0]
        assert found, "no window has the answer"
        for window in found:
            assert window["allowed"][window["start"]] == window["allowed"][window["end"]] == 1
            spans = window["spans"][window["start"] - window["first"] : window["end"] - window["first"] + 1]
            start, end = spans[0][0], spans[-1][1]
            assert start <= begin and end >= begin + len(text.rstrip())
            # Whole tokens: each of them touches the answer.
            assert all(a < begin + len(text) and b > begin for a, b in spans if a < b)
            exact += example.context[start:end] == text
    assert several > {"own": 3, "real": 300}[origin]
    assert exact > 0.9 * len(examples)


class KnownTexts:
    """A tokenizer that encodes each text once: XQuAD asks five questions on each."""

    def __init__(self, tokenizer, encode_with_offsets) -> None:
        self.tokenizer, self.encode_with_offsets = tokenizer, encode_with_offsets

    def __getattr__(self, name):
        return getattr(self.tokenizer, name)


@pytest.mark.parametrize("overlap", [1, 5, 12])
@pytest.mark.parametrize("seq_len", [40, 55, 400])
def test_windows_cover_every_piece_and_overlap_as_asked(tokenizer, seq_len, overlap):
    task = light(tokenizer, seq_len, overlap=overlap)
    ids, offsets = tokenizer.encode_with_offsets(TEXT)
    windows = task.encode(ANSWERED, False)
    question = tokenizer.encode(ANSWERED.question)
    covered: list[int] = []
    for number, window in enumerate(windows):
        first = window["first"]
        part = window["tokens"][first : first + len(window["spans"])]
        assert len(window["tokens"]) <= seq_len and window["window"] == number
        assert tokenizer.frame(question, part) == (window["tokens"], window["segments"])
        place = offsets.index(window["spans"][0])
        assert ids[place : place + len(part)] == part
        if number:
            room = seq_len - first - 1
            assert len(covered) - place == min(overlap, room - room // 2)
        covered = covered[:place] + part
        allowed = [0, *range(first, first + len(part))]
        assert [i for i, yes in enumerate(window["allowed"]) if yes] == allowed
    assert covered == ids
    assert windows[0]["several"] is (len(windows) > 1) is (seq_len < 400)


def test_a_question_is_cut_and_a_window_too_small_is_refused(tokenizer):
    long = QuestionExample("1", "why " * 100, TEXT, ANSWERED.answers)
    (window, *_) = light(tokenizer, 64, max_question=9).encode(long, True)
    assert window["first"] == 1 + 9 + 1
    for seq_len in (20, 32):  # a question never takes all of a window: eight tokens are left for the text
        (window, *_) = light(tokenizer, seq_len, max_question=30).encode(long, False)
        assert (window["first"], len(window["tokens"])) == (seq_len - 1 - 8, seq_len)
    with pytest.raises(UserError, match=r"`data.seq_len` 18 leaves no room for question and text") as caught:
        light(tokenizer, 18).encode(UNANSWERED, True)
    assert caught.value.status == 2


def test_where_there_is_no_answer(tokenizer):
    for example in (UNANSWERED, QuestionExample("3", "x?", "a b c", (("zzz", 90),))):
        assert all(w["start"] == w["end"] == 0 for w in light(tokenizer, 50).encode(example, True))
    task = light(tokenizer, 60, overlap=4)
    windows = task.encode(ANSWERED, True)
    assert len(windows) > 2
    begin, length = ANSWERED.answers[0][1], len("a namespace")
    for window in windows:
        whole = window["spans"][0][0] <= begin and window["spans"][-1][1] >= begin + length
        assert (window["start"] > 0) is whole, "the answer is in it, all of it, or there is none"


def test_the_loss_by_hand_and_only_where_an_answer_can_stand(ready, made, starts):
    task = ready(QuestionAnswering, made([ANSWERED, UNANSWERED] * 3, seq_len=60), init_from=starts["bert"])
    assert task.unanswerable
    task.net.train()
    batch = task.collate(task.data.features("train")[:5])
    with torch.no_grad():
        scores = task.net(batch["tokens"], batch["documents"], segments=batch["segments"])
    expected = 0.0
    for row in range(5):
        places = [i for i, yes in enumerate(batch["allowed"][row].tolist()) if yes]
        for column, name in enumerate(("start", "end")):
            among = scores[row, places, column]
            expected -= F.log_softmax(among, -1)[places.index(int(batch[name][row]))].item() / 2
    found = task.training_step(batch, 0)
    assert found["total"].item() == pytest.approx(expected, rel=1e-5)
    assert found["loss"].item() == pytest.approx(expected / task.data.batch_size, rel=1e-5)
    logits = task.logits(batch)
    logits.retain_grad()
    task.losses(logits, batch).sum().backward()
    assert (logits.grad[batch["allowed"] == 0] == 0).all()
    assert (logits.grad[batch["allowed"] == 1] != 0).any()


def best_span(scores: torch.Tensor, window: dict, most: int) -> tuple[float, int, int]:
    """The best span by looking at each: score, first and last token."""
    first, count = window["first"], len(window["spans"])
    return max(
        (float(scores[i, 0] + scores[j, 1]), i, j)
        for i in range(first, first + count)
        for j in range(i, min(i + most, first + count))
    )


def test_the_best_span_of_each_window(ready, made, starts):
    task = ready(QuestionAnswering, made([ANSWERED] * 4, seq_len=60), init_from=starts["bert"], max_answer=5)
    windows = task.encode(ANSWERED, False)
    batch = task.collate([{**w, "index": 0} for w in windows])
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        scores = torch.randn(*batch["tokens"].shape, 2, generator=generator)
        masked = scores.masked_fill(batch["allowed"][..., None] == 0, float("-inf"))
        for row, (score, none, begin, end) in enumerate(task.spans(batch, masked)):
            expected, i, j = best_span(scores[row], windows[row], 5)
            assert score == pytest.approx(expected) and none == pytest.approx(float(scores[row, 0].sum()))
            spans = windows[row]["spans"]
            first = windows[row]["first"]
            assert (begin, end) == (spans[i - first][0], spans[j - first][1])


def test_the_answer_is_the_best_of_all_windows(tokenizer):
    task = light(tokenizer, 60)
    begin = TEXT.index("a namespace")
    windows = {0: (1.0, 0.5, 4, 10), 1: (7.0, 3.0, begin, begin + 11), 2: (6.9, 8.0, 0, 3)}
    assert task.answer(ANSWERED, windows) == {"answer": "a namespace", "start": begin, "score": 6.5}
    assert task.answer(ANSWERED, dict(reversed(windows.items()))) == task.answer(ANSWERED, windows)
    task.unanswerable = True
    assert task.answer(ANSWERED, windows)["answer"] == "a namespace"
    none = {0: (1.0, 1.5, 4, 10), 1: (2.0, 3.0, 0, 3), 2: (2.5, 2.6, 0, 3)}
    assert task.answer(ANSWERED, none)["answer"] == TEXT[0:3]
    below = {number: (score, score + 1, a, b) for number, (score, _, a, b) in none.items()}
    below[0] = (1.0, 9.0, 4, 10)
    below[1] = (2.0, 9.0, 0, 3)
    assert task.answer(ANSWERED, below) == {"answer": "", "start": None, "score": -1.0}


def test_a_text_without_a_piece_has_no_answer_and_no_score(tokenizer):
    """JSON has no infinity."""
    found = {0: (float("-inf"), 0.5, 0, 0)}
    assert light(tokenizer, 60).answer(ANSWERED, found) == {"answer": "", "start": None, "score": None}


def test_a_right_model_gets_full_marks(ready, made, starts):
    """Windows in batches of any kind, the answer in one or several of them, some questions without one."""
    late = QuestionExample("3", "what at last?", TEXT, (("a namespace", TEXT.rindex("a namespace")),))
    examples = [ANSWERED, UNANSWERED, late]
    data = made(examples, test=examples, seq_len=48)
    task = ready(QuestionAnswering, data, init_from=starts["bert"], overlap=10)

    def logits(batch):
        made = torch.zeros(*batch["tokens"].shape, 2)
        for row in range(len(made)):
            made[row, batch["start"][row], 0] = made[row, batch["end"][row], 1] = 9 + (
                batch["start"][row] > 0
            )
        return made.masked_fill(batch["allowed"][..., None] == 0, float("-inf"))

    task.logits = logits
    task._trainer = SimpleNamespace(
        strategy=None, global_rank=0, world_size=1, state=SimpleNamespace(fn="test")
    )
    features = sorted(data.features("test"), key=lambda f: f["tokens"])
    assert len(features) > 8
    for start in range(0, len(features), 4):
        batch = task.collate(features[start : start + 4])
        task.validation_step(batch, 0)
    figures = task.figures()
    assert float(figures["exact_match"]) == float(figures["f1"]) == 100
    for start in range(0, len(features), 4):
        assert task.predict_step(task.collate(features[start : start + 4]), 0) == []
    rows = task.last_rows()
    assert [row["id"] for row in rows] == ["1", "2", "3"]
    assert [row["answer"] for row in rows] == ["a namespace", "", "a namespace"]
    assert [row["start"] for row in rows] == [ANSWERED.answers[0][1], None, late.answers[0][1]]


def test_questions_that_can_not_be_learned(ready, made, starts):
    with pytest.raises(UserError, match=r"no question of train.x has an answer"):
        ready(QuestionAnswering, made([UNANSWERED] * 3), init_from=starts["bert"])
    with pytest.raises(UserError, match=r"val.x has no answers: `lm predict`"):
        ready(QuestionAnswering, made([ANSWERED] * 3, [UNANSWERED], seq_len=60), init_from=starts["bert"])
    with pytest.raises(UserError, match="overlap is 0"):
        ready(QuestionAnswering, made([ANSWERED] * 3), init_from=starts["bert"], overlap=0)


def test_how_texts_are_cut_goes_with_the_checkpoint(ready, made, starts):
    task = ready(
        QuestionAnswering, made([ANSWERED, UNANSWERED], seq_len=60), init_from=starts["bert"], overlap=7
    )
    record = {**checkpoints.make_record("", task.config, task.processor), **task.record()}
    again = QuestionAnswering(BackboneConfig(causal=False))
    again.take_record(record, task.processor)
    assert (again.windows["overlap"], again.windows["max_question"], again.unanswerable) == (7, 64, True)
    assert again.encode(ANSWERED, False) == task.encode(ANSWERED, False)
