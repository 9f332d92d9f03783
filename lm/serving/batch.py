"""The texts that are read and written side by side: one round after the other, in one thread.

A round: prompts are read in pieces of at most `prefill` tokens, then each text that has been read gets one
token. What a text gets does not depend on the others, but for rounding.
"""

import logging
import os
import time
from collections import deque
from collections.abc import Callable, Sequence

from torch import Tensor

from lm.backbone import KVCache, LanguageModel
from lm.serving.choosing import choose, log_probabilities
from lm.serving.prefixes import BLOCK, Prefixes
from lm.serving.requests import Running, Stats, Stuck, TokenInfo, wake
from lm.serving.row import Row
from lm.serving.slots import Slots

PATIENCE = 0.1  # seconds after which no further prompt is begun while others write
_log = logging.getLogger("lm.serving")


class Batch:
    """Texts side by side.

    Args:
        vocab_size: tokens that can be chosen.
        slots: texts at once.
        prefill: tokens of prompts that are read in a round.
        prefixes: the cache of prompts' beginnings.
        ended: is told how a text has ended.
        stats: counted in here.
    """

    def __init__(
        self,
        model: LanguageModel,
        vocab_size: int,
        slots: int,
        prefill: int,
        prefixes: Prefixes,
        ended: Callable[[str], object],
        stats: Stats,
    ) -> None:
        self.model, self.vocab_size, self.most, self.prefill = model, vocab_size, slots, prefill
        self.prefixes, self.ended, self.stats = prefixes, ended, stats
        self.slots = Slots(model, slots)
        self.reading: deque[Row] = deque()
        self.writing: list[Row] = []  # in the order of the slots
        self.news: list[tuple[Running, bool]] = []  # who has got a piece, and whether it was the last

    @property
    def free(self) -> int:
        """Texts that may join."""
        return self.most - len(self.reading) - len(self.writing)

    def drop(self, overdue: Callable[[Row], str | None]) -> None:
        """End the texts that are overdue, for the reason that is said."""
        for row in [*self.reading]:
            if reason := overdue(row):
                self.end(row, reason)
                self.reading.remove(row)
        for place in reversed(range(len(self.writing))):
            if reason := overdue(self.writing[place]):
                self.end(self.writing[place], reason)
                self._leave(place)

    def round(self) -> None:
        """Read some of the prompts, write a token of each text."""
        self._read()
        self._write()
        self.tell()

    def tell(self) -> None:
        """Wake those who wait for what there is."""
        news, self.news = self.news, []
        wake(news)

    def end(self, row: Row, finish: str) -> None:
        """A text ends before its time, unless it has ended."""
        if row.finish is None:
            row.end(finish)
            self.news.append((row.running, True))
            self.ended(finish)

    def fail(self, error: Exception, rows: Sequence[Row] | None = None) -> None:
        """These texts end here, and the others go on; None: all end. What anybody asked for is not logged: an
        error may quote it."""
        shown = error if os.environ.get("LM_DEBUG") else None
        kind = type(error).__name__
        gone = [*self.reading, *self.writing] if rows is None else rows
        _log.error("%d requests ended by %s (LM_DEBUG=1 shows more)", len(gone), kind, exc_info=shown)
        if rows is None:
            self.reading.clear()
            self.writing.clear()
            self.slots.clear()
        for row in gone:
            self.end(row, "error")

    def _read(self) -> None:
        """Pieces of prompts, the oldest first: at most `prefill` tokens, and not for long where others write.
        A prompt's own pieces are the same whoever else is there."""
        left, until = self.prefill, time.perf_counter() + PATIENCE
        while self.reading:
            row = self.reading[0]
            try:
                row.cache = row.cache or self._begin(row)
                count = min(self.prefill, len(row.request.ids) - row.cache.length)
                if count > left or (left < self.prefill and self.writing and time.perf_counter() > until):
                    return
                left -= count
                logits = self._piece(row, row.cache, count)
                if logits is not None:
                    self.prefixes.keep(row.request.ids, row.cache.entries[:, :, 0])
                    self._advance([row], logits)
                    if row.finish is None:
                        self.slots.join(row.cache, len(row.request.ids) + row.request.max_tokens)
                        self.writing.append(row)
            except Exception as error:
                logits = None
                self.fail(error, [row])
            if row.finish or logits is not None:
                row.cache = None
                self.reading.popleft()
                self.tell()

    def _begin(self, row: Row) -> KVCache:
        """A cache for a prompt, with the beginning that is known."""
        cache = self.slots.cache(len(row.request.ids))
        if not row.request.echo:  # which asks what the model says all along
            for block in self.prefixes.find(row.request.ids):
                cache.entries[:, :, 0, :, cache.length : cache.length + BLOCK] = block
                cache.length += BLOCK
        row.running.prefix_tokens = cache.length
        self.stats.prefix_tokens += cache.length
        return cache

    def _piece(self, row: Row, cache: KVCache, count: int) -> Tensor | None:
        """Read the next tokens of a prompt: logits (1, V) behind its last one, once that has come."""
        begin, ids = cache.length, row.request.ids
        whole, echo = begin + count == len(ids), row.request.echo
        logits = self.slots.read(ids[begin : begin + count], cache, last=count if echo else 1)
        self.stats.prompt_tokens += count
        if echo:
            row.hear(begin, logits)
        return logits[-1:] if whole else None

    def _write(self) -> None:
        """One more token of each text."""
        if not self.writing:
            return
        try:
            logits = self.slots([row.last for row in self.writing])
        except Exception as error:
            gone, self.writing = self.writing, []
            self.slots.clear()
            self.fail(error, gone)
            return
        self.stats.steps += 1
        self._advance(self.writing, logits)
        for place in reversed(range(len(self.writing))):
            if self.writing[place].finish:
                self._leave(place)

    def _advance(self, rows: Sequence[Row], logits: Tensor) -> None:
        """Choose the next token of each text, of logits (n, V)."""
        chosen = choose(logits[:, : self.vocab_size], [row.chooser for row in rows])
        asked = [place for place, row in enumerate(rows) if row.request.logprobs is not None]
        said = {}
        if asked:
            top = max(rows[place].request.logprobs or 0 for place in asked)
            ids = [0 if isinstance(id := chosen[place], Exception) else id for place in asked]
            said = dict(zip(asked, log_probabilities(logits[asked], ids, top, self.vocab_size), strict=True))
        for place, (row, id) in enumerate(zip(rows, chosen, strict=True)):
            try:
                if isinstance(id, Exception):
                    raise id
                logprob, likeliest = said.get(place, (0.0, ()))
                row.take(TokenInfo(id, "", logprob, likeliest[: row.request.logprobs]))
            except Stuck:
                self.end(row, "stuck")
                continue
            except Exception as error:
                self.fail(error, [row])
                continue
            self.stats.written_tokens += 1
            self.news.append((row.running, row.finish is not None))
            if row.finish:
                self.ended(row.finish)

    def _leave(self, place: int) -> None:
        """A text gives its slot back, which the last one takes. What it was is kept for a prompt that begins
        so, unless it may be no numbers."""
        row, last = self.writing[place], self.writing.pop()
        if row is not last:
            self.writing[place] = last
        broken = row.finish == "error"
        if not broken:
            ids = [*row.request.ids, *row.chooser.written][: self.slots.lengths[place]]
            self.prefixes.keep(ids, self.slots.kept(place))
        self.slots.leave(place, broken)
