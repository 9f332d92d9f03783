"""IMDB without foreign weights: a BERT and a GPT pretrained on the reviews' own text, then fine-tuned, side
by side, each on one core. With `--nothing`, the same fine-tuning from nothing afterwards: what it gains.

    python tests/benchmarks/reviews.py --archive data/imdb/aclImdb.tar.xz --nothing
"""

import argparse
import json
import os
import subprocess
import sys
import tarfile
import time
from pathlib import Path

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
TEXTS = Path("data/reviews")
PRETRAIN = {
    "bert": [
        "--model.backbone.num_layers",
        "3",
        "--model.backbone.qk_norm",
        "true",
        "--trainer.max_steps",
        "2000",
    ],
    "gpt": ["--trainer.max_steps", "1600"],
}
SHARED = ["--data.corpus", str(TEXTS), "--data.vocab_size", "6000", "--data.batch_size", "32"]


def extract(archive: Path) -> None:
    """The training reviews' texts, without their labels, as JSON Lines."""
    TEXTS.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive) as tar, (TEXTS / "train.jsonl").open("w", encoding="utf-8") as out:
        for member in tar:
            if "/train/" in member.name and member.name.endswith(".txt"):
                text = tar.extractfile(member).read().decode("utf-8").replace("<br />", "\n")
                out.write(json.dumps({"text": text}) + "\n")


def start(words: list[str], log: str) -> subprocess.Popen:
    """`lm` on one core."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with Path(log).open("w") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "lm", *words], env=environment, stdout=file, stderr=file
        )


def both(words: dict[str, list[str]], name: str) -> dict[str, dict]:
    """One run for each model, at the same time; their summaries."""
    running = {
        kind: start([*w, "--name", f"{name}-{kind}"], f"{name}-{kind}.log") for kind, w in words.items()
    }
    for kind, process in running.items():
        if process.wait():
            sys.exit(f"{name}-{kind} failed: see {name}-{kind}.log")
    return {k: json.loads(Path("checkpoints", f"{name}-{k}", "summary.json").read_text()) for k in running}


def main() -> None:
    """Run it and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--archive", type=Path, required=True)
    parser.add_argument("--nothing", action="store_true")
    args = parser.parse_args()
    extract(args.archive)
    tuning = ["fit", "--config", str(CONFIGS / "finetune/imdb-nano.yaml")]
    for part in ("train", "val", "test"):
        tuning += [f"--data.{part}", f"{args.archive}!data/aclImdb/{part}"]
    began = time.perf_counter()
    first = both(
        {
            k: ["fit", "--config", str(CONFIGS / f"pretrain/{k}-nano.yaml"), *SHARED, *w]
            for k, w in PRETRAIN.items()
        },
        "reviews",
    )
    second = both(
        {k: [*tuning, "--model.init_from", f"checkpoints/reviews-{k}/best.ckpt"] for k in PRETRAIN}, "imdb"
    )
    minutes = (time.perf_counter() - began) / 60
    for kind, summary in second.items():
        print(
            f"{kind}: pretraining {first[kind]['wall_seconds']:.0f} s, "
            f"{first[kind]['bits_per_byte']:.3f} bits per byte; fine-tuning and test "
            f"{summary['wall_seconds']:.0f} s, test accuracy {summary['test_accuracy']:.4f}"
        )
    print(f"all of it: {minutes:.1f} minutes of 2 cores")
    if args.nothing:
        causal = {"bert": "false", "gpt": "true"}
        third = both({k: [*tuning, "--model.backbone.causal", c] for k, c in causal.items()}, "nothing")
        for kind, summary in third.items():
            print(f"{kind} from nothing: test accuracy {summary['test_accuracy']:.4f}")


if __name__ == "__main__":
    main()
