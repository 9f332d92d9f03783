"""Continuous batching: requests join and leave between tokens, and one thread owns the model."""

import time
from collections import deque
from dataclasses import replace
from pathlib import Path
from threading import Condition, Thread

import torch

from lm.errors import UserError
from lm.predictor import Predictor
from lm.serving.batch import Batch
from lm.serving.prefixes import Prefixes
from lm.serving.requests import Closed, Constraint, Full, Piece, Request, Running, Stats, TokenInfo
from lm.serving.row import Row

__all__ = ["Closed", "Constraint", "Engine", "Full", "Piece", "Request", "Running", "Stats", "TokenInfo"]
_PREFIX_BYTES = 1 << 28
_NEVER = float("inf")


class Engine:
    """Writes for many at once.

    Args:
        model: one that writes from left to right.
        slots: texts that are read and written at once.
        queue: requests that may wait beside them.
        prefill: tokens of prompts that are read between two tokens of the others.
        prefix_cache_bytes: of keys and values of prompts' beginnings that are kept; 0 for none.

    Attributes:
        context: positions that a prompt and its answer may have together.
        name: of the model.

    Raises:
        UserError: the model does something else.
    """

    def __init__(
        self,
        model: Predictor,
        slots: int = 16,
        queue: int = 64,
        prefill: int = 256,
        prefix_cache_bytes: int = _PREFIX_BYTES,
    ) -> None:
        network, self.tokenizer = model.writer(), model.tokenizer
        source = Path(model.model.source)
        self.name = source.parent.name if source.suffix == ".ckpt" else source.name
        self.context, self.tokens = network.config.max_seq_len, network.config.vocab_size
        self.vocab_size = min(self.tokenizer.vocab_size, self.tokens)
        self.device = network.head.weight.device
        self._most = slots + queue
        self._prefixes, self._stats = Prefixes(prefix_cache_bytes), Stats(slots=slots)
        self._news = Condition()  # about these four
        self._waiting: deque[Row] = deque()
        self._open = 0  # requests that have not ended
        self._closing = _NEVER  # the time by which all have to have ended
        self._thread: Thread | None = None
        self._batch = Batch(  # the worker's
            network, self.vocab_size, slots, prefill, self._prefixes, self._ended, self._stats
        )

    def start(self) -> None:
        """Begin to work."""
        with self._news:
            if self._thread is None:
                self._thread = Thread(target=self._work, name=f"lm-engine-{self.name}", daemon=True)
                self._thread.start()

    def stop(self, grace: float = 0) -> None:
        """Take no more requests, let those that are there end within so many seconds, and cancel the rest."""
        with self._news:
            self._closing = min(self._closing, time.monotonic() + grace)
            self._news.notify_all()
        self.start()  # one that never ran ends what waits
        assert self._thread is not None
        self._thread.join()

    def submit(self, request: Request) -> Running:
        """Have something written.

        Raises:
            UserError: it can't be what is asked for.
            Full: too many wait.
            Closed: the engine is stopping.
        """
        self._check(request)
        running = Running(request)
        row = Row(running, self.tokenizer, self.vocab_size, self.device)
        with self._news:
            if self._closing < _NEVER:
                raise Closed("the engine is stopping")
            if self._open >= self._most:
                raise Full(f"{self._open} requests are running and waiting")
            self._open += 1
            self._waiting.append(row)
            self._news.notify_all()
        return running

    def _check(self, request: Request) -> None:
        total, known = len(request.ids) + request.max_tokens, range(self.vocab_size)
        for wrong, words in (
            (not request.ids, "the prompt is empty"),
            (any(not 0 <= id < self.tokens for id in request.ids), "the prompt has tokens that are none"),
            (any(id not in known for id in request.logit_bias), "`logit_bias` names tokens that are none"),
            (request.max_tokens < 1, "`max_tokens`: it must be at least 1"),
            (total > self.context, f"prompt and answer: {total} tokens, but the model sees {self.context}"),
            (request.logprobs is not None and request.logprobs < 0, "`logprobs`: it must be 0 or more"),
        ):
            if wrong:
                raise UserError(words, status=2)

    def stats(self) -> Stats:
        """What has been done and is being done."""
        with self._news:
            waiting, size = len(self._waiting), self._prefixes.bytes
            finished = dict(self._stats.finished)
            now = {"running": self._open - waiting, "waiting": waiting, "prefix_bytes": size}
            return replace(self._stats, finished=finished, **now)

    @torch.inference_mode()
    def _work(self) -> None:
        """What the worker does until the engine is stopped."""
        while True:
            with self._news:
                while not self._open and self._closing == _NEVER:
                    self._news.wait()
                if not self._open:
                    return
            begun = time.perf_counter()
            try:
                self._round()
            except Exception as error:  # nothing that is known; but nobody is to wait for ever
                self._batch.fail(error)
                self._batch.tell()
            self._stats.seconds += time.perf_counter() - begun

    def _round(self) -> None:
        """Some end, some join, all go on."""
        now = time.monotonic()
        late = "cancelled" if now >= self._closing else None
        self._batch.drop(lambda row: late or row.overdue(now))
        with self._news:
            for row in [each for each in self._waiting if late or each.overdue(now)]:
                self._batch.end(row, late or row.overdue(now) or "cancelled")
                self._waiting.remove(row)
            while self._waiting and self._batch.free:
                self._batch.reading.append(self._waiting.popleft())
        self._batch.round()

    def _ended(self, finish: str) -> None:
        """A request has got its last piece."""
        with self._news:
            self._open -= 1
            self._stats.finished[finish] = self._stats.finished.get(finish, 0) + 1
