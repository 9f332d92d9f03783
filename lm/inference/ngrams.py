"""Language models by counting: words behind the few before them, which helps CTC to choose."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from functools import lru_cache

from lm.metrics.chinese import apart

Context = tuple[str, ...]
_Behind = tuple[Counter[str], int]  # how often each item stands there, and all of them

START, END = "<s>", "</s>"  # hardly a text has them as a word
_UNKNOWN = "\0"  # no word is written so
_SPELT = 4  # characters of a word that are looked at together
_REMEMBERED = 1 << 17  # beginnings of words: some 20 MiB


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
        words = model.known - {END}
        self.spelling = NGram((" ".join(word) for word in words), _SPELT)
        self._begun: dict[str, float] = defaultdict(float)  # probability of all known words that begin so
        for word in words:
            for size in range(1, len(word) + 1):
                self._begun[word[:size]] += math.exp(model.nats((), word))
        # A beam asks of the same beginnings again and again.
        self.ahead = lru_cache(_REMEMBERED)(self._ahead)
        self._spelt = lru_cache(_REMEMBERED)(self._spell)

    def start(self) -> tuple[Context, str, float]:
        return (START,), "", 0.0

    def extend(
        self, state: tuple[Context, str, float], token: int
    ) -> tuple[float, tuple[Context, str, float]]:
        (context, word, ahead), nats = state, 0.0
        for char in self.texts[token]:
            if not char.isspace():
                word += char
            elif word:
                nats += self.whole(context, word)
                context, word = (*context, word)[1 - self.model.order :], ""
        now = self.ahead(word)
        return nats + now - ahead, (context, word, now)

    def end(self, state: tuple[Context, str, float]) -> float:
        context, word, ahead = state
        nats = self.whole(context, word) - ahead if word else 0.0
        return nats + self.model.nats((*context, word) if word else context, END)

    def whole(self, context: Context, word: str) -> float:
        """log p(word | what stands before it), however it is spelt."""
        nats = self.model.nats(context, word)
        if word in self.model.known:
            return nats
        return nats + self._spelt(word) + self.spelling.nats((START, *word)[1 - _SPELT :], END)

    def _ahead(self, word: str) -> float:
        """log p of all words that begin so, wherever they stand; 0 where none has begun."""
        if not word:
            return 0.0
        unknown = math.exp(self.model.nats((), _UNKNOWN) + self._spelt(word))
        return math.log(self._begun.get(word, 0.0) + unknown)

    def _spell(self, word: str) -> float:
        """log p of the characters of a word's beginning, if it is spelt."""
        if not word:
            return 0.0
        *before, last = START, *word
        return self._spelt(word[:-1]) + self.spelling.nats(tuple(before[1 - _SPELT :]), last)
