"""Near duplicates: speed of signatures, what is found, and what it takes to decide, beside datatrove.

    python tests/benchmarks/deduplication.py

Both sign the same real texts in one process, in turn, five rounds. datatrove splits words by a regular
expression here, which needs no download and is faster than its own splitters. Then pairs of passages of which
one was edited: how many are found at which similarity, how many of those found are right, and what theory
says, 1 - (1 - s^8)^14. At last the time and the peak of memory of decide().
"""

import json
import random
import re
import statistics
import struct
import sys
import time
import tracemalloc
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from lm.data.corpus.documents import Document
from lm.data.corpus.steps.duplicates import Duplicates

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
UNIT = re.compile(r"[\u4e00-\u9fff]|[^\W_]+")
EDITS = (0, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2)
BUCKETS = 14


def texts(language: str) -> list[str]:
    """Documents of C4 and Wikipedia articles; chapters' pieces of 2,000 characters of two novels."""
    if language == "en":
        folder = DATA / "llamafactory-lm"
        rows = (folder / "c4_demo.jsonl").read_text(encoding="utf-8").splitlines()
        articles = (folder / "wiki_demo.txt").read_text(encoding="utf-8").split("\n")
        return [*(json.loads(row)["text"] for row in rows), *(text for text in articles if len(text) > 50)]
    novels = [path.read_text(encoding="utf-8") for path in sorted((DATA / "chinese-classics").glob("*.txt"))]
    return [novel[at : at + 2000] for novel in novels for at in range(0, len(novel), 2000)]


def pairs(language: str, most: int = 3000) -> tuple[list[str], np.ndarray]:
    """Passages and, in the second half, each edited; their similarities (P,)."""
    choose, glue = random.Random(0), " " if language == "en" else ""
    size = 100 if language == "en" else 200
    rows = [text.split() if glue else re.findall("[\u4e00-\u9fff]", text) for text in texts(language)]
    first = [row[at : at + size] for row in rows for at in range(0, len(row) - size + 1, size)][:most]
    every, second = [unit for row in first for unit in row], []
    for number, units in enumerate(first):
        changed = list(units)
        for at in choose.sample(range(size), round(EDITS[number % len(EDITS)] * size)):
            changed[at] = choose.choice(every)
        second.append(changed)
    found = [glue.join(units) for units in first + second]
    grams = [grams_of(text) for text in found]
    half = len(first)
    return found, np.array([jaccard(grams[number], grams[number + half]) for number in range(half)])


def grams_of(text: str) -> set[tuple[str, ...]]:
    units = UNIT.findall(text.lower())
    return {tuple(units[at : at + 5]) for at in range(len(units) - 4)}


def jaccard(one: set, other: set) -> float:
    return len(one & other) / max(len(one | other), 1)


class Theirs:
    """datatrove's three stages, called in this process."""

    def __init__(self) -> None:
        from datatrove.pipeline.dedup import minhash
        from datatrove.utils.hashing import HashConfig
        from datatrove.utils.word_tokenizers import WordTokenizer

        class Split(WordTokenizer):
            def word_tokenize(self, text):
                return UNIT.findall(text)

            sent_tokenize = span_tokenize = word_tokenize

        self.minhash, self.split = minhash, Split()
        self.config = minhash.MinhashConfig(hash_config=HashConfig(precision=64))

    def sign(self, found: list[str], folder: str) -> None:
        from datatrove.data import Document as Input

        step = self.minhash.MinhashDedupSignature(folder + "/signatures", self.config, language=self.split)
        step.run((Input(text=text, id=str(number)) for number, text in enumerate(found)), 0, 1)

    def removed(self, found: list[str]) -> set[int]:
        with TemporaryDirectory() as folder:
            self.sign(found, folder)
            step = self.minhash.MinhashDedupBuckets(
                folder + "/signatures", folder + "/buckets", config=self.config
            )
            for bucket in range(BUCKETS):
                step.run(None, bucket, BUCKETS)
            cluster = self.minhash.MinhashDedupCluster(
                folder + "/buckets", folder + "/remove", config=self.config
            )
            cluster.run(None, 0, 1)
            data = Path(folder, "remove", "000000.remove").read_bytes()
        return {number for (number,) in struct.iter_unpack("<I", data)}


def notes_of(found: list[str]) -> np.ndarray:
    step = Duplicates()
    return np.stack([step.note(Document(text)) for text in found])


def seconds(work: Callable[..., object], *arguments: object) -> float:
    """Of one core: others at work on the machine don't count."""
    start = time.process_time()
    work(*arguments)
    return time.process_time() - start


def speed(theirs: Theirs | None) -> None:
    for language in ("en", "zh"):
        found = texts(language)
        size = sum(len(text.encode()) for text in found) / 1e6
        ours, others = [], []
        for _ in range(5):
            ours.append(size / seconds(notes_of, found))
            if theirs:
                with TemporaryDirectory() as folder:
                    others.append(size / seconds(theirs.sign, found, folder))
        line = f"{language}: {len(found)} documents, {size:.1f} MB: ours {statistics.median(ours):.1f} MB/s"
        if others:
            factor = statistics.median(one / other for one, other in zip(ours, others, strict=True))
            line += f", datatrove {statistics.median(others):.2f} MB/s, {factor:.0f} times as fast"
        print(line)


def quality(theirs: Theirs | None) -> None:
    for language in ("en", "zh"):
        found, alike = pairs(language)
        half = len(alike)
        decided = Duplicates(exact=False).decide(notes_of(found) * (np.arange(1 + BUCKETS) > 0))
        hits = {"ours": np.zeros(half, bool)}
        right = sum(kept == number - half for number, _, kept in decided)
        for number, *_ in decided:
            hits["ours"][number % half] = True
        print(f"{language}: ours leaves out {len(decided)}, of which {right} the edited one of its pair")
        if theirs:
            removed = theirs.removed(found)
            hits["datatrove"] = np.zeros(half, bool)
            hits["datatrove"][[number % half for number in removed]] = True
            both = sum(number + half in removed for number in removed)
            print(f"{language}: datatrove leaves out {len(removed)}, both of a pair {both} times")
        theory = 1 - (1 - alike**8) ** BUCKETS
        print("similarity       pairs  theory  " + "  ".join(hits))
        edges = [0, 0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1, 1.01]
        for low, high in pairwise(edges):
            here = (alike >= low) & (alike < high)
            if here.any():
                shown = "  ".join(f"{hit[here].mean():6.3f}" for hit in hits.values())
                print(
                    f"{low:4.2f} to {min(high, 1):4.2f} {here.sum():9d}  {theory[here].mean():6.3f}  {shown}"
                )


def decisions() -> None:
    """Notes at random, a fifth of them exact and a fifth near duplicates of others."""
    for count in 100_000, 1_000_000:
        choose = np.random.default_rng(0)
        notes = choose.integers(1, 1 << 63, (count, 1 + BUCKETS), dtype=np.uint64)
        fifth = count // 5
        notes[fifth : 2 * fifth] = notes[choose.integers(0, fifth, fifth)]
        rows = choose.integers(0, count, fifth), choose.integers(1, 1 + BUCKETS, fifth)
        notes[rows] = notes[choose.integers(0, count, fifth), rows[1]]
        took = seconds(Duplicates().decide, notes)
        tracemalloc.start()
        gone = len(Duplicates().decide(notes))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        print(
            f"decide, {count:,} documents, {gone:,} left out: {took:.2f} s, "
            f"{peak / 2**20:.0f} MiB beside the notes' {notes.nbytes / 2**20:.0f} MiB"
        )


def main() -> None:
    try:
        theirs = Theirs()
        from loguru import logger

        logger.remove()
    except ImportError:
        theirs = None
        print("no datatrove: ours alone", file=sys.stderr)
    speed(theirs)
    quality(theirs)
    decisions()


if __name__ == "__main__":
    main()
