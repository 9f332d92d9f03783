"""What pretraining without labels is worth where labels are few: the same classifier from nothing, and from
`cifar10-masked` or `sounds-masked`.

    python tests/benchmarks/masked_gain.py pictures FOLDER --json pictures.json
    python tests/benchmarks/masked_gain.py sounds FOLDER --labels 10 50 --seeds 3

For each seed the network is pretrained once on everything but the test part, without a label. Then `cifar10`
or `fsdd` learns so many files of each class, drawn by the seed, as many steps and with the same options both
ways. It is measured by its last weights on the whole test part: nothing is held out, nothing is chosen. The
difference is paired by the seeds, its standard error is over them. A run that is there is not trained again:
other options want another folder. `--small` looks in minutes whether all of it works.
"""

import argparse
import json
import math
import os
import random
import re
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from lm.data.media.places import places

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data"


class Kind(NamedTuple):
    """What is learned.

    Args:
        pretraining, classifier: the configurations.
        archive: of the files.
        label: a pattern whose group in a file's name is its label.
        test: one that the names of the test part have.
    """

    pretraining: str
    classifier: str
    archive: str
    label: str
    test: str


KINDS = {
    "pictures": Kind(
        "cifar10-masked", "cifar10", "cifar10/cifar10_subset.tar", r"(\w+)/\d+\.jpg$", r"^test/"
    ),
    "sounds": Kind("sounds-masked", "fsdd", "fsdd/recordings.tar.gz", r"(\d)_\w+_\d+\.wav$", r"_theo_"),
}


def fit(name: str, *words: object) -> dict[str, float]:
    """The figures of one `lm fit`, its last lines shown where it fails."""
    summary = Path(f"checkpoints/{name}/summary.json")
    if not summary.exists():
        done = subprocess.run(
            [sys.executable, "-m", "lm", "fit", *map(str, words), "--name", name],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
        if done.returncode:
            sys.exit(f"lm fit {' '.join(map(str, words))}\n{done.stderr[-1500:]}")
    return json.loads(summary.read_text(encoding="utf-8"))


def write_table(path: Path, names: Iterable[str], label: str) -> Path:
    """A table of files with their labels, for `lm fit`."""
    rows = ({"path": name, "label": re.search(label, name)[1]} for name in names)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path.resolve()


def few(names: list[str], label: str, count: int, seed: int) -> list[str]:
    """So many names of each label; of fewer all stand among those of more."""
    of_label = defaultdict(list)
    for name in sorted(names):
        of_label[re.search(label, name)[1]].append(name)
    rng = random.Random(seed)
    return [name for found in of_label.values() for name in rng.sample(found, len(found))[:count]]


def report(count: int, plain: list[float], gained: list[float]) -> None:
    """Print accuracies of both, and how far they are apart."""
    apart = [b - a for a, b in zip(plain, gained, strict=True)]
    error = statistics.stdev(apart) / math.sqrt(len(apart)) if len(apart) > 1 else math.nan
    lists = [", ".join(f"{value:.4f}" for value in values) for values in (plain, gained)]
    print(f"{count} labels a class: from nothing {lists[0]}; pretrained {lists[1]}")
    means = f"{statistics.fmean(plain):.4f} and {statistics.fmean(gained):.4f}"
    print(f"  means {means}, difference {statistics.fmean(apart):+.4f} ± {error:.4f}", flush=True)


def main() -> None:
    """Pretrain, train and measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--labels", type=int, nargs="+", default=[10, 50], help="of each class")
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    parser.add_argument("--steps", type=int, default=500, help="of a classifier")
    parser.add_argument("--batch_size", type=int, default=32, help="of a classifier")
    parser.add_argument("--options", default="", help="of all runs, in one word")
    parser.add_argument("--pretraining", default="", help="options of the pretraining, in one word")
    parser.add_argument("--small", action="store_true", help="a few steps: does it work?")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    result = args.json and args.json.resolve()
    args.folder.mkdir(parents=True, exist_ok=True)
    os.chdir(args.folder)
    kind = KINDS[args.kind]
    common = ["--data.root", DATA, *args.options.split()]
    pretraining = args.pretraining.split()
    if args.small:
        args.steps = 3
        pretraining += ["--trainer.max_steps", 3, "--trainer.limit_val_batches", 1]
        common += ["--trainer.limit_test_batches", 2]
    archive, endings = str(DATA / kind.archive), (".jpg", ".wav")
    names = [each.name for each in places(archive, lambda name: name.endswith(endings), Path("data"))]
    tested = [name for name in names if re.search(kind.test, name)]
    learned = sorted(set(names) - set(tested))
    test = write_table(Path(f"{args.kind}-test.jsonl"), tested, kind.label)
    found: dict[int, tuple[list[float], list[float]]] = {count: ([], []) for count in args.labels}
    for seed in range(args.seeds):
        seeded = [*common, "--seed_everything", seed]
        start = f"{args.kind}-pretrained-{seed}"
        loss = fit(start, kind.pretraining, *seeded, *pretraining)["best_val_loss"]
        print(f"seed {seed}: pretrained to a loss of {loss:.4f}", flush=True)
        for count, accuracies in found.items():
            rows = few(learned, kind.label, count, seed)
            table = write_table(Path(f"{args.kind}-{count}-{seed}.jsonl"), rows, kind.label)
            words = [*seeded, "--data.train", table, "--data.val", table, "--data.test", test]
            words += ["--data.files", kind.archive, "--data.label_from", "null", "--data.group_from", "null"]
            words += ["--data.test_groups", "null", "--data.batch_size", args.batch_size]
            words += ["--trainer.max_steps", args.steps, "--trainer.val_check_interval", args.steps]
            for way, more in enumerate(([], ["--model.init_from", f"checkpoints/{start}"])):
                name = f"{args.kind}-{count}-{'pretrained' if more else 'plain'}-of-{seed}"
                accuracies[way].append(fit(name, kind.classifier, *words, *more)["test_accuracy"])
    for count, accuracies in found.items():
        report(count, *accuracies)
    if result:
        result.write_text(json.dumps({"kind": args.kind, "accuracies": found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
