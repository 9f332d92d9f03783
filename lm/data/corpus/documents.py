"""What a corpus is made of and how: documents, their sources, and the steps that they go through.

A source reads files into texts. A step looks at one document: it changes it, or says why it is left out. A
reduction looks at all of them, as duplicates can only be found so: it notes something of each document and,
when all are noted, says which ones go, or which passages of them. A corpus is a list of sources and a list of
steps; any class of one's own takes part by its `class_path`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from lm.data.corpus.files import files_at, plain_suffix
from lm.errors import UserError

Warn = Callable[[str], object]


@dataclass
class Document:
    """A text that stands by itself, valid Unicode and never empty.

    Args:
        text: as it is by now.
        id: `source/file#number`, unique in a corpus.
        source: the name of the source it comes from.
        licence: of the source; empty where none was said.
        meta: what the source or a step says of it beside: title, url, language; plain JSON values.
    """

    text: str
    id: str = ""
    source: str = ""
    licence: str = ""
    meta: dict[str, Any] = field(default_factory=dict)

    @property
    def language(self) -> str:
        """ISO 639-1 code; empty where nobody has looked yet."""
        return self.meta.get("language", "")


class Source(ABC):
    """Files that hold documents.

    Args:
        path: a file, a folder, a glob, or a list of these.
        name: of the source in reports and in ids; by default that of the (first) path.
        licence: of its texts, kept with each document.
    """

    quick: ClassVar[bool] = False  # to read, beside what is done to the documents: several may read one file
    suffixes: ClassVar[frozenset[str]] = frozenset()  # that are looked for in a folder, without compression's

    def __init__(self, path: str | list[str], name: str = "", licence: str = "") -> None:
        self.paths = [path] if isinstance(path, str) else list(path)
        if not self.paths:
            raise UserError(f"the source {name or type(self).__name__} names no file", status=2)
        self.name = name or Path(self.paths[0]).expanduser().resolve().name.split(".")[0]
        self.licence = licence

    def files(self) -> list[Path]:
        """The files, in the order of reading; each is read by itself, by whatever process.

        Raises:
            UserError: an entry names nothing.
        """
        found = []
        for entry in self.paths:
            path = Path(entry).expanduser()
            files = files_at(path)
            if path.is_dir():
                shown = (file for file in files if "/." not in f"/{file.relative_to(path).as_posix()}")
                files = [file for file in shown if plain_suffix(file) in self.suffixes]
            if not files:
                what = "nothing to read in" if path.is_dir() else "no such file or folder:"
                raise UserError(f"{what} {entry} (source {self.name})")
            found += files
        return found

    @abstractmethod
    def read(self, path: Path, warn: Warn) -> Iterator[tuple[str, dict[str, Any]]]:
        """The texts of a file, each with what it says of them (title, url); a few in memory at a time.

        Args:
            warn: is told of what was passed over within the file.

        Raises:
            UserError: the file can't be read (any further); what came before it counts.
        """


class AnyStep:
    """What a recipe's `steps` are made of: a `Step`, a `Reduction` or a `PassageReduction`."""

    def title(self) -> str:
        """What the report calls it."""
        return type(self).__name__

    def reads(self) -> list[Path]:
        """Files that it goes by: where one of them changes, it is another corpus."""
        return []

    def names(self) -> list[str]:
        """Sources that it speaks of: a recipe has to have them."""
        return []


class Step(AnyStep, ABC):
    """Something that is done to each document by itself."""

    @abstractmethod
    def __call__(self, document: Document) -> str | None:
        """Change the document where it lies. Return None, or the reason why it is left out: a few words that
        are the same for all documents of the kind, to be counted by (`too few words`)."""

    def counts(self) -> dict[str, int]:
        """What else is to be counted in the report: how many of what were replaced, say."""
        return {}


class Reduction(AnyStep, ABC):
    """Something that can only be decided when all documents were seen."""

    @abstractmethod
    def note(self, document: Document) -> np.ndarray:
        """What has to be remembered of a document: an array of the same dtype and shape for all."""

    @abstractmethod
    def decide(self, notes: np.ndarray) -> Sequence[tuple[int, str, int]]:
        """Which documents are left out.

        Args:
            notes: of all documents in their order (N, ...), mapped from a file: what is done to a part of
                them at a time needs no more memory than the part.

        Returns:
            (number of the document, reason as of a step, number of the document that stands for it or -1).
        """


class PassageReduction(AnyStep, ABC):
    """The same for passages: what is cut out of documents can only be decided when all were seen."""

    @abstractmethod
    def note(self, document: Document) -> np.ndarray:
        """What has to be remembered of a document: as many numbers as it needs (K,)."""

    @abstractmethod
    def decide(self, notes: np.ndarray) -> np.ndarray:
        """Which notes are of passages that go.

        Args:
            notes: of all documents, one after the other (F,), mapped from a file.

        Returns:
            (F,) bool.
        """

    @abstractmethod
    def cut(self, document: Document, gone: np.ndarray) -> str | None:
        """Change the document by its part of the decision (K,). Returns what a step does."""
