"""Data: `lm.data.corpus` turns documents into token shards, `lm.data.examples` reads what is fine-tuned on,
the rest feeds them to a model.

Importing this package imports no torch, so that `lm prepare` starts fast: names are looked up when first
used.
"""

from importlib import import_module

_HOMES = {
    "PretrainingData": "lm.data.pretraining",
    **dict.fromkeys(
        ("ChatData", "PreferenceData", "QuestionData", "TagData", "TextData"), "lm.data.examples.kinds"
    ),
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
