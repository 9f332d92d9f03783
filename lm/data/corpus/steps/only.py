"""A step for some sources alone."""

from pathlib import Path

from lm.data.corpus.documents import Document, Step
from lm.errors import UserError


class Only(Step):
    """Another step, for the documents of some sources; those of the others pass.

    Args:
        step: what they go through.
        sources: names of the sources whose documents do; None: of all.
        but: of sources whose documents don't.
    """

    def __init__(self, step: Step, sources: list[str] | None = None, but: list[str] | None = None) -> None:
        if (sources is None) == (but is None):
            raise UserError("a step for some sources needs either `sources` or `but`", status=2)
        self.step, self.sources, self.but = step, sources, but or []

    def __call__(self, document: Document) -> str | None:
        wanted = self.sources is None or document.source in self.sources
        return self.step(document) if wanted and document.source not in self.but else None

    def counts(self) -> dict[str, int]:
        return self.step.counts()

    def reads(self) -> list[Path]:
        return self.step.reads()

    def names(self) -> list[str]:
        return [*(self.sources or []), *self.but]

    def title(self) -> str:
        return self.step.title()
