"""Data: `lm.data.corpus` turns documents into token shards, `lm.data.examples` reads what is fine-tuned on,
the rest feeds them to a model.

Importing this package imports no torch, so that `lm prepare` starts fast: names are looked up when first
used.
"""

from lm.lazy import lazy

__getattr__, __dir__ = lazy(
    __name__,
    {
        "PretrainingData": "pretraining",
        **dict.fromkeys(
            ("ChatData", "PreferenceData", "QuestionData", "TagData", "TextData", "TextExampleData"),
            "examples.kinds",
        ),
        "ExampleData": "examples.module",
        "AudioData": "audio.module",
        "DetectionData": "images.detection",
        "ImageData": "images.module",
        "SegmentationData": "images.segmentation",
        "SpeechData": "audio.module",
        "Example": "examples.records",
        "Skipped": "examples.files",
        "read_rows": "examples.tables",
        "value": "examples.tables",
    },
)
