"""A first look at the documents: how much there is, and which part is held out for validation."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from lm.data.corpus.sources import Source, Warnings, documents
from lm.data.corpus.stage import Stage
from lm.errors import UserError

_FEW = 20  # with fewer documents than this, the held-out part is the end of the text
_HASHES = 1 << 64


@dataclass
class Survey:
    """What a first pass over the documents finds out, and from it, which parts of them are held out.

    Attributes:
        sources, text_field: where the documents are.
        documents, characters, bytes: how much there is of them (bytes of UTF-8).
        threshold: documents whose hash is below it are held out.
        cut: with few documents instead: the character of the joined text where the held-out part begins.
        records: name, files, bytes on disk and documents of each source, for the manifest.
    """

    sources: list[Source]
    text_field: str
    documents: int = 0
    characters: int = 0
    bytes: int = 0
    threshold: int = 0
    cut: int | None = None
    records: list[dict] = field(default_factory=list)

    @classmethod
    def take(cls, sources: list[Source], text_field: str, val_fraction: float | None) -> "Survey":
        """Reads every document once, and says so on stderr.

        Args:
            sources: from `lm.data.corpus.sources.resolve`.
            text_field: the field or column that holds the text.
            val_fraction: the share to hold out, of documents or, with few of them, of the text; None for the
                usual.

        Raises:
            UserError: there is no text, or nothing that could be held out.
        """
        survey = cls(sources, text_field)
        warn = Warnings()
        progress = Stage("reading")
        least, greatest = _HASHES, -1
        for source in sources:
            before = survey.documents
            for document in documents([source], text_field, warn):
                data = document.text.encode()
                least, greatest = min(least, _hash(data)), max(greatest, _hash(data))
                survey.documents += 1
                survey.characters += len(document.text)
                survey.bytes += len(data)
                progress.advance(len(data))
            size = sum(path.stat().st_size for path in source.files)
            record = {"name": source.name, "files": len(source.files), "bytes_on_disk": size}
            survey.records.append(record | {"documents": survey.documents - before})
        warn.finish()
        progress.finish(f"documents: {survey.documents:,}")
        survey._divide(val_fraction, least, greatest)
        return survey

    def _divide(self, val_fraction: float | None, least: int, greatest: int) -> None:
        if self.characters < 2:
            raise UserError("the corpus has no text to learn from: give `corpus` other files")
        if self.documents < _FEW:
            kept = 0.9 if val_fraction is None else 1 - val_fraction
            self.cut = min(max(int(kept * self.characters), 1), self.characters - 1)
        elif least == greatest:
            raise UserError(f"all {self.documents} documents are the same text: nothing can be held out")
        else:
            # By chance every document or none may be below the threshold: then one goes to the other side.
            fraction = 0.05 if val_fraction is None else val_fraction
            self.threshold = min(max(int(fraction * _HASHES), least + 1), greatest)

    def parts(self) -> Iterator[tuple[str, str]]:
        """Every document, as ("train" or "val", text); the one across the cut comes as two."""
        position = 0
        for document in documents(self.sources, self.text_field):
            text = document.text
            if self.cut is None:
                yield ("val" if _hash(text.encode()) < self.threshold else "train"), text
                continue
            kept = min(max(self.cut - position, 0), len(text))
            position += len(text)
            if kept:
                yield "train", text[:kept]
            if kept < len(text):
                yield "val", text[kept:]


def _hash(data: bytes) -> int:
    """A number below `_HASHES` that depends on the text alone: equal documents stay on the same side."""
    return int.from_bytes(hashlib.sha256(data).digest()[:8])
