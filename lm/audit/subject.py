"""What is audited: a model, with what is known of how it came about."""

import time
import zlib
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from lm.audit.history import History, Unknown, run_of
from lm.data.corpus.shards import Corpus
from lm.errors import UserError
from lm.tasks.table import entry_of, writes_text

if TYPE_CHECKING:
    from lm.predictor import Predictor

T = TypeVar("T")


class Subject:
    """What checks look at.

    Args:
        model: what `lm.load` has opened.
        corpus: what it was trained on; None: a check that needs it can't be done.
        data_dir: where the files of checks lie.
        seed: of all that is drawn.
        history: what of the corpus was seen, where it is known otherwise than by the model's checkpoint.
        missing: why there is no corpus.
    """

    def __init__(
        self,
        model: "Predictor",
        corpus: Corpus | None = None,
        data_dir: str | Path = "data",
        seed: int = 0,
        history: History | None = None,
        missing: str = "its corpus was not given",
    ) -> None:
        self.model, self.data_dir, self.seed = model, Path(data_dir), seed
        self._corpus, self._history, self._missing = corpus, history, missing
        self._deadline: float | None = None
        self.consulted = False  # whether a check has asked what it has seen

    @property
    def source(self) -> str:
        """Where the model was read, for people."""
        return self.model.model.source

    @property
    def writes(self) -> bool:
        """Whether it is a GPT, which goes on with a text."""
        return writes_text(self.model.model.record) and self.model.config.causal and self.model.model.has_head

    @property
    def fills(self) -> bool:
        """Whether it is a BERT, which guesses what a mask hides."""
        fits = writes_text(self.model.model.record) and not self.model.config.causal
        return fits and self.model.model.has_head and self.model.tokenizer.mask_id is not None

    @property
    def command(self) -> str | None:
        """The command of a model fine-tuned on texts: classify, tag, answer, chat; None of others."""
        entry = entry_of(self.model.model.record)
        return entry.command if entry and entry.on_texts else None

    @property
    def network(self) -> Any:
        """The language model, in evaluation mode.

        Raises:
            UserError: it is none.
        """
        return self.model.writer() if self.model.config.causal else self.model.writer("fill")

    @property
    def corpus(self) -> Corpus:
        """What it was trained on.

        Raises:
            UserError: nobody said.
        """
        if self._corpus is None:
            raise UserError(f"{self._missing}: give the `corpus`")
        return self._corpus

    @property
    def corpus_identity(self) -> str | None:
        """A hash of that corpus's tokens; None where it was not given."""
        return self._corpus.identity if self._corpus else None

    @property
    def history(self) -> History:
        """What of the corpus it has seen.

        Raises:
            UserError: see `corpus`, `run_of` and `History`.
        """
        if self._history is None:
            self._history = History(run_of(self.source), self.corpus)
        self.consulted = True
        return self._history

    @cached_property
    def unknown(self) -> str | None:
        """Why it can't be known what it has seen, whatever corpus is given; None where it can."""
        try:
            _ = self._history or run_of(self.source)
        except Unknown as error:
            return str(error)
        except UserError:  # which the checks come upon
            pass
        return None

    def rng(self, name: str) -> np.random.Generator:
        """A generator for one purpose: what others draw does not change it."""
        return np.random.default_rng([self.seed, zlib.crc32(name.encode())])

    def file(self, name: str) -> Path:
        """A file that a check needs: as it is named, or in `data_dir`.

        Raises:
            UserError: it is in neither place.
        """
        places = [Path(name).expanduser(), self.data_dir / name]
        found = next((place for place in places if place.is_file()), None)
        if found is None:
            raise UserError(f"there is no {name}, neither here nor in {self.data_dir}")
        return found

    def limit(self, seconds: float | None) -> None:
        """From now on `while_time` ends after so many seconds; None: never."""
        self._deadline = None if seconds is None else time.monotonic() + seconds

    def while_time(self, items: Iterable[T]) -> Iterator[T]:
        """The items as long as there is time: of what takes long, batch after batch; at least the first."""
        for number, item in enumerate(items):
            if number and self._deadline is not None and time.monotonic() > self._deadline:
                return
            yield item
