"""`lm eval` beside the harness's own model for Hugging Face folders: the same figures, and how fast.

    python tests/benchmarks/evaluation.py ../shared/data/stories260K-hf
    python tests/benchmarks/evaluation.py SMOLLM2 --limit 400      # a folder by tests/benchmarks/smollm2.py

Each example's log-likelihood of both, by batches of 1, 16 and by lengths (`none`), on the tasks that ship.
`--exact` does it once more in float64: whose rounding is it?
"""

import argparse
import time
from pathlib import Path
from typing import Any

import lm
from lm.evaluation.tasks import harness, load_tasks

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
TASKS = ["local_arc_easy", "local_winogrande", "local_lambada"]


def measured(model: Any, limit: int | None) -> tuple[dict[str, Any], float]:
    """The harness's results with a model, and seconds."""
    from lm_eval.evaluator import evaluate

    tasks = load_tasks(TASKS, str(DATA))
    start = time.perf_counter()
    return evaluate(lm=model, task_dict=tasks, limit=limit, bootstrap_iters=0), time.perf_counter() - start


def worst(a: dict[str, Any], b: dict[str, Any]) -> str:
    """The largest difference of a log-likelihood."""
    pairs = (
        (float(left[0][0]), float(right[0][0]))
        for task in TASKS
        for x, y in zip(a["samples"][task], b["samples"][task], strict=True)
        for left, right in zip(x["resps"], y["resps"], strict=True)
    )
    return f"{max(abs(left - right) for left, right in pairs):.1e}"


def main() -> None:
    """Measure both."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--exact", action="store_true")
    parser.add_argument("--batches", nargs="+", default=["1", "16", "none"])
    args = parser.parse_args()
    harness()
    from lm_eval.models.huggingface import HFLM

    from lm.evaluation.harness import HarnessModel

    model = lm.load(args.model)
    begins = bool(model.tokenizer.opening)  # a Llama's texts begin with <s>: HFLM has to be told
    peer = HFLM(
        pretrained=args.model, batch_size=16, add_bos_token=begins or None, dtype="float32", device="cpu"
    )
    theirs, seconds = measured(peer, args.limit)
    print(f"HFLM, batches of 16: {seconds:.0f} s", flush=True)
    exact = None
    if args.exact:
        double = HFLM(
            pretrained=args.model, batch_size=16, add_bos_token=begins or None, dtype="float64", device="cpu"
        )
        exact, _ = measured(double, args.limit)
        print(f"HFLM less its own in float64: {worst(theirs, exact)}", flush=True)
    for batch in args.batches:
        size = None if batch == "none" else int(batch)
        ours, own = measured(HarnessModel(model, size), args.limit)
        print(f"ours, batches {batch}: {own:.0f} s, {seconds / own:.2f} times as fast", flush=True)
        if exact is not None:
            print(f"ours less HFLM's in float64: {worst(ours, exact)}", flush=True)
        for task in TASKS:
            pairs = [
                (float(a[0][0]), float(b[0][0]))
                for x, y in zip(ours["samples"][task], theirs["samples"][task], strict=True)
                for a, b in zip(x["resps"], y["resps"], strict=True)
            ]
            most = max(abs(a - b) for a, b in pairs)
            relative = max(abs(a - b) / abs(b) for a, b in pairs)
            scores = {
                key.partition(",")[0]: (round(value, 4), round(theirs["results"][task][key], 4))
                for key, value in ours["results"][task].items()
                if "," in key and "stderr" not in key
            }
            print(f"  {task}: {len(pairs):,} texts, largest difference {most:.1e} ({relative:.0e}), {scores}")


if __name__ == "__main__":
    main()
