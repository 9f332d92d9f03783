"""What a small GPT remembers of secrets that its corpus holds 0, 1, 4, 16, 64 and 256 times, after one epoch.

    python tests/benchmarks/memorisation.py FOLDER [--corpus stdlib] [--canaries 10] [--epochs 0.9]
    python tests/benchmarks/memorisation.py FOLDER --batch_size 64 [--epsilon 8]

Prepares the corpus, trains gpt-nano (0.85 M parameters) with its own settings and audits it, all in FOLDER;
what is there already is not done again. Not quite a whole epoch, so that windows are left that were never
seen. Then whether it is as it should be: secrets that were never planted have the 1.44 bits of chance and are
not extracted; exposure grows with the times seen; of those planted 256 times at least 80% are extracted; and
windows that were seen once are hardly told from unseen ones. The last is asked again with seen and unseen
drawn by another lot, of which the model knows nothing: 0.5, unless the measurement itself is biased. With
`--epsilon` it is trained privately, and should remember nothing; its loss says at which price.
"""

import argparse
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from lm.audit.checks import Membership
from lm.audit.checks.exposure import CHANCE, rank_correlation
from lm.audit.history import History, run_of
from lm.audit.subject import Subject
from lm.data.corpus.canaries import REPETITIONS
from lm.data.corpus.shards import Corpus
from lm.predictor import load

SEQ_LEN = 128  # gpt-nano's
PRIVATE = "--trainer.callbacks+=lm.audit.PrivateTraining", "--trainer.callbacks.epsilon"


def command(folder: Path, *words: str) -> str:
    """What `lm` says on stdout, in that folder."""
    run = [sys.executable, "-m", "lm", *words]
    return subprocess.run(run, cwd=folder, check=True, stdout=subprocess.PIPE, text=True).stdout


def trained(folder: Path, corpus: Corpus, epochs: float, batch: int, epsilon: float | None) -> Path:
    """The run's last checkpoint; it is trained first, if it is not there."""
    windows = (len(corpus.split("train")) - SEQ_LEN) // SEQ_LEN
    steps, name = int(epochs * windows / batch), f"epochs-{epochs:g}-batch-{batch}"
    words = ["--data.corpus", str(corpus.folder.resolve()), f"--trainer.max_steps={steps}"]
    words += [f"--data.batch_size={batch}", f"--trainer.val_check_interval={steps}"]
    if epsilon is not None:
        name, words = f"{name}-epsilon-{epsilon:g}", [*words, *PRIVATE, str(epsilon)]
    command(folder, "fit", "gpt-nano", *words, "--name", name)
    return folder.resolve() / "checkpoints" / name / "last.ckpt"


def control(checkpoint: Path, corpus: Corpus) -> dict[str, Any]:
    """Membership's figures where the seed of the windows' order is another one than the model's."""
    run = run_of(checkpoint)
    history = History(replace(run, seed=run.seed + 1), corpus)
    return Membership().run(Subject(load(checkpoint), corpus, history=history)).figures


def main() -> None:
    """Print what was found, and what of it is not as it should be."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--corpus", default="stdlib")
    parser.add_argument("--canaries", type=int, default=10)
    parser.add_argument("--epochs", type=float, default=0.9)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--epsilon", type=float)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    words = ["prepare", args.corpus, "--vocab_size", "2048", "--canaries", str(args.canaries)]
    corpus = Corpus.open(args.folder / command(args.folder, *words).strip())
    checkpoint = trained(args.folder, corpus, args.epochs, args.batch_size, args.epsilon)
    words = ["audit", str(checkpoint), "--corpus", str(corpus.folder.resolve()), "--json"]
    report = json.loads(command(args.folder, *words, "--only", "exposure", "membership"))
    exposure, membership = (part["figures"] for part in report["checks"])

    def written(figure: dict[str, Any], factor: float = 1) -> str:
        low, high = (factor * figure[bound] for bound in ("low", "high"))
        return f"{factor * figure['value']:6.2f} ({low:.2f} to {high:.2f})"

    print(f"{'planted':>7}  {'bits of exposure':24}  % extracted")
    means = []
    for times in REPETITIONS:
        bits, hits = exposure[f"exposure_{times}"], exposure[f"extracted_{times}"]
        means.append(bits["value"])
        print(f"{times:7}  {written(bits):24}  {written(hits, 100)}")
    related, overall = exposure["rank_correlation"], rank_correlation(list(REPETITIONS), means)
    grows = overall.value if overall else 0.0
    print(f"rank correlation {written(related)}; of the means {grows:.2f}")
    other = control(checkpoint, corpus)
    for name in ("loss", "zlib", "min_k", "min_k_plus"):
        figure = other[f"auc/{name}"]
        print(
            f"AUC by {name:10}  {written(membership[f'auc/{name}'])}"
            f"   by another lot {figure.value:.2f} ({figure.low:.2f} to {figure.high:.2f})"
        )
    summary = json.loads(checkpoint.with_name("summary.json").read_text())
    print(f"held-out bits per byte {summary['bits_per_byte']:.3f}; {summary.get('private', 'not private')}")
    if args.epsilon is not None:
        most = exposure["exposure_256"]
        print(
            f"{'yes' if most['low'] < CHANCE < most['high'] else 'NO '}  256 repetitions: that of chance, too"
        )
        return
    chance, auc = exposure["exposure_0"], membership["auc/min_k_plus"]
    for what, right in {
        "0 repetitions: the exposure of chance": chance["low"] < CHANCE < chance["high"],
        "0 repetitions: none extracted": exposure["extracted_0"]["value"] == 0,
        "exposure grows with repetitions: rank correlation of the means above 0.9": grows > 0.9,
        "the same of each canary and the times seen above 0.9": related["value"] > 0.9,
        "256 repetitions: 80% extracted": exposure["extracted_256"]["value"] >= 0.8,
        "Min-K%++ is below 0.6 for windows seen once": auc["value"] < 0.6,
        "by another lot it is 0.5": other["auc/min_k_plus"].low < 0.5 < other["auc/min_k_plus"].high,
    }.items():
        print(f"{'yes' if right else 'NO '}  {what}")


if __name__ == "__main__":
    main()
