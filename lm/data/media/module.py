"""What datamodules of pictures and of sounds share: which files are meant, what is known of each, and batches
that are drawn anew each time."""

import hashlib
import re
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice, repeat
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from lm.data.examples.files import Known, Skipped
from lm.data.examples.module import ExampleData
from lm.data.examples.records import Example
from lm.data.examples.tables import Row, having, is_table, no_column, read_rows, value
from lm.data.examples.texts import Labels
from lm.data.media.places import Place, places
from lm.errors import SetupError, UserError, some
from lm.processors import Processor

_AT_ONCE = 256  # files that are looked at side by side


def digest_of(data: bytes) -> str:
    """A hash of some bytes, in hexadecimal digits."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


@dataclass(frozen=True)
class MediaExample(Example):
    """A picture or a sound, by where it lies.

    Args:
        place: where.
        digest: hash of its bytes: by it, it is the same as another or not.
    """

    place: Place
    digest: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "place", Place(*self.place))  # JSON gives a list

    @property
    def content(self) -> tuple[str, ...]:
        return (self.digest,)


@dataclass(frozen=True)
class LabelledMedia(MediaExample):
    """One with what it is of.

    Args:
        label: a label's name; a tuple of names where several may hold; a number where it is a rating; None
            where it is not known, as in files to predict.
        group: who or what it is from, such as a speaker; None where each stands for itself.
    """

    label: str | tuple[str, ...] | float | None = None
    group: str | None = None

    @property
    def labelled(self) -> bool:
        return self.label is not None

    def known(self, several: bool = False) -> "LabelledMedia":
        """With a tuple of labels: where one example of a file has a list, a name is a list of one."""
        if not several or self.label is None or isinstance(self.label, tuple):
            return self
        return replace(self, label=(str(self.label),))


class MediaData(ExampleData):
    """Pictures or sounds: folders by class, or a table that names files. Nothing but their places is kept: a
    file is opened when it is in a batch, by the processes that read ahead.

    Args:
        train, val, test: a folder with a folder for each class, also in an archive, as `cifar10.tar!train`;
            or a table (CSV, TSV, JSON Lines) with a column of file names; and see `ExampleData`.
        files: folder or archive in which a table's names are looked for; null for the table's own folder.
        path: the table's column with the files' names; or what they are made of, as `{id}.ogg` of a column.
        label: its column with the label; a list means several. Null: labels are not needed.
        columns: the columns' names where a CSV or TSV file has no header.
        separator: what stands between several labels of a text in that column.
        rating: the labels are numbers to be predicted.
        label_names: other names for the labels, by those in the files.
        label_from: instead of folders or a column, a regular expression: its first group in a file's name
            (with its folders) is the label.
        group: the table's column with who or what a file is from; or `group_from` as `label_from`. One group
            never falls into two parts.
        test_groups: these groups of `train` are the test part, and not learned from.
        part: the table's column that says which part a row is of, `train`, `val` or `test`: so one table may
            be given for several of them. Rows of others are counted and left out.
        augment: random changes of what is learned from, in this order.
    """

    endings: ClassVar[frozenset[str]]  # of the files' names
    record = LabelledMedia
    draws = True

    def __init__(
        self,
        train: str,
        val: str | None = None,
        test: str | None = None,
        files: str | None = None,
        path: str = "path",
        label: str | None = "label",
        columns: list[str] | None = None,
        separator: str | None = None,
        rating: bool = False,
        label_names: dict[str, str] | None = None,
        label_from: str | None = None,
        group: str | None = None,
        group_from: str | None = None,
        test_groups: list[str] | None = None,
        part: str | None = None,
        augment: Sequence[Callable] = (),
        **kwargs: Any,
    ) -> None:
        if test_groups and test is None:
            test = train
        super().__init__(train, val, test, **kwargs)
        self.media, self.path, self.label, self.columns = files, path, label, columns
        self.separator, self.rating, self.label_names = separator, rating, label_names
        self.label_from, self.group_column, self.group_from = label_from, group, group_from
        self.test_groups = frozenset(map(str, test_groups or ()))
        self.part, self.augment = part, tuple(augment)
        if test_groups and group is None and group_from is None:
            raise UserError("`test_groups` are given, but neither `group` nor `group_from`", status=2)
        for name, pattern in (("label_from", label_from), ("group_from", group_from)):
            if pattern is not None and re.compile(pattern).groups < 1:
                raise UserError(f"`{name}` {pattern!r} has no group in parentheses", status=2)

    @abstractmethod
    def look(self, data: bytes, where: str) -> dict[str, Any]:
        """Open a file once, and see that it can be used: further fields of its example.

        Raises:
            UserError: it can't be.
        """

    @abstractmethod
    def make_processor(self, start: Processor | None = None) -> Processor:
        """What turns the files into numbers.

        Args:
            start: that of the model that a run starts from; None: it begins from nothing.
        """

    def shape(self) -> dict[str, int]:
        return {"vocab_size": 1, "max_seq_len": 1}  # how many positions there are the task knows

    def group(self, example: Any) -> str | None:
        return example.group

    def files(self, path: str) -> list[Path]:
        found = super().files(path)
        return [*found, *super().files(self.located(self.media))] if self.media and is_table(path) else found

    # From files to examples.

    def read(self, path: str, split: str) -> Iterator[MediaExample | Skipped | Known]:
        several = False
        first: dict[str, str] = {}  # the first file of each reason
        self._parts: Counter[str] = Counter()
        self._groups: set[str | None] = set()
        with ThreadPoolExecutor() as threads:
            rows = self.listed(path, split)
            while chunk := list(islice(rows, _AT_ONCE)):
                for found in threads.map(self._looked_at, chunk):
                    if isinstance(found, tuple):
                        reason, where = found
                        yield Skipped(f"{reason} (such as {first.setdefault(reason, where)})")
                        continue
                    several |= isinstance(found, LabelledMedia) and isinstance(found.label, tuple)
                    yield found
        if unknown := self.test_groups - self._groups if self._by_groups(split) else ():
            there = some(sorted(map(str, self._groups)), 10)
            raise UserError(f"`test_groups`: {path} has no {some(sorted(unknown))}, but {there}", status=2)
        if self._parts.total():
            found = some((f"{part!r} ({count:,})" for part, count in self._parts.most_common() if count), 5)
            reason = f"rows whose `{self.part}` is not train, val or test but {found}"
            yield from repeat(Skipped(reason), self._parts.total())
        yield Known(several=several) if issubclass(self.record, LabelledMedia) else Known()

    def listed(self, path: str, split: str) -> Iterator[tuple[Place | str, dict[str, Any]]]:
        """The files of a part, in their order, with the fields of their examples; of one that is not there,
        the name."""
        if not is_table(path):
            for place in places(path, self._wanted, self._plain):
                fields = self._of_name(place)
                if self._in_part(fields, split):
                    yield place, fields
            return
        home = self.located(self.media) if self.media else str(Path(path).expanduser().parent)
        there = {place.name: place for place in places(home, self._wanted, self._plain)}
        label = None if self.predicting or self.label_from else self.label
        for where, row in having(read_rows(path, self.columns), label):
            if self.part is not None and (part := str(value(row, self.part, where))) != split:
                self._parts[part] += part not in self.paths
                continue
            name = self._file(row, where)
            place = there.get(name) or self._alone(Path(home), name)
            fields = self._of_row(row, where, name)
            if self._in_part(fields, split):
                yield place or str(Path(home) / name), fields

    @property
    def _plain(self) -> Path:
        return Path(self.data_dir) / "examples"

    def _wanted(self, name: str) -> bool:
        return Path(name).suffix.lower() in self.endings

    def _file(self, row: Row, where: str) -> str:
        """The name of a row's file."""
        try:
            name = self.path.format_map(row) if "{" in self.path else value(row, self.path, where)
        except KeyError as error:
            raise UserError(no_column(row, str(error.args[0]), where)) from error
        return str(name).removeprefix("./")

    def _alone(self, home: Path, name: str) -> Place | None:
        """A file with an unusual ending, or by its whole path."""
        file = home / name
        return Place(str(file), name) if home.is_dir() and file.is_file() else None

    def _of_name(self, place: Place) -> dict[str, Any]:
        folder, _, _ = place.name.rpartition("/")
        label = self._found(self.label_from, place) if self.label_from else folder.rpartition("/")[2] or None
        return {"label": self._labels(label, place.where), "group": self._found(self.group_from, place)}

    def _found(self, pattern: str | None, place: Place) -> str | None:
        if pattern is None:
            return None
        found = re.search(pattern, place.name)
        if found is None:
            raise UserError(f"{pattern!r} is nowhere in the name {place.name}")
        return found[1]

    def _of_row(self, row: dict[str, Any], where: str, name: str) -> dict[str, Any]:
        fields = self._of_name(Place(where, name)) if self.label_from or self.group_from else {}
        if self.label is not None and not self.label_from:
            fields["label"] = self._labels(row.get(self.label), where)
        if self.group_column is not None:
            fields["group"] = str(value(row, self.group_column, where))
        return fields

    def _labels(self, found: object, where: str) -> str | tuple[str, ...] | float | None:
        names = {str(key): str(name) for key, name in (self.label_names or {}).items()}
        return Labels(self.separator, self.rating, names)(found, where)

    def _in_part(self, fields: dict[str, Any], split: str) -> bool:
        """Whether an example is of a part, where that goes by groups."""
        self._groups.add(fields.get("group"))
        return not self._by_groups(split) or (fields.get("group") in self.test_groups) == (split == "test")

    def _by_groups(self, split: str) -> bool:
        return bool(self.test_groups) and self.paths["train"] == self.paths[split]

    def _looked_at(self, row: tuple[Place | str, dict[str, Any]]) -> MediaExample | tuple[str, str]:
        """The example of a file; or why there is none, and where."""
        place, fields = row
        if isinstance(place, str):
            return "there is no such file", place
        try:
            data = place.read()
            more = self.look(data, place.where)
        except SetupError:
            raise
        except UserError as error:
            reason = str(error).replace(f" {place.where}", "").removeprefix(place.where)
            return reason.lstrip(": "), place.where
        if self.label is not None and not self.predicting and fields.get("label", "") is None:
            return "no label", place.where
        return self.record(place, digest_of(data), **fields, **more)

    def hold_out(self, hashes: np.ndarray) -> np.ndarray:
        """Of few groups, such as three speakers, one at least."""
        held = super().hold_out(hashes)
        return held if held.any() else (hashes == hashes.min()) & (hashes != hashes.max())

    # From examples to batches.

    def training_collate(self) -> Any:
        return replace(self._task.collate, augment=self.augment)
