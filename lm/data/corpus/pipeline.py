"""The stages of a recipe: source files to cleaned documents, with a word on each that was left out.

The files are shared out to tasks by their sizes alone. A task reads its files, or what the stage before has
left of them, takes each document through the stage's steps and writes those that stay, what a reduction
notes of them, those that go with the reason, and the counts. A reduction then looks at all notes in a task of
its own, and the next stage drops what it names. A file has its name when it is whole: whoever is killed has
left nothing that is taken for done.
"""

import json
import os
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import IO, Any

import numpy as np

from lm.data.corpus.documents import Document, PassageReduction, Step
from lm.data.corpus.files import open_binary, zstd_for
from lm.data.corpus.recipe import Recipe, RecipeFile
from lm.data.corpus.steps.personal import PersonalData
from lm.errors import SetupError, UserError
from lm.files import write_atomically

_ENDINGS = {"documents": "jsonl.zst", "removed": "jsonl.zst", "tally": "json", "drops": "json"}
_MOST_TASKS = 1024
_MOST_PARTS = 16  # of a file
_MOST_WARNED = 50  # messages that are kept
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
class Tally:
    """What went through a stage: all that the report says of it, added up over its tasks.

    Attributes:
        entered: documents and bytes of each source before the first step.
        left: the same behind each step, by the step's number.
        reasons: documents that a step left out, by reason.
        counts: what else the steps counted.
        lengths: documents that stay of 2^n to 2^(n + 1) characters, by n.
        skipped: files that could not be read (any further), and why.
        warnings: how many more things were passed over within files; `warned` are the first ones.
        seconds: of work behind each step, reading first; not in the report, since it never is the same.
    """

    entered: dict[str, list[int]] = field(default_factory=dict)
    left: list[dict[str, list[int]]] = field(default_factory=list)
    reasons: list[dict[str, int]] = field(default_factory=list)
    counts: list[dict[str, int]] = field(default_factory=list)
    lengths: dict[str, int] = field(default_factory=dict)
    skipped: list[list[str]] = field(default_factory=list)
    warnings: int = 0
    warned: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    @classmethod
    def of(cls, steps: int) -> "Tally":
        """An empty one."""
        return cls(
            left=[{} for _ in range(steps)],
            reasons=[{} for _ in range(steps)],
            counts=[{} for _ in range(steps)],
            seconds=[0.0] * steps,
        )

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(  # of every field the sum
            _sum(self.entered, other.entered),
            [_sum(a, b) for a, b in zip(self.left, other.left, strict=True)],
            [_sum(a, b) for a, b in zip(self.reasons, other.reasons, strict=True)],
            [_sum(a, b) for a, b in zip(self.counts, other.counts, strict=True)],
            _sum(self.lengths, other.lengths),
            self.skipped + other.skipped,
            self.warnings + other.warnings,
            (self.warned + other.warned)[:_MOST_WARNED],
            [a + b for a, b in zip(self.seconds, other.seconds, strict=True)],
        )


def _sum(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
    """Of counts, or of lists of counts, by key."""
    total = dict(a)
    for key, value in b.items():
        if key in total and isinstance(value, list):
            total[key] = [x + y for x, y in zip(total[key], value, strict=True)]
        else:
            total[key] = total[key] + value if key in total else value
    return total


def _count(into: dict[str, list[int]], key: str, size: int) -> None:
    held = into.setdefault(key, [0, 0])
    held[0] += 1
    held[1] += size


@contextmanager
def _lines(path: Path) -> Iterator[IO[bytes]]:
    """A compressed file to write lines into, which gets its name when it is whole."""
    zstd = zstd_for("preparing a corpus by a recipe", "corpus")
    # Two processes may write the same at once: one that was orphaned by a kill, and its successor.
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with zstd.open(partial, "wb", level=1) as file:
            yield file
        if not partial.stat().st_size:
            partial.write_bytes(zstd.compress(b""))  # a whole file of no lines
        partial.replace(path)
    finally:
        with suppress(OSError):
            partial.unlink()


def _save(path: Path, array: np.ndarray) -> None:
    partial = path.with_name(f".{path.stem}.{os.getpid()}.npy")
    np.save(partial, array)
    partial.replace(path)


@contextmanager
def _together(path: Path, parts: list[np.ndarray]) -> Iterator[np.ndarray]:
    """The notes of all tasks one after the other, in a file while they are looked at and not in memory."""
    filled = [part for part in parts if len(part)] or [np.empty(0)]
    shape = (sum(map(len, filled)), *filled[0].shape[1:])
    if not shape[0]:
        yield filled[0]
        return
    whole = np.lib.format.open_memmap(path, "w+", filled[0].dtype, shape)
    try:
        first = 0
        for part in filled:
            whole[first : first + len(part)] = part
            first += len(part)
        yield whole
    finally:
        path.unlink()


def _encoded(row: dict[str, Any]) -> bytes:
    return json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


class StageFiles:
    """The files of a stage in the work folder.

    Args:
        folder: of the work.
        number: of the stage, from 0.
    """

    def __init__(self, folder: Path, number: int) -> None:
        self.folder = folder / f"stage-{number}"

    def part(self, kind: str, rank: int) -> Path:
        """A task's: documents, removed, tally; of a reduction notes, lengths, gone, drops."""
        ending = _ENDINGS.get(kind, "npy")
        return self.folder / f"{kind}-{rank:05}.{ending}"

    def rows(self, kind: str, rank: int) -> Iterator[dict[str, Any]]:
        """The lines of a task's file."""
        with open_binary(self.part(kind, rank)) as file:
            for line in file:
                yield json.loads(line)

    def documents(self, rank: int) -> Iterator[Document]:
        """Those that a task has kept."""
        for row in self.rows("documents", rank):
            yield Document(**row)

    def tally(self, rank: int) -> Tally:
        """A task's counts."""
        return Tally(**json.loads(self.part("tally", rank).read_text(encoding="utf-8")))


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
            kept = stack.enter_context(_lines(files.part("documents", rank)))
            removed = stack.enter_context(_lines(files.part("removed", rank)))
            first = self.stage == 0
            read = self._read(recipe, rank, tally) if first else self._before(recipe, rank, removed, tally)
            for document in read:
                if (out := _through(document, steps, tally)) is not None:
                    removed.write(self._removed(document, steps[out[0]].title(), out[1]))
                    continue
                bucket = str(len(document.text).bit_length() - 1)
                tally.lengths[bucket] = tally.lengths.get(bucket, 0) + 1
                kept.write(_encoded(vars(document)))
                if reduction is not None:
                    notes.append(reduction.note(document))
        for counts, step in zip(tally.counts[1:], steps, strict=True):
            counts.update(step.counts())
        if isinstance(reduction, PassageReduction):
            _save(files.part("lengths", rank), np.array([len(note) for note in notes], dtype=np.int64))
            _save(files.part("notes", rank), np.concatenate(notes) if notes else np.empty(0))
        elif reduction is not None:
            _save(files.part("notes", rank), np.stack(notes) if notes else np.empty(0))
        write_atomically(files.part("tally", rank), json.dumps(vars(tally)))

    def _removed(self, document: Document, step: str, reason: str, stands: str = "") -> bytes:
        excerpt = Document(document.text[:_EXCERPT] + " …" * (len(document.text) > _EXCERPT))
        for mask in self._masks:
            mask(excerpt)
        row = {"id": document.id, "source": document.source, "step": step, "reason": reason}
        return _encoded(row | ({"kept": stands} if stands else {}) | {"text": excerpt.text})

    def _read(self, recipe: Recipe, rank: int, tally: Tally) -> Iterator[Document]:
        """The documents of this task's source files."""
        made = json.loads((self.folder / "plan.json").read_text(encoding="utf-8"))
        first, end, part, parts = made["tasks"][rank]
        names = _names(made["files"])

        def warn(message: str) -> None:
            if recipe.strict:
                raise UserError(message)
            tally.warnings += part == 0
            if part == 0 and len(tally.warned) < _MOST_WARNED:
                tally.warned.append(printable(message))

        for number in range(first, end):
            source, path = recipe.sources[made["files"][number][0]], Path(made["files"][number][1])
            started = time.perf_counter()
            try:
                for count, (text, meta) in enumerate(source.read(path, warn)):
                    if count // _BLOCK % parts != part:
                        continue
                    tally.seconds[0] += time.perf_counter() - started
                    identity = f"{source.name}/{names[number]}#{count}"
                    document = Document(text, identity, source.name, source.licence, meta)
                    size = len(text.encode())
                    _count(tally.entered, source.name, size)
                    _count(tally.left[0], source.name, size)
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
            _count(tally.entered, document.source, size)
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
            _count(tally.left[0], document.source, size)
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
        _count(tally.left[number + 1], document.source, len(document.text.encode()))
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
        with _together(files.folder / "notes.npy", parts) as notes:
            if isinstance(reduction, PassageReduction):
                gone = reduction.decide(notes) if len(notes) else np.empty(0, bool)
                for task in range(self.tasks):
                    _save(files.part("gone", task), gone[starts[task] : starts[task + 1]])
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
