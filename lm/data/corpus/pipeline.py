"""The stages of a recipe: source files to cleaned documents, with a word on each that was left out.

The files are shared out to tasks by their sizes alone. A task reads its files, or what the stage before has
left of them, takes each document through the stage's steps and writes those that stay, what a reduction
notes of them, those that go with the reason, and the counts. A reduction then looks at all notes in a task of
its own, and the next stage drops what it names. What lies in the work folder, `stages.py` knows.
"""

import json
import os
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import IO, Any

import numpy as np

from lm.data.corpus.documents import Document, PassageReduction, Step
from lm.data.corpus.recipe import Recipe, RecipeFile
from lm.data.corpus.stages import MOST_WARNED, StageFiles, Tally, count, encoded, lines, save, together
from lm.data.corpus.steps.personal import PersonalData
from lm.errors import SetupError, UserError
from lm.files import write_atomically

_MOST_TASKS = 1024
_MOST_PARTS = 16  # of a file
_BLOCK = 64  # documents in a row that one part has
_EXCERPT = 300  # characters of a document that was left out


def plan(recipe: Recipe) -> dict[str, Any]:
    """Which files there are, and who reads them.

    Returns:
        `files`: [number of the source, path, bytes] in the order of the corpus; `tasks`: [first, end, part,
        parts] of each: its files, and of a large file which part of the documents.
    """
    files = [
        [number, str(path), path.stat().st_size if path.exists() else 0]
        for number, source in enumerate(recipe.sources)
        for path in source.files()
    ]
    share = max(recipe.task_bytes, sum(size for _, _, size in files) // _MOST_TASKS)
    tasks, first, held = [], 0, 0
    for end, (number, _, size) in enumerate(files, start=1):
        # Each part's task reads the whole file.
        parts = min(round(size / share), _MOST_PARTS) if recipe.sources[number].quick else 1
        if parts > 1 and held:
            tasks.append([first, end - 1, 0, 1])
        if parts > 1:
            tasks += ([end - 1, end, part, parts] for part in range(parts))
        held += size
        if parts <= 1 and (held >= share or end == len(files)):
            tasks.append([first, end, 0, 1])
        if parts > 1 or held >= share:
            first, held = end, 0
    return {"files": files, "tasks": tasks}


@dataclass
class Cleaning:
    """A stage's task; see the module.

    Args:
        recipe: as it was written.
        folder: of the work, with its `plan.json`.
        stage: its number.
    """

    recipe: RecipeFile
    folder: Path
    stage: int

    def __call__(self, _: Any, rank: int, tasks: int) -> None:
        recipe = self.recipe.build()
        steps, reduction = recipe.stages()[self.stage]
        files = StageFiles(self.folder, self.stage)
        tally = Tally.of(len(steps) + 1)  # what the stage before has dropped comes first
        notes: list[np.ndarray] = []
        # What is left out is kept as it begins, and no more personal data than what stays.
        self._masks = [step for step in self.recipe.build().steps if isinstance(step, PersonalData)]
        with ExitStack() as stack:
            kept = stack.enter_context(lines(files.part("documents", rank)))
            removed = stack.enter_context(lines(files.part("removed", rank)))
            first = self.stage == 0
            read = self._read(recipe, rank, tally) if first else self._before(recipe, rank, removed, tally)
            for document in read:
                if (out := _through(document, steps, tally)) is not None:
                    removed.write(self._removed(document, steps[out[0]].title(), out[1]))
                    continue
                bucket = str(len(document.text).bit_length() - 1)
                tally.lengths[bucket] = tally.lengths.get(bucket, 0) + 1
                kept.write(encoded(vars(document)))
                if reduction is not None:
                    notes.append(reduction.note(document))
        for counts, step in zip(tally.counts[1:], steps, strict=True):
            counts.update(step.counts())
        if isinstance(reduction, PassageReduction):
            save(files.part("lengths", rank), np.array([len(note) for note in notes], dtype=np.int64))
            save(files.part("notes", rank), np.concatenate(notes) if notes else np.empty(0))
        elif reduction is not None:
            save(files.part("notes", rank), np.stack(notes) if notes else np.empty(0))
        write_atomically(files.part("tally", rank), json.dumps(vars(tally)))

    def _removed(self, document: Document, step: str, reason: str, stands: str = "") -> bytes:
        excerpt = Document(document.text[:_EXCERPT] + " …" * (len(document.text) > _EXCERPT))
        for mask in self._masks:
            mask(excerpt)
        row = {"id": document.id, "source": document.source, "step": step, "reason": reason}
        return encoded(row | ({"kept": stands} if stands else {}) | {"text": excerpt.text})

    def _read(self, recipe: Recipe, rank: int, tally: Tally) -> Iterator[Document]:
        """The documents of this task's source files."""
        made = json.loads((self.folder / "plan.json").read_text(encoding="utf-8"))
        first, end, part, parts = made["tasks"][rank]
        names = _names(made["files"])

        def warn(message: str) -> None:
            if recipe.strict:
                raise UserError(message)
            tally.warnings += part == 0
            if part == 0 and len(tally.warned) < MOST_WARNED:
                tally.warned.append(printable(message))

        for number in range(first, end):
            source, path = recipe.sources[made["files"][number][0]], Path(made["files"][number][1])
            started = time.perf_counter()
            try:
                for place, (text, meta) in enumerate(source.read(path, warn)):
                    if place // _BLOCK % parts != part:
                        continue
                    tally.seconds[0] += time.perf_counter() - started
                    identity = f"{source.name}/{names[number]}#{place}"
                    document = Document(text, identity, source.name, source.licence, meta)
                    size = len(text.encode())
                    count(tally.entered, source.name, size)
                    count(tally.left[0], source.name, size)
                    yield document
                    started = time.perf_counter()
            except (UserError, OSError) as error:
                if recipe.strict or isinstance(error, SetupError):
                    raise
                if part == 0:  # of several that read it one says so
                    tally.skipped.append([f"{source.name}/{names[number]}", printable(str(error))])

    def _before(self, recipe: Recipe, rank: int, removed: IO[bytes], tally: Tally) -> Iterator[Document]:
        """What the stage before has kept, without what its reduction drops."""
        before = StageFiles(self.folder, self.stage - 1)
        drops = json.loads(before.part("drops", rank).read_text(encoding="utf-8"))
        mine = {number: (reason, stands) for number, reason, stands in drops["documents"]}
        reduction = recipe.stages()[self.stage - 1][1]
        passages = reduction if isinstance(reduction, PassageReduction) else None
        if passages is not None:
            gone = np.load(before.part("gone", rank))
            ends = np.cumsum(np.load(before.part("lengths", rank)))
        for number, document in enumerate(before.documents(rank)):
            size = len(document.text.encode())
            count(tally.entered, document.source, size)
            if passages is not None:
                reason = passages.cut(document, gone[ends[number - 1] if number else 0 : ends[number]])
                mine = {number: (reason, "")} if reason else {}
                cut = size - len(document.text.encode())
                tally.counts[0]["bytes cut"] = tally.counts[0].get("bytes cut", 0) + cut
                size -= cut
            if number in mine:
                reason, stands = mine[number]
                tally.reasons[0][reason] = tally.reasons[0].get(reason, 0) + 1
                removed.write(self._removed(document, drops["step"], reason, stands))
                continue
            count(tally.left[0], document.source, size)
            yield document


def _through(document: Document, steps: list[Step], tally: Tally) -> tuple[int, str] | None:
    """Take a document through the steps.

    Returns:
        the number of the step that leaves it out, and why; None where it stays.
    """
    for number, step in enumerate(steps):
        started = time.perf_counter()
        reason = step(document)
        if reason is None and not document.text.strip():
            reason = "nothing is left of it"
        tally.seconds[number + 1] += time.perf_counter() - started
        if reason is not None:
            tally.reasons[number + 1][reason] = tally.reasons[number + 1].get(reason, 0) + 1
            return number, reason
        count(tally.left[number + 1], document.source, len(document.text.encode()))
    return None


def printable(name: str) -> str:
    """A file's name as text: what is no UTF-8 in it is replaced."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _names(files: list[list[Any]]) -> list[str]:
    """A name for each file that no other file of its source has: short where the last part is enough."""
    paths: dict[int, list[Path]] = defaultdict(list)
    for source, path, _ in files:
        paths[source].append(Path(path).absolute())
    shared = {
        source: Path(os.path.commonpath([each.parent for each in own])) for source, own in paths.items()
    }
    names = []
    seen: Counter[tuple[int, str]] = Counter()
    for source, path, _ in files:
        name = printable(Path(path).absolute().relative_to(shared[source]).as_posix())
        seen[source, name] += 1  # a file that was named twice
        names.append(name if seen[source, name] == 1 else f"{name}~{seen[source, name]}")
    return names


@dataclass
class Reducing:
    """The task of a stage's reduction: reads all notes and writes what is dropped of whose documents."""

    recipe: RecipeFile
    folder: Path
    stage: int
    tasks: int

    def __call__(self, _: Any, rank: int, tasks: int) -> None:
        _, reduction = self.recipe.build().stages()[self.stage]
        files = StageFiles(self.folder, self.stage)
        parts = [np.load(files.part("notes", task), mmap_mode="r") for task in range(self.tasks)]
        starts = [0, *accumulate(len(part) for part in parts)]
        decided: Sequence[tuple[int, str, int]] = []
        with together(files.folder / "notes.npy", parts) as notes:
            if isinstance(reduction, PassageReduction):
                gone = reduction.decide(notes) if len(notes) else np.empty(0, bool)
                for task in range(self.tasks):
                    save(files.part("gone", task), gone[starts[task] : starts[task + 1]])
            elif reduction is not None and len(notes):
                decided = reduction.decide(notes)

        def place(number: int) -> tuple[int, int]:
            task = int(np.searchsorted(starts, number, side="right")) - 1
            return task, number - starts[task]

        # Only the names of those that stand for others are looked up.
        wanted: dict[int, set[int]] = defaultdict(set)
        for _number, _reason, stands in decided:
            if stands >= 0:
                task, number = place(stands)
                wanted[task].add(number)
        names = {
            (task, number): row["id"]
            for task, numbers in wanted.items()
            for number, row in enumerate(files.rows("documents", task))
            if number in numbers
        }
        dropped: list[list[list[Any]]] = [[] for _ in range(self.tasks)]
        for number, reason, stands in sorted(decided):
            task, own = place(number)
            dropped[task].append([own, reason, names[place(stands)] if stands >= 0 else ""])
        for task, mine in enumerate(dropped):
            content = {"step": reduction.title() if reduction else "", "documents": mine}
            write_atomically(files.part("drops", task), json.dumps(content))
