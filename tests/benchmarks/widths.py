"""Whether the best learning rate of a narrow model is that of a wider one: with `base_width` and without.

    python tests/benchmarks/widths.py FOLDER
    python tests/benchmarks/widths.py FOLDER --base_width 64

Models of three widths (three layers, heads of 32, otherwise as gpt-nano) learn the standard library for 200
steps of 1,024 tokens, at each of five rates that are a factor of two apart, in fp32: by torch.optim.AdamW
with one rate and Muon's betas, and by Muon, whose `adamw_lr` is a sixth of its `lr` as in gpt-nano. All have
the same windows, seed and schedule. Printed is the loss on the same 32,768 held-out tokens.

FOLDER gets the corpus and the losses; a run whose loss is there is not done again. On one core the first
line takes about a quarter of an hour.
"""

import argparse
import json
import logging
import warnings
from functools import partial
from pathlib import Path

from lightning.pytorch import Trainer, seed_everything
from torch.optim import AdamW

from lm.backbone import BackboneConfig
from lm.data import PretrainingData
from lm.optim import Muon, WarmupStableDecay
from lm.tasks import CausalPretraining

WIDTHS = (64, 128, 256)
RATES = {"AdamW": [2.0**-k for k in range(12, 7, -1)], "Muon": [2.0**-k for k in range(7, 2, -1)]}
STEPS = 200


def loss_of(optimizer: str, rate: float, width: int, base: int | None, data_dir: str) -> float:
    """Held-out nats per token at the end of a run."""
    seed_everything(0, verbose=False)
    data = PretrainingData(vocab_size=2048, seq_len=128, batch_size=8, data_dir=data_dir)
    shape = {"num_layers": 3, "num_heads": width // 32, "mlp": "relu2", "qk_norm": True}
    shape |= {"residual_init": "zero", "hidden_size": width, "base_width": base, **data.shape()}
    adamw = partial(AdamW, lr=rate, betas=(0.9, 0.95))
    muon = partial(Muon, lr=rate, adamw_lr=rate / 6)
    task = CausalPretraining(
        BackboneConfig(**shape),
        optimizer=muon if optimizer == "Muon" else adamw,
        schedule=WarmupStableDecay(20, 0.6),
    )
    trainer = Trainer(
        accelerator="cpu",
        max_steps=STEPS,
        gradient_clip_val=1.0,
        val_check_interval=STEPS,
        limit_val_batches=32,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(task, data)
    return float(trainer.callback_metrics["val/loss"])


def lowest(losses: dict[float, float]) -> float:
    """The rate at the bottom of a parabola through the best one and its neighbours, over the logarithm."""
    rates = sorted(losses)
    at = min(max(rates.index(min(losses, key=losses.__getitem__)), 1), len(rates) - 2)
    left, middle, right = (losses[rate] for rate in rates[at - 1 : at + 2])
    return rates[at] * 2 ** ((left - right) / 2 / (left - 2 * middle + right))


def main() -> None:
    """Print the losses, the best rates, and what the narrowest model's best one is worth elsewhere."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--base_width", type=int, default=WIDTHS[-1])
    given = parser.parse_args()
    folder: Path = given.folder
    folder.mkdir(parents=True, exist_ok=True)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    file = folder / "losses.json"
    known: dict[str, float] = json.loads(file.read_text()) if file.exists() else {}
    for optimizer, rates in RATES.items():
        for base in (given.base_width, None):
            table: dict[int, dict[float, float]] = {width: {} for width in WIDTHS}
            for width, rate in ((width, rate) for width in WIDTHS for rate in rates):
                # At its own width the option does nothing.
                name = f"{optimizer} {width} {rate:g} {base if width != base else None}"
                if name not in known:
                    known[name] = loss_of(optimizer, rate, width, base, str(folder))
                    file.write_text(json.dumps(known, indent=1))
                table[width][rate] = known[name]
            print(f"\n{optimizer}, base_width {base}\n| rate | " + " | ".join(map(str, WIDTHS)) + " |")
            print("|---|" + "---|" * len(WIDTHS))
            for rate in rates:
                print(f"| {rate:.5f} | " + " | ".join(f"{table[w][rate]:.4f}" for w in WIDTHS) + " |")
            first = min(table[WIDTHS[0]], key=table[WIDTHS[0]].__getitem__)
            for width, losses in table.items():
                print(
                    f"width {width}: {min(losses.values()):.4f}, best rate {lowest(losses):.5f} (parabola); "
                    f"with the one of {WIDTHS[0]} in the table {losses[first] - min(losses.values()):+.4f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
