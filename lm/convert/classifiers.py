"""Classifiers, taggers and finders of answers in a Hugging Face folder, both ways: which head of ours
an architecture has, and what config.json says of the labels."""

from dataclasses import asdict, replace
from typing import Any

from torch import Tensor

from lm.backbone import BackboneConfig, Classifier
from lm.checkpoint import Model
from lm.convert.family import Family, Part
from lm.convert.fields import Fields
from lm.errors import UserError

# Our kinds of heads, and the tasks that use them, by how architectures end.
_ENDS = {
    "ForSequenceClassification": ("pooled", "SequenceClassification"),
    "ForTokenClassification": ("tokens", "TokenClassification"),
    "ForQuestionAnswering": ("span", "QuestionAnswering"),
    "ForImageClassification": ("pooled", "ImageClassification"),
    "ForImageClassificationWithTeacher": ("pooled", "ImageClassification"),
    "ForAudioClassification": ("pooled", "AudioClassification"),
}
# What transformers calls our kinds of sequence classification.
_PROBLEMS = {
    "single": "single_label_classification",
    "multi": "multi_label_classification",
    "rating": "regression",
}


def described(model: Model, network: Classifier) -> dict[str, Any]:
    """What config.json says of a classifier of ours."""
    labels = model.record.get("labels") or []
    if len(labels) != network.outputs:  # of a span's ends and of a rating there are none
        labels = [f"LABEL_{i}" for i in range(network.outputs)]
    problem = _PROBLEMS.get(model.record.get("kind"))
    return {
        "id2label": {str(i): label for i, label in enumerate(labels)},
        "label2id": {label: i for i, label in enumerate(labels)},
        **({"problem_type": problem} if problem else {}),
    }


def classifier(
    family: Family, config: BackboneConfig, fields: Fields, tensors: dict[str, Tensor]
) -> tuple[dict[str, Any], list[Part]] | None:
    """The record of a classifier of theirs, as a checkpoint of ours would have it, and its head's tensors by
    names without the prefix; None where there is no such head, or one that ours doesn't compute.

    Args:
        tensors: by names without the prefix.

    Raises:
        UserError: the labels are not as many as the outputs.
    """
    names = [name for name in fields.content.get("architectures") or [] if name.endswith(tuple(_ENDS))]
    if not names:
        return None
    kind, task = next(found for end, found in _ENDS.items() if names[0].endswith(end))
    usual = {"pooling": "last"} if config.causal else {"pooling": "first", "pooler": True}
    pooled = family.classifiers.get(names[0], usual) if kind == "pooled" else {}
    head = {"kind": kind, "pooling": None, "pooler": False, **pooled, "dropout": config.dropout}
    try:
        name, parts = family.classifier(head)
    except UserError:
        return None
    parts = [replace(part, theirs=part.theirs.removeprefix(family.prefix)) for part in parts]
    if name != names[0] or any(part.theirs not in tensors for part in parts):
        return None
    head["outputs"] = len(tensors[parts[-1].theirs])
    return {
        "task": f"lm.tasks.{task}",
        "backbone": asdict(config),
        "head": head,
        **_labels(kind, head["outputs"], fields),
        **({"padded": True} if family.padded else {}),
    }, parts


def _labels(kind: str, outputs: int, fields: Fields) -> dict[str, Any]:
    """What our record says of the labels."""
    theirs = fields.content
    if kind == "span":
        if outputs != 2:
            raise fields.refuse(f"a span has 2 outputs, its start and its end, and there are {outputs}")
        return {"labels": []}
    problems = {theirs: ours for ours, theirs in _PROBLEMS.items()}
    said = "rating" if outputs == 1 else "single"
    said = problems.get(theirs.get("problem_type"), said) if kind == "pooled" else None
    if said == "rating":
        if outputs != 1:
            raise fields.refuse(f"a rating is one number, and there are {outputs} outputs")
        return {"labels": [], "kind": said}
    names = theirs.get("id2label") or {str(i): f"LABEL_{i}" for i in range(outputs)}
    if not isinstance(names, dict) or {str(i) for i in range(outputs)} != set(names):
        raise fields.refuse(f"id2label does not name the {outputs} outputs, 0 to {outputs - 1}")
    labels = [str(names[str(i)]) for i in range(outputs)]
    if len(set(labels)) < outputs:
        raise fields.refuse("id2label gives two outputs one label")
    return {"labels": labels, **({"kind": said} if said else {})}
