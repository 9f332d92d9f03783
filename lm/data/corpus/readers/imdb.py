"""Film reviews of the Large Movie Review Dataset, from its folder or the archive as it comes."""

import re
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from lm.data.corpus.documents import Source, Warn
from lm.data.corpus.files import open_binary, plain_suffix
from lm.data.corpus.readers.opening import decoded
from lm.errors import UserError

_ARCHIVES = {".tar", ".tgz", ".tbz2", ".txz"}
_REVIEW = re.compile(r"\d+_(\d+)\.txt")  # number_rating
_BREAK = re.compile(r"<br\s*/?>")
_LABELS = ("pos", "neg", "unsup")


class Imdb(Source):
    """aclImdb (Maas et al. 2011): a file is a review, in `pos`, `neg` or `unsup` of `train`, `test` or other
    parts. Its part goes into meta, and outside `unsup` the label and the rating, 1 to 10.

    Args:
        path: the folder, the archive (.tar, also compressed), or a list of these.
        name: of the source; by default that of the path.
        licence: of its texts.
        parts: those that are read, such as [train] or [train/unsup, train/pos]; by default all.
    """

    quick = True

    suffixes = frozenset({".txt", *_ARCHIVES})

    def __init__(
        self, path: str | list[str], name: str = "", licence: str = "", parts: list[str] | None = None
    ) -> None:
        super().__init__(path, name, licence)
        self._parts = None if parts is None else tuple(f"{part.strip('/')}/" for part in parts)

    def files(self) -> list[Path]:
        """The archives, or the reviews of the parts asked for."""
        found = super().files()
        wanted = [path for path in found if plain_suffix(path) in _ARCHIVES or self._meta(path.as_posix())]
        if not wanted:
            what = "review" if self._parts is None else f"review of {', '.join(self._parts)}"
            raise UserError(f"no {what} in {', '.join(self.paths)}: its files are called train/pos/0_9.txt")
        return wanted

    def read(self, path: Path, warn: Warn) -> Iterator[tuple[str, dict[str, Any]]]:
        reviews = self._members(path) if plain_suffix(path) in _ARCHIVES else self._single(path)
        for place, data, meta in reviews:
            text = _BREAK.sub("\n", decoded(self, place, data, warn))
            if text and not text.isspace():
                yield text, meta

    def _single(self, path: Path) -> Iterator[tuple[Path, bytes, dict[str, Any]]]:
        with open_binary(path) as file:
            yield path, file.read(), self._meta(path.as_posix()) or {}

    def _members(self, path: Path) -> Iterator[tuple[Path, bytes, dict[str, Any]]]:
        # As a stream, so that nothing is unpacked to disk and nothing is read twice.
        try:
            with open_binary(path) as file, tarfile.open(fileobj=file, mode="r|*") as archive:
                for member in archive:
                    meta = self._meta(member.name)
                    content = archive.extractfile(member) if meta and member.isfile() else None
                    if meta and content:
                        yield path / member.name, content.read(), meta
        except tarfile.TarError as error:
            raise UserError(f"{path} is cut short, damaged or no archive ({error}): get it again") from error

    def _meta(self, name: str) -> dict[str, Any] | None:
        """What a file's name says; None where it is no review or none of the parts asked for."""
        *_, part, label, file = ("", "", *PurePosixPath(name).parts)
        review = _REVIEW.fullmatch(file)
        if not review or label not in _LABELS:
            return None
        if self._parts is not None and not f"{part}/{label}/".startswith(self._parts):
            return None
        return {"part": part} | ({} if label == "unsup" else {"label": label, "rating": int(review[1])})
