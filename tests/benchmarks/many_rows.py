"""How much memory fine-tuning on a large table takes: 5,000,000 short labelled rows of CSV, a few steps.

    python tests/benchmarks/many_rows.py [ROWS]

Says the peak of a run on 1,000 rows, which is that of Python, torch and the model, and that of all rows.
On 2 cores with other work on them: 0.41 GiB, and 1.43 GiB in 564 seconds.
"""

import json
import os
import random
import resource
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

WORDS = ("the room was clean", "and staff", "kind", "food", "cold", "late", "but we", "would", "come again")


def write(path: Path, rows: int) -> None:
    choose = random.Random(0)
    with path.open("w") as file:
        file.write("text,label\n")
        for number in range(rows):
            file.write(f"{' '.join(choose.choices(WORDS, k=6))} {number},{'ab'[number % 2]}\n")


def fine_tune(path: Path, tokenizer: Path) -> None:
    from lightning.pytorch import Trainer

    from lm.backbone import BackboneConfig
    from lm.data import TextData
    from lm.tasks import SequenceClassification

    data = TextData(str(path), tokenizer=str(tokenizer), root=str(path.parent), seq_len=32, val_fraction=0.01)
    config = BackboneConfig(**data.shape(), hidden_size=64, num_layers=2, num_heads=2, causal=False)
    task = SequenceClassification(config)
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(max_steps=20, limit_val_batches=2, accelerator="cpu", **options)
    trainer.fit(task, data)


def measure(folder: Path, rows: int) -> dict[str, float]:
    """Peak memory in GiB and seconds, of a process of its own."""
    path = folder / f"{rows}.csv"
    write(path, rows)
    start = time.monotonic()
    command = [sys.executable, __file__, "--run", str(path), str(folder / "tokenizer.model")]
    found = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ).stdout
    return json.loads(found.splitlines()[-1]) | {"seconds": round(time.monotonic() - start)}


def main() -> None:
    if sys.argv[1:2] == ["--run"]:
        fine_tune(Path(sys.argv[2]), Path(sys.argv[3]))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(json.dumps({"peak_gib": round(peak, 2)}))
        return
    from lm.tokenizer import train_tokenizer

    with TemporaryDirectory() as name:
        train_tokenizer([" ".join(WORDS), *map(str, range(5000))], 340).save(Path(name) / "tokenizer.model")
        for rows in (1000, int(sys.argv[1]) if len(sys.argv) > 1 else 5_000_000):
            print(f"{rows:,} rows: {measure(Path(name), rows)}", flush=True)


if __name__ == "__main__":
    main()
