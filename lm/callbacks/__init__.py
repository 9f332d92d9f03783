"""What is reported and guarded while training. Names are looked up when first used."""

from lm.lazy import lazy

__getattr__, __dir__ = lazy(
    __name__,
    {
        **dict.fromkeys(("RunCheckpoints", "Stopped", "interruptible"), "checkpoints"),
        "AtValidations": "measuring",
        "CompileWhenWorthwhile": "compiling",
        "Monitor": "monitor",
        "Progress": "progress",
        "RandomState": "randomness",
        "Samples": "samples",
        "Summary": "summary",
    },
)
