"""What a teacher is worth: the same students with one and without, and beside their teachers.

    python tests/benchmarks/distillation.py sst2 FOLDER --model MINILM
    python tests/benchmarks/distillation.py gpt FOLDER

`sst2`: MiniLM of six layers is fine-tuned on SST-2; students begin as three of MiniLM's layers. They learn
from SST-2's labels; or from what the teacher says of its sentences and of more that have no label (as in
arXiv:1908.08962), out of IMDB's reviews. `gpt`: gpt-nano, and students of half its width on the same corpus,
by the same command but for the weights of what the teacher says. A run that is there is not trained again.

Differences are paired: over the test examples (windows), of the means over the seeds; the standard error is
theirs. Speeds are forward passes of the networks, in turns, medians. On one core that others used too, `sst2`
took about an hour and `gpt` twenty minutes; `--small` looks in minutes whether all of it works.
"""

import argparse
import json
import math
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import lm
from lm.tasks import SequenceClassification

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data"
NO_TEACHER = ("--model.weight", "0", "--model.hidden", "0")
MORE_TEXT = ("--model.weight", "1", "--trainer.max_epochs", "2", "--model.optimizer.lr", "2e-4")
SENTENCE_END = re.compile(r"(?<=[.!?])\s+|<br ?/?>")
PUNCTUATION = re.compile(r"n't\b|'(?:s|re|ve|ll|d|m)\b|\.\.\.|--|[^\w\s'.-]|\.$")
Row = dict[str, Any]


def run(*words: object) -> None:
    """One `lm` command, its last line shown where it fails."""
    done = subprocess.run(
        [sys.executable, "-m", "lm", *map(str, words)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        sys.exit(f"lm {' '.join(map(str, words))}\n{done.stderr[-1500:]}")


def letters(text: str) -> str:
    """A text without spaces and punctuation, to find it again where it is written in another way."""
    return "".join(filter(str.isalnum, text.lower()))


def more_text(folder: Path, count: int) -> Path:
    """A folder of SST-2's training part and of other sentences: the first and the last of IMDB's reviews,
    where people say what they think, written as SST-2's are (lower case, punctuation apart). None stands in
    SST-2. They are put down as label 0, which nobody reads: at weight 1 the teacher alone is heard."""
    if folder.exists():
        return folder
    parts = [(DATA / f"sst2/{part}.tsv").read_text(encoding="utf-8") for part in ("train", "dev", "test")]
    seen = {letters(line.partition("\t")[2]) for part in parts for line in part.splitlines()}
    found = []
    with tarfile.open(DATA / "imdb/aclImdb.tar.xz", "r|*") as archive:
        for member in archive:
            content = archive.extractfile(member) if "/train/" in member.name else None
            if content is None:
                continue
            split = SENTENCE_END.split(content.read().decode().lower())
            spaced = [PUNCTUATION.sub(r" \g<0> ", sentence).split() for sentence in split]
            fit = [" ".join(words) for words in spaced if 5 <= len(words) <= 40]
            for sentence in [*fit[:1], *fit[-1:]]:
                if letters(sentence) not in seen:
                    seen.add(letters(sentence))
                    found.append(f"0\t{sentence}\n")
    folder.mkdir()
    (folder / "imdb.tsv").write_text("".join(random.Random(0).sample(found, count)), encoding="utf-8")
    shutil.copy(DATA / "sst2/train.tsv", folder)
    return folder


def predictions(name: str) -> list[Row]:
    """What a run says of the test part, or of the held-out part of a corpus, row by row."""
    run("predict", f"checkpoints/{name}")
    lines = Path(f"checkpoints/{name}/predictions.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def compare(names: list[str], score: Callable[[Row], float], weight: Callable[[Row], float]) -> list[float]:
    """A figure of each row, the mean over runs that differ in their seed, divided by the mean weight."""
    runs = [predictions(name) for name in names]
    mean_weight = statistics.fmean(map(weight, runs[0]))
    return [statistics.fmean(map(score, rows)) / mean_weight for rows in zip(*runs, strict=True)]


def report(what: str, with_teacher: list[float], without: list[float], teacher: list[float]) -> None:
    """Print three figures, and how far they are apart with paired standard errors."""
    means = [statistics.fmean(each) for each in (teacher, without, with_teacher)]
    print(f"{what}: teacher {means[0]:.4f}, student without {means[1]:.4f}, with {means[2]:.4f}")
    for name, other in (("without", without), ("its teacher", teacher)):
        apart = [a - b for a, b in zip(with_teacher, other, strict=True)]
        error = statistics.stdev(apart) / math.sqrt(len(apart))
        print(f"  with against {name}: {statistics.fmean(apart):+.4f} ± {error:.4f} (paired, {len(apart)})")


@torch.inference_mode()
def speed(teacher: Callable[[], Any], student: Callable[[], Any], rounds: int) -> None:
    """Print how much faster one does the same work, in turns."""
    taken: list[tuple[float, float]] = []
    for _ in range(rounds + 1):
        marks = [time.perf_counter()]
        for work in (teacher, student):
            work()
            marks.append(time.perf_counter())
        taken.append((marks[1] - marks[0], marks[2] - marks[1]))
    ratio = statistics.median(a / b for a, b in taken[1:])
    print(f"  the student does {ratio:.2f} times as much in the same time (median of {rounds} turns)")


def sst2(args: argparse.Namespace, seeds: str) -> None:
    """MiniLM, six layers to three."""
    common = ["--data.root", DATA, "--model.init_from", args.model]
    common += ["--data.limit", 400, "--trainer.max_epochs", 1] if args.small else ["--trainer.max_epochs", 3]
    run("fit", "sst2", *common, "--name", "teacher")
    student = ["fit", "sst2-distil", *common, "--model.teacher", "checkpoints/teacher", "--seeds", seeds]
    more = ["--data.train", more_text(Path("text"), 200 if args.small else 16_000), *MORE_TEXT]
    for name, options in (("with", [*more, *args.options.split()]), ("without", NO_TEACHER)):
        run(*student, *options, "--name", name)
    found = [
        compare(names, lambda row: float(row["prediction"] == row["label"]), lambda row: 1.0)
        for names in ([f"{kind}/seed-{s}" for s in seeds.split(",")] for kind in ("with", "without"))
    ]
    teacher = compare(["teacher"], lambda row: float(row["prediction"] == row["label"]), lambda row: 1.0)
    report("SST-2, accuracy on the test part", *found, teacher)
    texts = [row["text"] for row in predictions("teacher")][:512]

    def work(path: str) -> Callable[[], Any]:
        task = SequenceClassification.load(path)
        lines = sorted((task.tokenizer.frame(task.tokenizer.encode(t)[:62])[0] for t in texts), key=len)
        batches = [task.collate([{"tokens": t} for t in lines[n : n + 32]]) for n in range(0, len(lines), 32)]
        return lambda: [task.logits(batch) for batch in batches]

    first = seeds.partition(",")[0]
    speed(work("checkpoints/teacher"), work(f"checkpoints/with/seed-{first}"), args.rounds)


def gpt(args: argparse.Namespace, seeds: str) -> None:
    """gpt-nano, and half its width."""
    common = ["--trainer.max_steps", 30, "--trainer.val_check_interval", 30] if args.small else []
    run("fit", "gpt-nano", *common, "--name", "gpt")
    student = ["fit", "gpt-nano-distil", *common, "--model.teacher", "checkpoints/gpt", "--seeds", seeds]
    for name, options in (("gpt-without", NO_TEACHER), ("gpt-with", args.options.split())):
        run(*student, *options, "--name", name)

    def bits(row: Row) -> float:
        return row["loss"] * row["tokens"] / math.log(2)

    found = [
        compare(names, bits, lambda row: float(row["bytes"]))
        for names in ([f"gpt-{kind}/seed-{s}" for s in seeds.split(",")] for kind in ("with", "without"))
    ]
    report("GPT, bits per byte held out", *found, compare(["gpt"], bits, lambda row: float(row["bytes"])))
    tokens = torch.randint(0, 2000, (16, 128), generator=torch.Generator().manual_seed(0))
    first = seeds.partition(",")[0]
    nets = [lm.load(f"checkpoints/{n}").model.network for n in ("gpt", f"gpt-with/seed-{first}")]
    speed(lambda: nets[0](tokens), lambda: nets[1](tokens), args.rounds)


def main() -> None:
    """Train and measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["sst2", "gpt"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", type=Path, help="MiniLM's Hugging Face folder")
    parser.add_argument("--options", default="", help="of the students with a teacher, in one word")
    parser.add_argument("--rounds", type=int, default=9, help="turns of the speed")
    parser.add_argument("--small", action="store_true", help="a slice: does it work?")
    args = parser.parse_args()
    if args.what == "sst2" and args.model is None:
        parser.error("give --model, MiniLM's folder")
    args.model = args.model and args.model.resolve()
    args.folder.mkdir(parents=True, exist_ok=True)
    os.chdir(args.folder)
    torch.set_num_threads(1)
    {"sst2": sst2, "gpt": gpt}[args.what](args, "0,1" if args.small else "0,1,2")


if __name__ == "__main__":
    main()
