"""Stands in for `lm fit` where a test is about the sweep: as it does, it keeps its state, goes on from it,
measures itself, and ends saved when it is asked to. What it learns is a formula: lr 0.01 is the best. With
STUB_WAITS a bad one waits in its middle to be asked to stop; with STUB_DEAF none hears it.

    python stub.py fit CONFIG --model.optimizer.lr=… --trainer.max_steps=… --name=…
"""

import json
import math
import os
import signal
import sys
import threading
import time
from pathlib import Path

options = dict(word[2:].split("=", 1) for word in sys.argv[1:] if word.startswith("--"))
rate, steps = float(options.get("model.optimizer.lr", 0.03)), int(options["trainer.max_steps"])
every = int(options["trainer.val_check_interval"])
folder = Path("checkpoints", options["name"])
folder.mkdir(exist_ok=True)
asked = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: asked.set())


def end_with_the_sweep() -> None:
    while os.read(int(os.environ["LM_SWEEP_PIPE"]), 1):
        pass
    asked.set()


def note(what: str) -> None:
    with Path("notes.txt").open("a") as file:
        file.write(f"{folder.name} {what}\n")


threading.Thread(target=end_with_the_sweep, daemon=True).start()
if options.get("data.corpus") == "none.txt":
    sys.exit("lm fit: no such file: none.txt")
if (folder / "summary.json").exists():
    note("again")
state = folder / "step"
done = int(state.read_text()) if state.exists() else 0
note(f"from {done}")
for step in range(done + 1, steps + 1):
    time.sleep(float(os.environ.get("STUB_SLEEP", "0.02")))
    if os.environ.get("STUB_WAITS") and rate >= 0.5 and step == steps // 2 + 1:
        asked.wait(20)  # however slow the machine is
    if step % every == 0 or step == steps:
        value = (math.log10(rate) + 2) ** 2 + 1 / step
        line = {
            "step": step,
            "figures": {"loss": value},
            "train_seconds": step / 50,
            "steps_per_second": 50.0,
        }
        with (folder / "validations.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
    partial = folder / "step.partial"
    partial.write_text(str(step))
    partial.replace(state)
    if asked.is_set() and step < steps and not os.environ.get("STUB_DEAF"):
        note(f"asked to stop at {step}")
        sys.exit(128 + signal.SIGTERM)
(folder / "summary.json").write_text(json.dumps({"finished": True}))
note("finished")
