"""What a fine-tuned model has to beat: always the commonest label of the training part; of summaries, the
text's first three lines, and one sentence for all.

    python tests/benchmarks/baselines.py configs/finetune/tnews.yaml
"""

import sys
from collections import Counter
from pathlib import Path

import yaml

import lm.data
from lm.metrics import SummaryScores

ONE_FOR_ALL = "#Person1# tells #Person2# about the #Person1#'s and #Person2# wants to."


def main() -> None:
    """Print the figures on the test part, where there is one, else on the held-out part."""
    described = yaml.safe_load(Path(sys.argv[1]).read_text(encoding="utf-8"))["data"]
    data = getattr(lm.data, described["class_path"].rpartition(".")[2])(**described["init_args"])
    part = "test" if data.has("test") else "val"
    examples = data.examples(part)
    if isinstance(data, lm.data.TextData):
        (label, _), *_ = Counter(example.label for example in data.examples("train")).most_common(1)
        right = sum(example.label == label for example in examples)
        print(f"always {label!r}: accuracy {right / len(examples):.4f} of {len(examples):,} {part} examples")
    elif isinstance(data, lm.data.ChatData):
        asked = [example.messages[-2].content.splitlines() for example in examples]
        references = [[e.messages[-1].content, *e.references] for e in examples]
        for name, written in (
            ("the first three lines", ["\n".join(lines[:3]) for lines in asked]),
            (f"always {ONE_FOR_ALL!r}", [ONE_FOR_ALL] * len(asked)),
        ):
            scores = SummaryScores()
            scores.update(written, references)
            print(f"{name}:", ", ".join(f"{k} {float(v):.2f}" for k, v in scores.compute().items()))
    else:
        sys.exit(f"{type(data).__name__} has no baseline but a model that is not trained")


if __name__ == "__main__":
    main()
