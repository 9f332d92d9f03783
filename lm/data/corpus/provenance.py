"""Where each document of a corpus is from, and why others are not in it.

`train-documents.jsonl.gz` has a line for each document of a split, in their order; `removed.jsonl.zst` one
for each that a recipe's steps have left out.
"""

import gzip
import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from lm.data.corpus.files import open_binary
from lm.data.corpus.shards import SPLITS
from lm.errors import UserError
from lm.files import synced

REMOVED = "removed.jsonl.zst"


def _path(folder: Path, split: str) -> Path:
    return folder / f"{split}-documents.jsonl.gz"


class OriginWriter:
    """Writes the lines of a corpus's splits."""

    def __init__(self, folder: Path) -> None:
        self._open = ExitStack()
        self._files = {
            # Without a time and a name in it, equal corpora have equal files.
            split: self._open.enter_context(
                gzip.GzipFile("", "wb", 1, self._open.enter_context(synced(_path(folder, split))), mtime=0)
            )
            for split in SPLITS
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def add(self, split: str, origin: dict[str, str]) -> None:
        """The next document's: id, source, licence (where there is one), sha256 of its text."""
        row = {key: value for key, value in origin.items() if value}
        self._files[split].write(json.dumps(row, ensure_ascii=False).encode() + b"\n")


def origins(folder: Path, split: str) -> Iterator[dict[str, Any]]:
    """What was written of each document of a split.

    Raises:
        UserError: the corpus was prepared before this was kept.
    """
    path = _path(folder, split)
    if not path.exists():
        raise UserError(f"{folder} does not tell where its documents are from: prepare it again")
    with gzip.open(path, "rb") as file:
        for line in file:
            yield json.loads(line)


def find(folder: Path, document: str) -> tuple[str, int]:
    """The split that a document is in, by its id, and its number there.

    Raises:
        UserError: there is none of the name.
    """
    for split in SPLITS:
        for number, origin in enumerate(origins(folder, split)):
            if origin["id"] == document:
                return split, number
    raise UserError(f"{folder} knows no document {document}: `lm data show {folder}` prints ids")


def removed(folder: Path) -> Iterator[dict[str, Any]]:
    """What was written of each document that was left out: id, source, step, reason, the id of the one that
    stands for it (`kept`), and how the text begins. None where no recipe made the corpus."""
    path = folder / REMOVED
    if path.exists():
        with open_binary(path) as file:
            for line in file:
                yield json.loads(line)
