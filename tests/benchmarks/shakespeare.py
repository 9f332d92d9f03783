"""Tiny Shakespeare, ours against nanoGPT's documented run on a CPU, one after the other on the same machine.

    python tests/benchmarks/shakespeare.py --text input.txt --peer NANOGPT_FOLDER [--rounds 3] [--steps 100]

`--text` is the 1,115,394 characters of tiny Shakespeare. `--peer` is a checkout of nanoGPT; the text is laid
where its preparing script looks for it. Both are timed as whole commands, preparing included, in turn (ours,
theirs, ours, theirs …); both are measured on the last 10% of the text, which is ASCII, so that nats per
character / ln 2 are bits per byte. Without `--peer` ours runs alone.
"""

import argparse
import json
import math
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CONFIG = Path(__file__).resolve().parents[2] / "configs/pretrain/gpt-nano.yaml"
# The README's run for a CPU, word for word.
PEER = (
    "config/train_shakespeare_char.py --device=cpu --compile=False --eval_iters=20 --log_interval=1 "
    "--block_size=64 --batch_size=12 --n_layer=4 --n_head=4 --n_embd=128 --max_iters=2000 "
    "--lr_decay_iters=2000 --dropout=0.0"
)


def ours(text: Path, steps: int | None) -> tuple[float, float]:
    """Wall seconds and bits per byte of a whole fit in an empty folder, of as many steps as are given."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["fit", "--config", str(CONFIG), "--data.corpus", str(text), "--name", "shakespeare"]
        words += [f"--trainer.max_steps={steps}", f"--trainer.val_check_interval={steps}"] if steps else []
        begin = time.perf_counter()
        subprocess.run([sys.executable, "-m", "lm", *words], cwd=folder, check=True, capture_output=True)
        seconds = time.perf_counter() - begin
        summary = json.loads((Path(folder) / "checkpoints/shakespeare/summary.json").read_text())
    return seconds, summary["bits_per_byte"]


def theirs(text: Path, peer: Path) -> tuple[float, float]:
    """Wall seconds of preparing and training, bits per byte of the last estimate of its validation loss."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "peer"
        shutil.copytree(peer, root, ignore=shutil.ignore_patterns(".git", "out*"))
        shutil.copy(text, root / "data/shakespeare_char/input.txt")
        begin = time.perf_counter()
        prepare = [sys.executable, "data/shakespeare_char/prepare.py"]
        subprocess.run(prepare, cwd=root, check=True, capture_output=True)
        run = [sys.executable, "train.py", *PEER.split()]
        out = subprocess.run(run, cwd=root, check=True, capture_output=True, text=True).stdout
        seconds = time.perf_counter() - begin
    return seconds, float(re.findall(r"val loss ([\d.]+)", out)[-1]) / math.log(2)


def main() -> None:
    """Time both in turn and print every figure and the medians."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--peer", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--steps", type=int, help="of ours; what the configuration says where it is not given"
    )
    args = parser.parse_args()
    rows: dict[str, list[tuple[float, float]]] = {"ours": [], "theirs": []}
    for _ in range(args.rounds):
        for name in ("ours", "theirs") if args.peer else ("ours",):
            text = args.text.resolve()
            rows[name].append(ours(text, args.steps) if name == "ours" else theirs(text, args.peer.resolve()))
            seconds, bits = rows[name][-1]
            print(f"{name:7} {seconds:6.1f} s  {bits:.4f} bits per byte", flush=True)
    for name, figures in rows.items():
        if figures:
            seconds, bits = (statistics.median(column) for column in zip(*figures, strict=True))
            print(f"median of {name}: {seconds:.1f} s, {bits:.4f} bits per byte")
    if args.peer:
        ratios = [a[0] / b[0] for a, b in zip(rows["ours"], rows["theirs"], strict=True)]
        print(f"wall time ours / theirs, pair by pair: {', '.join(f'{r:.2f}' for r in ratios)}")


if __name__ == "__main__":
    main()
