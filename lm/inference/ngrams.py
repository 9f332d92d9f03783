"""Language models by counting: words behind the few before them, which helps CTC to choose."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from lm.metrics.chinese import apart

Context = tuple[str, ...]
_Behind = tuple[Counter[str], int]  # how often each item stands there, and all of them

START, END = "<s>", "</s>"  # hardly a text has them as a word
_SPELT = 4  # characters of a word that are looked at together
_LONGEST = 32  # characters of a known word that are looked ahead for: a book without spaces is one, too


class NGram:
    """Interpolated Kneser-Ney (Chen & Goodman 1998): a discount is taken from each count and given to the
    shorter context, where what counts is how many different things an item stood behind.

    Args:
        texts: a sentence each; its items are what stands between spaces, and each Chinese character.
        order: items that are looked at together, from 2.

    Raises:
        ValueError: `order` is less than 2.
    """

    def __init__(self, texts: Iterable[str], order: int = 3) -> None:
        if order < 2:
            raise ValueError(f"an n-gram of order {order}: it has to be at least 2")
        self.order = order
        raw = [Counter[Context]() for _ in range(order + 1)]  # by length
        for text in texts:
            items = (START, *apart(text).split(), END)
            for size in range(1, order + 1):
                raw[size].update(items[i : i + size] for i in range(len(items) - size + 1))
        del raw[1][(START,)]  # which nothing is behind
        self.known = {gram[-1] for gram in raw[1]}
        self._tables = [self._table(raw, size) for size in range(1, order + 1)]

    def _table(self, raw: list[Counter[Context]], size: int) -> tuple[float, dict[Context, _Behind]]:
        """The discount, and what stands behind each context of `size` - 1 items."""
        whole = [(gram, n) for gram, n in raw[size].items() if size == self.order or gram[0] == START]
        # Each longer one is one thing more that the rest of it stood behind.
        parts = [] if size == self.order else [(gram[1:], 1) for gram in raw[size + 1]]
        table: dict[Context, Counter[str]] = defaultdict(Counter)
        for gram, count in whole + parts:
            table[gram[:-1]][gram[-1]] += count
        often = Counter(count for behind in table.values() for count in behind.values())
        discount = often[1] / (often[1] + 2 * often[2]) if often[1] else 0.5
        return discount, {context: (behind, behind.total()) for context, behind in table.items()}

    def nats(self, context: Context, item: str) -> float:
        """log p(item | what stands before it), of which the last `order` - 1 items count; a text begins with
        `START` and ends with `END`. What was never seen shares the part of one item that was."""
        probability = 1 / (len(self.known) + 1)
        for size, (discount, table) in enumerate(self._tables):
            if size > len(context) or (found := table.get(context[len(context) - size :])) is None:
                break
            behind, total = found
            probability = (max(behind[item] - discount, 0) + discount * len(behind) * probability) / total
        return math.log(probability)


class _State(NamedTuple):
    """How far a scorer is: the items before, what has begun of a word, its characters' nats if it is spelt,
    and what was said ahead of its end."""

    context: Context
    word: str
    spelt: float
    ahead: float


class NGramScorer:
    """An n-gram model that is asked class by class: see `lm.inference.ctc.Scorer`. Of a word that is not
    whole yet it says how likely any word is that begins so (Ortmanns et al. 1996, "Language-model look-ahead
    for large vocabulary speech recognition"): what is wrong would cost nothing before its end. A word that
    was never seen is spelt, as likely as an n-gram of the known words' characters finds it.

    Args:
        texts: what each class stands for, such as " " or "a".
    """

    def __init__(self, model: NGram, texts: Sequence[str]) -> None:
        self.model, self.texts = model, [apart(text) for text in texts]
        words = sorted(model.known - {END})
        self.spelling = NGram((" ".join(word) for word in words), _SPELT)
        self._unknown = model.nats((), "")  # no item is empty
        begun: dict[str, float] = defaultdict(float)  # probability of all known words that begin so
        for word in words:
            for size in range(1, min(len(word), _LONGEST) + 1):
                begun[word[:size]] += math.exp(model.nats((), word))
        self._begun = {start: math.log(probability) for start, probability in begun.items()}

    def start(self) -> _State:
        return _State((START,), "", 0.0, 0.0)

    def extend(self, state: _State, token: int) -> tuple[float, _State]:
        (context, word, spelt, ahead), nats = state, 0.0
        for char in self.texts[token]:
            if not char.isspace():
                spelt += self._letter(word, char)
                word += char
            elif word:
                nats += self._whole(context, word, spelt)
                context, word, spelt = (*context, word)[1 - self.model.order :], "", 0.0
        now = self._ahead(word, spelt)
        return nats + now - ahead, _State(context, word, spelt, now)

    def end(self, state: _State) -> float:
        context, word, spelt, ahead = state
        nats = self._whole(context, word, spelt) - ahead if word else 0.0
        return nats + self.model.nats((*context, word) if word else context, END)

    def _letter(self, word: str, char: str) -> float:
        """log p of a character behind a word's beginning, if the word is spelt; END: that it is whole."""
        before = word[1 - _SPELT :]
        return self.spelling.nats((*before,) if len(before) == _SPELT - 1 else (START, *before), char)

    def _whole(self, context: Context, word: str, spelt: float) -> float:
        """log p(word | what stands before it), however it is spelt."""
        nats = self.model.nats(context, word)
        return nats if word in self.model.known else nats + spelt + self._letter(word, END)

    def _ahead(self, word: str, spelt: float) -> float:
        """log p of all words that begin so, wherever they stand; 0 where none has begun."""
        if not word:
            return 0.0
        unknown, known = self._unknown + spelt, self._begun.get(word)
        if known is None:
            return unknown
        return max(known, unknown) + math.log1p(math.exp(-abs(known - unknown)))
