"""The documents that a recipe leaves: made stage by stage in a work folder, then read like any others."""

import hashlib
import json
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import lm
from lm.data.corpus import report
from lm.data.corpus.documents import Document
from lm.data.corpus.pipeline import Cleaning, Reducing, plan
from lm.data.corpus.progress import Progress
from lm.data.corpus.provenance import REMOVED, removed
from lm.data.corpus.recipe import Recipe, RecipeFile
from lm.data.corpus.stages import StageFiles, Tally
from lm.errors import UserError
from lm.files import synced, write_atomically
from lm.processes import say

# Of each source and language ("" where nobody has looked): documents, tokens, bytes.
Shares = dict[str, dict[str, list[int]]]


class Cleaned:
    """A collection of documents that a recipe leaves of its sources.

    Args:
        file: the recipe.
        root: where work folders lie, beside the corpora.
    """

    def __init__(self, file: RecipeFile, root: Path) -> None:
        self.file, self.root = file, root
        self.recipe: Recipe = file.build()

    @property
    def name(self) -> str:
        return self.recipe.name

    def state(self) -> list[Any]:
        """What the cleaned documents depend on: the recipe's sources and steps, each file's path, size and
        time, the code of one's own classes, and which lm it is."""
        files = []
        read = [path for step in self.recipe.steps for path in step.reads()]
        for path in [*(Path(name) for _, name, _ in self._plan["files"]), *read]:
            found = path.stat() if path.exists() else None  # a name on a hub is no file
            files.append([str(path), found and found.st_size, found and found.st_mtime_ns])
        own = {sys.modules[type(each).__module__] for each in (*self.recipe.sources, *self.recipe.steps)}
        code = sorted(
            hashlib.sha256(Path(module.__file__).read_bytes()).hexdigest()
            for module in own
            if module.__file__ and not module.__name__.startswith("lm.")
        )
        return [self.file.cleaning, files, code, lm.__version__]

    @cached_property
    def _plan(self) -> dict[str, Any]:
        return plan(self.recipe)

    @cached_property
    def folder(self) -> Path:
        """Of the work; what a killed preparation has left there is gone on with."""
        words = json.dumps(self.state(), sort_keys=True).encode()
        return self.root / f"{self.name}-{hashlib.sha256(words).hexdigest()[:12]}.work"

    def make(self) -> None:
        """Do all stages that are not done. Says how far it is, on stderr.

        Raises:
            UserError: nothing is left of the documents, a process was killed, or the disk is full.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self.folder / "plan.json", json.dumps(self._plan))
        stages, tasks = self.recipe.stages(), len(self._plan["tasks"])
        sizes = [
            sum(size for _, _, size in self._plan["files"][first:end]) // parts
            for first, end, _, parts in self._plan["tasks"]
        ]
        for number, (_, reduction) in enumerate(stages):
            files = StageFiles(self.folder, number)
            files.folder.mkdir(exist_ok=True)
            progress = Progress(f"cleaning, stage {number + 1} of {len(stages)}", sum(sizes))

            def done(rank: int, progress: Progress = progress) -> None:
                progress.advance(sizes[rank])

            clean = Cleaning(self.file, self.folder, number)
            self.recipe.engine.run(clean, tasks, files.folder / "tasks", done)
            if number == 0:
                self._check_read()
            if reduction is not None:
                reduce = Reducing(self.file, self.folder, number, tasks)
                self.recipe.engine.run(reduce, 1, files.folder / "reduction", lambda rank: None)
            progress.finish()
        say(table(self._facts(), self._seconds()))

    def _check_read(self) -> None:
        tally = self._tallies(0, len(self.recipe.stages()[0][0]))
        for source in self.recipe.sources:
            if source.name not in tally.entered:
                why = next((f": {why}" for name, why in tally.skipped if name.startswith(source.name)), "")
                raise UserError(f"the source {source.name} gives no document{why}")

    @property
    def _last(self) -> StageFiles:
        return StageFiles(self.folder, len(self.recipe.stages()) - 1)

    def documents(self, warn: Callable[[str], object] = lambda _: None) -> Iterator[Document]:
        """What is left, in order, once it is made."""
        for rank in range(len(self._plan["tasks"])):
            yield from self._last.documents(rank)

    def _tallies(self, stage: int, steps: int) -> Tally:
        """What went through a stage."""
        tasks = range(len(self._plan["tasks"]))
        tallies = (StageFiles(self.folder, stage).tally(rank) for rank in tasks)
        return sum(tallies, start=Tally.of(steps + 1))

    def _seconds(self) -> list[float]:
        """Of each step's work, of all processes together."""
        stages = enumerate(self.recipe.stages())
        return [each for stage, (own, _) in stages for each in self._tallies(stage, len(own)).seconds]

    def _facts(self) -> dict[str, Any]:
        """What went through each step, and what the report says beside."""
        steps: list[dict[str, Any]] = []
        skipped: list[list[str]] = []
        warned: list[str] = []
        warnings, before = 0, ""
        tally = Tally.of(1)
        for number, (own, reduction) in enumerate(self.recipe.stages()):
            tally = self._tallies(number, len(own))
            skipped += tally.skipped
            warnings += tally.warnings
            warned += tally.warned
            names = [before or "reading", *(step.title() for step in own)]
            entered = tally.entered
            for name, left, reasons, counts in zip(
                names, tally.left, tally.reasons, tally.counts, strict=True
            ):
                steps.append({"step": name, "in": entered, "out": left, "reasons": reasons, "counts": counts})
                entered = left
            before = "" if reduction is None else reduction.title()
        return {
            "name": self.name,
            "recipe": self.file.meaning,
            "steps": steps,
            "lengths": dict(sorted(tally.lengths.items(), key=lambda item: int(item[0]))),
            "skipped": skipped,
            "warnings": warnings,
            "warned": warned,
        }

    def records(self, counts: Mapping[str, int]) -> list[dict[str, Any]]:
        """What the manifest says of each source; its `documents` are those that are left."""
        rows = []
        for number, source in enumerate(self.recipe.sources):
            own = [size for of, _, size in self._plan["files"] if of == number]
            row = {"name": source.name, "files": len(own), "bytes_on_disk": sum(own)}
            rows.append(row | {"documents": counts.get(source.name, 0), "licence": source.licence})
        return rows

    def accompany(self, folder: Path, tokens: Shares) -> None:
        """Write the report, and a line for each document that was left out."""
        documents = {source: sum(each[0] for each in by.values()) for source, by in tokens.items()}
        facts = self._facts() | {"sources": self.records(documents), "tokens": tokens}
        with synced(folder / REMOVED) as out:  # compressed files one after another are one
            for number in range(len(self.recipe.stages())):
                for rank in range(len(self._plan["tasks"])):
                    with StageFiles(self.folder, number).part("removed", rank).open("rb") as file:
                        shutil.copyfileobj(file, out)
        report.write(folder, facts, removed(folder))
        for name, why in facts["skipped"][:5]:
            say(f"warning: {name} could not be read, or no further: {why}")
        if facts["warnings"]:
            say(f"warning: {facts['warnings']:,} rows or files were passed over, see {report.PAGE}")
        if len(facts["skipped"]) > 5:
            say(f"warning: and {len(facts['skipped']) - 5} more, see {report.PAGE}")

    def tidy(self) -> None:
        """Remove the work folder."""
        shutil.rmtree(self.folder, ignore_errors=True)


def table(facts: dict[str, Any], seconds: list[float]) -> str:
    """What went into each step and came out, for a person.

    Args:
        seconds: of work of each step, of all processes together; 0 where nobody has looked.
    """
    rows = [("", "documents", "left", "MB", "left", "MB/s", "")]
    for step, taken in zip(facts["steps"], seconds, strict=True):
        (n, size), (left, rest) = (report.total(step[side]) for side in ("in", "out"))
        reasons = sorted(step["reasons"].items(), key=lambda item: -item[1])
        notes = [f"{why} ({count:,})" for why, count in reasons[:2]]
        if reasons[2:]:
            notes.append(f"other reasons ({sum(count for _, count in reasons[2:]):,})")
        notes += [f"{name} {count:,}" for name, count in sorted(step["counts"].items()) if count]
        speed = f"{size / taken / 1e6:.1f}" if taken > 0.01 else ""
        numbers = (f"{n:,}", f"{left:,}", f"{size / 1e6:.1f}", f"{rest / 1e6:.1f}", speed)
        rows.append((step["step"], *numbers, ", ".join(notes)))
    widths = [max(len(row[i]) for row in rows) for i in range(6)]
    lines = []
    for row in rows:
        numbers = "  ".join(cell.rjust(width) for cell, width in zip(row[1:6], widths[1:], strict=True))
        lines.append(f"{row[0].ljust(widths[0])}  {numbers}  {row[6]}".rstrip())
    return "\n".join(lines)
