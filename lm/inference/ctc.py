"""From a network's answer for each frame to what was said: connectionist temporal classification (CTC).

A network says for each frame how likely each class is, one of which is the blank. A path, a class for each
frame, spells what is left of it when repeated classes are one and blanks are gone (Graves et al. 2006).
"""

import heapq
import math
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
import torch
from torch import Tensor

from lm.backbone import LanguageModel
from lm.inference.scoring import score, windows
from lm.metrics.chinese import apart
from lm.tokenizer import Tokenizer

_NEVER = -math.inf


class Label(NamedTuple):
    """A class that was heard, from its first to its last frame."""

    token: int
    first: int
    last: int


class Hypothesis(NamedTuple):
    """What may have been said.

    Args:
        tokens: its classes.
        log_probability: of all its paths that were followed, in nats.
        score: the same with what a language model and the length add.
    """

    tokens: tuple[int, ...]
    log_probability: float
    score: float


class Word(NamedTuple):
    """A word and when it was said, in seconds."""

    text: str
    start: float
    end: float


class Likeliest:
    """Log-probabilities of V classes in T frames, of which each frame's likeliest are kept: of hours of sound
    and thousands of classes all would not fit into memory. The others are taken to be as likely as the last
    of these, which is more than they are.

    Args:
        log_probs: all of them (T, V), on any device.
        most: how many are kept (K), or all, where there are fewer.

    Attributes:
        size: V.
        values: what is kept (T, K), the likeliest first, on the CPU.
        classes: of which classes it is, int32 (T, K).
    """

    def __init__(self, log_probs: Tensor, most: int = 64) -> None:
        self.size = log_probs.shape[1]
        values, classes = log_probs.detach().topk(min(most, self.size))
        self.values, self.classes = values.cpu(), classes.int().cpu()

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, frames: slice) -> Self:
        return self.joined([self], [frames])

    @classmethod
    def joined(cls, given: Sequence[Self], parts: Sequence[slice]) -> Self:
        """Frames of each, one after another."""
        made = cls.__new__(cls)
        made.size = given[0].size
        made.values = torch.cat([each.values[part] for each, part in zip(given, parts, strict=True)])
        made.classes = torch.cat([each.classes[part] for each, part in zip(given, parts, strict=True)])
        return made

    def of(self, classes: Sequence[int]) -> Tensor:
        """Log-probabilities of n classes, each another one, (T, n)."""
        columns = torch.full((self.size,), len(classes))  # one more, for what nobody asks for
        columns[list(classes)] = torch.arange(len(classes))
        found = self.values[:, -1:].repeat(1, len(classes) + 1)
        return found.scatter_(1, columns[self.classes.long()], self.values)[:, :-1]


class Scorer(Protocol):
    """A language model that is asked class by class. Its state is whatever it needs of what came before."""

    def start(self) -> Any:
        """The state before anything is said."""

    def extend(self, state: Any, token: int) -> tuple[float, Any]:
        """What a class adds to the log-probability, in nats, and the state behind it."""

    def end(self, state: Any) -> float:
        """What it adds that nothing more is said."""


def greedy(log_probs: Likeliest, blank: int = 0) -> list[Label]:
    """What the likeliest path spells."""
    found, first = [], 0
    for token, frames in groupby(log_probs.classes[:, 0].tolist()):
        after = first + len(list(frames))
        if token != blank:
            found.append(Label(token, first, after - 1))
        first = after
    return found


def beam_search(
    log_probs: Likeliest,
    blank: int = 0,
    width: int = 32,
    model: Scorer | None = None,
    alpha: float = 0.5,
    beta: float = 0.0,
    top: int = 40,
    least: float = 1e-4,
) -> list[Hypothesis]:
    """The likeliest things that may have been said, the best first: prefix beam search (Hannun et al. 2014,
    arXiv:1408.2873).

    All paths that spell one thing count together, those that end in a blank apart from the others: only
    behind a blank the same class is another one. Exact where all classes are kept, and `width`, `top` and
    `least` leave nothing out.

    Args:
        log_probs: logarithms of the classes' probabilities.
        blank: the blank's number.
        width: how many beginnings are followed.
        model: a language model; None: the network alone.
        alpha: the weight of its nats.
        beta: what each class adds to the score, which makes up for the model's liking for short texts.
        top: how many classes of a frame are followed at the most,
        least: and how likely they are at least.
    """
    log_least = math.log(least) if least > 0 else _NEVER
    # What may have been said so far is named by its last class and the number of what came before that: whole
    # texts would be copied and compared at each step.
    nothing = (-1, blank)
    numbers, numbered = {nothing: 0}, [nothing]
    beams = {nothing: (0.0, _NEVER)}  # log-probabilities: ends in a blank, or doesn't
    known = {nothing: (0, 0.0, model.start() if model else None)}  # length; language model's nats and state
    for classes, values in zip(log_probs.classes.tolist(), log_probs.values.tolist(), strict=True):
        reached: dict[tuple[int, int], list[float]] = {}
        frame, others = dict(zip(classes, values, strict=True)), values[-1]
        tokens = [token for token in classes[:top] if token != blank and frame[token] >= log_least]
        for name, (in_blank, in_token) in beams.items():
            number, last = numbers[name], name[1]
            either = _add(in_blank, in_token)
            stay = reached.setdefault(name, [_NEVER, _NEVER])
            stay[0] = _add(stay[0], either + frame.get(blank, others))
            if last != blank:
                stay[1] = _add(stay[1], in_token + frame.get(last, others))
            for token in tokens:
                before = in_blank if token == last else either
                if before > _NEVER:
                    go = reached.setdefault((number, token), [_NEVER, _NEVER])
                    go[1] = _add(go[1], before + frame[token])
        totals = {}
        for name, (in_blank, in_token) in reached.items():
            if name not in known:
                length, nats, state = known[numbered[name[0]]]
                more, state = model.extend(state, name[1]) if model else (0.0, None)
                known[name] = length + 1, nats + more, state
            length, nats, _ = known[name]
            totals[name] = _add(in_blank, in_token) + alpha * nats + beta * length
        kept = heapq.nlargest(width, totals, key=totals.__getitem__)
        beams = {name: (reached[name][0], reached[name][1]) for name in kept}
        known = {name: known[name] for name in kept}
        for name in kept:
            if name not in numbers:
                numbers[name] = len(numbered)
                numbered.append(name)
    found = []
    for name, (in_blank, in_token) in beams.items():
        length, nats, state = known[name]
        total, language = _add(in_blank, in_token), alpha * (nats + (model.end(state) if model else 0.0))
        said, at = [], name
        while at != nothing:
            said.append(at[1])
            at = numbered[at[0]]
        found.append(Hypothesis(tuple(said[::-1]), total, total + language + beta * length))
    return sorted(found, key=lambda each: -each.score)


def _add(a: float, b: float) -> float:
    """log(exp(a) + exp(b))."""
    high, low = (a, b) if a > b else (b, a)
    return high if low == _NEVER else high + math.log1p(math.exp(low - high))


def align(log_probs: Likeliest, tokens: Sequence[int], blank: int = 0) -> list[Label]:
    """When each of some classes was said: the frames that it has on the likeliest path that spells them.

    Raises:
        ValueError: there are too few frames for them.
    """
    if not tokens:
        return []
    # A path goes through: a blank, the first class, a blank, …, the last class, a blank.
    places = np.full(2 * len(tokens) + 1, blank)
    places[1::2] = tokens
    classes, columns = np.unique(places, return_inverse=True)
    scores = log_probs.of(classes.tolist()).double().numpy()
    leaps = np.zeros(len(places), dtype=bool)  # where the blank before it may be left out
    leaps[3::2] = places[3::2] != places[1:-2:2]
    best = np.full(len(places), _NEVER)
    best[:2] = scores[0, columns[:2]]
    steps = np.zeros((len(scores), len(places)), dtype=np.int8)  # back to the place before
    for frame in range(1, len(scores)):
        ways = np.full((3, len(places)), _NEVER)
        ways[0], ways[1, 1:] = best, best[:-1]
        ways[2, 2:] = np.where(leaps[2:], best[:-2], _NEVER)
        steps[frame] = ways.argmax(axis=0)
        best = ways.max(axis=0) + scores[frame, columns]
    place = len(places) - 1 - int(best[-2] > best[-1])
    if best[place] == _NEVER:
        raise ValueError(f"{len(scores)} frames can't spell {len(tokens)} classes")
    first, last = [0] * len(tokens), [-1] * len(tokens)
    for frame in range(len(scores) - 1, -1, -1):
        if place % 2:
            first[place // 2] = frame
            last[place // 2] = max(last[place // 2], frame)
        place -= int(steps[frame, place])
    return [Label(*each) for each in zip(tokens, first, last, strict=True)]


def words_of(labels: Sequence[Label], texts: Sequence[str], seconds: float) -> list[Word]:
    """The words that labels spell, each Chinese character one, and when they were said.

    Args:
        labels: from `greedy` or `align`.
        texts: what each class stands for, such as " " or "a".
        seconds: from one frame to the next.
    """
    found: list[Word] = []
    inside = False
    for token, first, last in labels:
        for char in apart(texts[token]):
            start, end = first * seconds, (last + 1) * seconds
            if char.isspace():
                inside = False
            elif inside:
                found[-1] = Word(found[-1].text + char, found[-1].start, end)
            else:
                found.append(Word(char, start, end))
                inside = True
    return found


class Gpt:
    """A model that writes, asked how likely whole texts are: whatever its tokens are, it need not share them
    with what heard the texts.

    Args:
        model: one that writes from left to right, in evaluation mode.
        tokenizer: its own.
    """

    def __init__(self, model: LanguageModel, tokenizer: Tokenizer) -> None:
        self.model, self.tokenizer = model, tokenizer

    def nats(self, texts: Sequence[str]) -> list[float]:
        """The log-probability of each text, of its start without its end."""
        length, start = self.model.config.max_seq_len, self.tokenizer.start_id
        cut = [windows(self.tokenizer.encode(text), start, length) for text in texts]
        scored = iter(score(self.model, [window for text in cut for window in text]))
        return [sum(next(scored).total for _ in text) for text in cut]


def rescore(
    hypotheses: Sequence[Hypothesis],
    text_of: Callable[[tuple[int, ...]], str],
    gpt: Gpt,
    alpha: float = 0.5,
    beta: float = 0.0,
) -> list[Hypothesis]:
    """Hypotheses in the order that a language model gives them, the best first; with its score.

    Args:
        text_of: what some classes spell, written as the model was trained on it.
        alpha, beta: see `beam_search`.
    """
    nats = gpt.nats([text_of(each.tokens) for each in hypotheses])
    scored = [
        each._replace(score=each.log_probability + alpha * said + beta * len(each.tokens))
        for each, said in zip(hypotheses, nats, strict=True)
    ]
    return sorted(scored, key=lambda each: -each.score)
