"""SST-2 from the same weights by `lm fit` and by transformers' own class, in turn: same data, steps, batch
size, learning rate and schedule.

    python tests/benchmarks/sst2_peer.py --data data/sst2 --model MODEL --seeds 0 1 2
"""

import argparse
import json
import random
import subprocess
import sys
import time
from pathlib import Path
from statistics import mean, stdev

CONFIG = Path(__file__).resolve().parents[2] / "configs/finetune/sst2.yaml"
BATCH, EVAL_BATCH, EPOCHS, RATE, DECAY, WARMUP, LENGTH = 32, 64, 1, 1e-4, 0.01, 60, 64


def rows(path: Path) -> tuple[list[str], list[int]]:
    """Sentences and labels of a file with a label, a tab and a sentence on each line."""
    pairs = [line.split("\t", 1) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    return [text for _, text in pairs], [int(label) for label, _ in pairs]


def ours(args: argparse.Namespace, seed: int) -> dict[str, float]:
    """One run of `lm fit`."""
    name = f"sst2-peer-{seed}-{time.time_ns()}"
    words = ["fit", "--config", CONFIG, "--model.init_from", args.model, "--seed_everything", seed]
    words += ["--data.train", args.data / "train.tsv", "--data.val", args.data / "dev.tsv"]
    words += ["--data.test", args.data / "test.tsv", "--data.seed", seed, "--name", name]
    subprocess.run([sys.executable, "-m", "lm", *map(str, words)], check=True, capture_output=True)
    summary = json.loads(Path("checkpoints", name, "summary.json").read_text())
    examples = summary["steps"] * BATCH
    return {
        "accuracy": summary["test_accuracy"],
        "examples_per_second": examples / summary["train_seconds"],
        "steps": summary["steps"],
    }


def theirs(args: argparse.Namespace, seed: int) -> dict[str, float]:
    """transformers' BertForSequenceClassification, a plain loop, batches of like length as ours has them; the
    epoch with the best accuracy on the held-out part is tested."""
    import torch
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        get_linear_schedule_with_warmup,
    )

    torch.manual_seed(seed)
    random.seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model = AutoModelForSequenceClassification.from_pretrained(args.model, num_labels=2)
    parts = {}
    for part in ("train", "dev", "test"):
        texts, labels = rows(args.data / f"{part}.tsv")
        parts[part] = tokenizer(texts, truncation=True, max_length=LENGTH)["input_ids"], labels

    def batch(part: str, chosen: list[int]) -> dict:
        """Some examples of a part, padded."""
        ids, labels = parts[part]
        made = tokenizer.pad({"input_ids": [ids[i] for i in chosen]}, return_tensors="pt")
        return {**made, "labels": torch.tensor([labels[i] for i in chosen])}

    @torch.no_grad()
    def accuracy(part: str) -> float:
        """Of the whole part."""
        model.eval()
        order = sorted(range(len(parts[part][1])), key=lambda i: -len(parts[part][0][i]))
        hits = 0
        for start in range(0, len(order), EVAL_BATCH):
            made = batch(part, order[start : start + EVAL_BATCH])
            hits += int((model(**made).logits.argmax(-1) == made["labels"]).sum())
        model.train()
        return hits / len(order)

    count = len(parts["train"][1])
    steps = count // BATCH * EPOCHS
    vectors = [p for p in model.parameters() if p.ndim < 2]
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    groups = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=RATE, weight_decay=DECAY)
    schedule = get_linear_schedule_with_warmup(optimizer, WARMUP, steps)
    model.train()
    seconds, best, weights = 0.0, -1.0, {}
    for _ in range(EPOCHS):
        order = random.sample(range(count), count)
        pools = [order[i : i + 64 * BATCH] for i in range(0, count, 64 * BATCH)]
        order = [i for pool in pools for i in sorted(pool, key=lambda i: len(parts["train"][0][i]))]
        starts = [i * BATCH for i in range(count // BATCH)]
        began = time.perf_counter()
        for start in random.sample(starts, len(starts)):
            model(**batch("train", order[start : start + BATCH])).loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        seconds += time.perf_counter() - began
        held_out = accuracy("dev")
        if held_out > best:
            best, weights = held_out, {k: v.clone() for k, v in model.state_dict().items()}
    model.load_state_dict(weights)
    return {"accuracy": accuracy("test"), "examples_per_second": steps * BATCH / seconds, "steps": steps}


def main() -> None:
    """Run the pairs and print them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args = parser.parse_args()
    found: dict[str, list[dict[str, float]]] = {"lm": [], "transformers": []}
    for seed in args.seeds:
        for name, run in (("lm", ours), ("transformers", theirs)):
            found[name].append(run(args, seed))
            print(seed, name, found[name][-1], flush=True)
    for name, runs in found.items():
        values = [run["accuracy"] for run in runs]
        error = stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
        speed = mean(run["examples_per_second"] for run in runs)
        print(f"{name}: accuracy {mean(values):.4f} ± {error:.4f} (standard error), {speed:.1f} examples/s")


if __name__ == "__main__":
    main()
