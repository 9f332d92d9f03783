"""The README.md of an exported model: what its checkpoint knows of it."""

from pathlib import Path

from lm.checkpoint import Model, identity
from lm.convert.family import Family
from lm.files import beside

# What transformers calls the use of an architecture, by its name's end.
_USES = {
    "ForMaskedLM": "fill-mask",
    "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification",
    "ForQuestionAnswering": "question-answering",
    "ForImageClassification": "image-classification",
    "ForImageClassificationWithTeacher": "image-classification",
    "ForAudioClassification": "audio-classification",
}


def use_of(architecture: str) -> str:
    """The name of the pipeline that an architecture goes into."""
    return next((use for end, use in _USES.items() if architecture.endswith(end)), "text-generation")


def audited(model: Model) -> str:
    """The section of the card that `lm audit` has left; empty where there is none of these very weights."""
    path: Path = beside(model.source, "audit") / "card.md"
    if not path.is_file():
        return ""
    whose, _, section = path.read_text(encoding="utf-8").partition("\n")
    return f"\n{section}" if identity(model) in whose else ""


def model_card(name: str, family: Family, architecture: str, model: Model, notes: list[str]) -> str:
    """The text in Markdown.

    Args:
        name: what the folder is called.
        notes: sentences that a user of the model should know.
    """
    record, use, listed = model.record, use_of(architecture), "".join(f"- {note}\n" for note in notes)
    figures = "The checkpoint has none."
    if known := record.get("figures"):
        rows = [f"| {key} | {value:.6g} |" for key, value in sorted(known.items())]
        figures = "\n".join(("At the time of the checkpoint:", "", "| figure | value |", "|---|---|", *rows))
    training = "The checkpoint does not say what it was trained on: write it here."
    if configuration := record.get("configuration"):
        whole = str(configuration).rstrip()
        training = f"The run's whole configuration, data included:\n\n```yaml\n{whole}\n```"
    trained = ""
    if "version" in record:
        trained = f", trained with lm {record['version']} for {model.step:,} steps by `{record['task']}`"
    labels = ", ".join(f"`{label}`" for label in record.get("labels") or ())
    named = f"\n## Labels\n\n{labels}\n" if labels else ""
    return f"""---
library_name: transformers
pipeline_tag: {use}
---

# {name}

A {family.name} model ({architecture}) of {model.network.num_parameters():,} parameters{trained}.

{listed}
## Use

```python
from transformers import pipeline

model = pipeline("{use}", model="{name}")
```

## Figures

{figures}
{named}{audited(model)}
## Training

{training}

## Licence

To be named by whoever publishes this model: it depends on the texts that it was trained on.
"""
