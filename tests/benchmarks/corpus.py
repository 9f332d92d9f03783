"""How fast each step of a corpus is, beside datatrove's own, and the whole beside its default pipeline.

    python tests/benchmarks/corpus.py
    python tests/benchmarks/corpus.py --copies 40        # how it grows, and what memory it takes
    python tests/benchmarks/corpus.py --copies 2000 --workers 2   # 5 GB, three quarters of an hour

The text is C4's documents and reviews, English, as JSON Lines. Each step of both sees the same documents in
one process, in turns; figures are medians of the processor's time, in MB/s: ours, datatrove's, ratio. Its
words are nltk's here: spaCy's, its default, are slower. Its language filter needs a download and takes no
part. The whole is `lm prepare` with these steps, starting and all, on 1 and 2 processes.
"""

import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

from lm.data.corpus.documents import Document
from lm.data.corpus.readers import Imdb, JsonLines
from lm.data.corpus.steps import Duplicates, Language, Normalise, PersonalData, Quality
from lm.tokenizer import train_tokenizer

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
RULES = ("gopher_repetition", "gopher_quality", "c4", "fineweb")


def texts(reviews: int) -> list[str]:
    """C4's documents and some reviews."""
    c4 = (DATA / "llamafactory-lm" / "c4_demo.jsonl").read_text(encoding="utf-8").splitlines()
    archive = DATA / "imdb" / "aclImdb.tar.xz"
    found = islice(Imdb(str(archive)).read(archive, print), reviews)
    return [*(json.loads(row)["text"] for row in c4), *(text for text, _ in found)]


def splitter() -> Any:
    """nltk's words for datatrove, without the model for sentences, which isn't in its package."""
    from datatrove.utils.word_tokenizers import WordTokenizer
    from nltk.tokenize import NLTKWordTokenizer
    from nltk.tokenize.punkt import PunktSentenceTokenizer

    class Splitter(WordTokenizer):
        sentences, words = PunktSentenceTokenizer(), NLTKWordTokenizer()

        def word_tokenize(self, text: str) -> list[str]:
            return [word for part in self.sentences.tokenize(text) for word in self.words.tokenize(part)]

        def sent_tokenize(self, text: str) -> list[str]:
            return self.sentences.tokenize(text)

        def span_tokenize(self, text: str) -> list[tuple[int, int]]:
            return list(self.sentences.span_tokenize(text))

    return Splitter()


def steps(
    rows: list[str], folder: Path
) -> dict[str, tuple[Callable[[], object], Callable[[], object] | None]]:
    """Ours and datatrove's of each step, over all texts."""
    from datatrove.data import Document as Theirs
    from datatrove.pipeline import filters
    from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupSignature
    from datatrove.pipeline.formatters import FTFYFormatter, PIIFormatter
    from datatrove.pipeline.readers import JsonlReader
    from tokenizers import Tokenizer
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import ByteLevel
    from tokenizers.trainers import BpeTrainer

    words = splitter()
    path = folder / "text" / "text.jsonl"
    peers = [
        filters.GopherRepetitionFilter(language=words),
        filters.GopherQualityFilter(language=words),
        filters.C4QualityFilter(language=words, filter_no_terminal_punct=False),
        filters.FineWebQualityFilter(language=words),
    ]
    signature = MinhashDedupSignature(str(folder / "signatures"), MinhashConfig(), language=words)
    tokenizer = train_tokenizer(rows[:300], 4096)
    fast = Tokenizer(BPE())
    fast.pre_tokenizer = ByteLevel(add_prefix_space=False)
    fast.train_from_iterator(rows[:300], BpeTrainer(vocab_size=4096, show_progress=False))

    def ours(step: Any) -> Callable[[], object]:
        return lambda: [step(Document(text, "a/b#0", meta={"language": "en"})) for text in rows]

    def theirs(*each: Any) -> Callable[[], object]:
        def run() -> None:
            for text in rows:
                document = Theirs(text=text, id="0")
                for step in each:
                    step.filter(document) if hasattr(step, "filter") else step.format(document.text)

        return run

    normalise, formatter = Normalise(), FTFYFormatter()
    return {
        "reading JSON Lines": (
            lambda: list(JsonLines(str(path)).read(path, print)),
            lambda: list(JsonlReader(str(path.parent)).run()),
        ),
        "Normalise / FTFYFormatter": (ours(normalise), theirs(formatter)),
        "Language": (ours(Language()), None),
        **{
            f"Quality, {rule}": (ours(Quality([rule])), theirs(peer))
            for rule, peer in zip(RULES, peers, strict=True)
        },
        "Quality, all four": (ours(Quality()), theirs(*peers)),
        "Duplicates, note / signature": (
            lambda: [note.note(Document(text)) for note in [Duplicates()] for text in rows],
            lambda: [signature.get_signature(signature.get_shingles(text)) for text in rows],
        ),
        "PersonalData / PIIFormatter": (ours(PersonalData()), theirs(PIIFormatter())),
        "encoding / tokenizers": (
            lambda: [tokenizer.encode(text) for text in rows],
            lambda: [fast.encode(text).ids for text in rows],
        ),
    }


def alternate(each: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Seconds of the processor, medians over rounds in which all have their turn."""
    taken: dict[str, list[float]] = {name: [] for name in each}
    for _ in range(rounds):
        for name, run in each.items():
            start = time.process_time()
            run()
            taken[name].append(time.process_time() - start)
    return {name: statistics.median(values) for name, values in taken.items()}


RECIPE = """
name: speed
sources:
  - {{class_path: JsonLines, init_args: {{path: {path}, name: text}}}}
steps:
  - class_path: Normalise
  - class_path: Language
  - class_path: Quality
  - class_path: Duplicates
  - class_path: RepeatedPassages
  - class_path: PersonalData
vocab_size: 4096
"""


def whole(folder: Path, workers: int) -> tuple[float, float]:
    """Seconds of `lm prepare`, and the most memory that a process of it held, in MiB."""
    recipe = folder / "recipe.yaml"
    recipe.write_text(RECIPE.format(path=folder / "text"), encoding="utf-8")
    data = folder / f"data-{workers}"
    command = [sys.executable, "-m", "lm.commands.prepare", str(recipe), "--data_dir", str(data)]
    start = time.perf_counter()
    subprocess.run([*command, "--engine.workers", str(workers)], check=True, capture_output=True)
    return time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--reviews", type=int, default=1500)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--copies", type=int, default=0, help="of the text, perturbed, for the whole alone")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="processes of the whole")
    args = parser.parse_args()
    rows = texts(args.reviews)
    size = sum(len(text.encode()) for text in rows)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "text").mkdir()
        for copy in range(max(args.copies, 1)):
            with (folder / "text" / (f"text-{copy}.jsonl" if args.copies else "text.jsonl")).open(
                "w"
            ) as file:
                for number, text in enumerate(rows):
                    choose, words = random.Random(f"{copy} {number}"), text.split(" ")
                    for at in choose.sample(range(len(words)), len(words) // 5 if copy else 0):
                        words[at] += str(copy)  # each copy has a fifth of its words for itself
                    file.write(json.dumps({"text": " ".join(words)}) + "\n")
        if args.copies:
            print(f"{size * args.copies / 1e6:,.0f} MB", flush=True)
            for workers in args.workers:
                seconds, memory = whole(folder, workers)
                speed = size * args.copies / 1e6 / seconds
                print(
                    f"{workers} processes: {seconds:.0f} s, {speed:.2f} MB/s, {memory:,.0f} MiB", flush=True
                )
            return
        print(f"{size / 1e6:.1f} MB, {len(rows):,} documents; {os.cpu_count()} cores", flush=True)
        for name, (ours, theirs) in steps(rows, folder).items():
            taken = alternate({"ours": ours} | ({"theirs": theirs} if theirs else {}), args.rounds)
            speed = {who: size / 1e6 / seconds for who, seconds in taken.items()}
            peer = f"{speed['theirs']:8.2f}  {speed['ours'] / speed['theirs']:6.1f}" if theirs else ""
            print(f"{name:32} {speed['ours']:8.2f} {peer}", flush=True)
        for workers in args.workers:
            seconds, _ = whole(folder, workers)
            print(f"lm prepare, {workers} processes: {size / 1e6 / seconds:.2f} MB/s, {seconds:.0f} s in all")


if __name__ == "__main__":
    main()
