"""The README.md of an exported model: what its checkpoint knows of it."""

from typing import Any

from lm.convert.family import Family

# What transformers calls the use of an architecture, by its name's end.
_USES = {
    "ForMaskedLM": "fill-mask",
    "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification",
    "ForQuestionAnswering": "question-answering",
}


def use_of(architecture: str) -> str:
    """The name of the pipeline that an architecture goes into."""
    return next((use for end, use in _USES.items() if architecture.endswith(end)), "text-generation")


def model_card(
    name: str,
    family: Family,
    architecture: str,
    record: dict[str, Any],
    step: int,
    parameters: int,
    notes: list[str],
) -> str:
    """The text in Markdown.

    Args:
        name: what the folder is called.
        record: of the checkpoint.
        notes: sentences that a user of the model should know.
    """
    use = use_of(architecture)
    lines = [
        "---",
        "library_name: transformers",
        f"pipeline_tag: {use}",
        "---",
        "",
        f"# {name}",
        "",
        f"A {family.name} model ({architecture}) of {parameters:,} parameters, trained with lm "
        f"{record.get('version', '')} for {step:,} steps by `{record.get('task', 'an unknown task')}`.",
        "",
        *(f"- {note}" for note in notes),
        "",
        "## Use",
        "",
        "```python",
        "from transformers import pipeline",
        "",
        f'model = pipeline("{use}", model="{name}")',
        "```",
        "",
        "## Figures",
        "",
    ]
    figures = record.get("figures") or {}
    if figures:
        lines += ["At the time of the checkpoint:", "", "| figure | value |", "|---|---|"]
        lines += [f"| {key} | {value:.6g} |" for key, value in sorted(figures.items())]
    else:
        lines.append("The checkpoint has none.")
    if labels := record.get("labels"):
        lines += ["", "## Labels", "", ", ".join(f"`{label}`" for label in labels)]
    lines += ["", "## Training", ""]
    configuration = record.get("configuration")
    if configuration:
        lines += ["The run's whole configuration, data included:", "", "```yaml"]
        lines += [str(configuration).rstrip(), "```"]
    else:
        lines.append("The checkpoint does not say what it was trained on: write it here.")
    lines += [
        "",
        "## Licence",
        "",
        "To be named by whoever publishes this model: it depends on the texts that it was trained on.",
        "",
    ]
    return "\n".join(lines)
