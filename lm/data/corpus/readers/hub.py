"""Data sets of the Hugging Face Hub, or of a folder in one of the formats that it knows."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lm.data.corpus.documents import Warn
from lm.data.corpus.readers.rows import Rows
from lm.errors import SetupError, UserError, not_installed


class Hub(Rows):
    """A data set by its name on the Hub, such as `HuggingFaceFW/fineweb-edu`, as a stream; or a folder of
    Parquet, JSON Lines or CSV, which needs no network. Code that comes with a data set is not run.

    Args:
        path: the name or the folder.
        name: of the source; by default the last part of the path.
        licence: of its texts.
        text_field: the column that holds the text, or several.
        split: as the data set calls it.
        subset: as the data set calls it, where it has some (its "configuration").
    """

    def __init__(
        self,
        path: str,
        name: str = "",
        licence: str = "",
        text_field: str | list[str] = "text",
        split: str = "train",
        subset: str | None = None,
    ) -> None:
        super().__init__(path, name, licence, text_field)
        self._split = split
        self._subset = subset

    def files(self) -> list[Path]:
        """One that stands for all: which ones there are only `datasets` knows."""
        return [Path(self.paths[0])]

    def rows(self, path: Path, warn: Warn) -> Iterator[tuple[str, Any]]:
        entry = self.paths[0]
        folder = Path(entry).expanduser()
        try:
            import datasets
        except ImportError as error:
            raise not_installed(f"reading {entry}", "datasets", "corpus") from error
        where = str(folder) if folder.exists() else entry
        try:
            rows = datasets.load_dataset(where, self._subset, split=self._split, streaming=True)
            for number, row in enumerate(rows, start=1):
                yield f"{entry}, {self._split}, row {number}", row
        except UserError:
            raise
        # Of a network, a server and a dozen formats: each library beneath raises its own.
        except Exception as error:
            reason = f"{type(error).__name__}: {error}".partition("\n")[0]
            what = "is the folder one of Parquet or JSON Lines?" if folder.exists() else "is there a network?"
            raise SetupError(
                f"cannot read the data set {entry}, split {self._split} ({reason}): {what}"
            ) from error
