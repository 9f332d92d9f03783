"""Pictures to learn from: changed at random (`augment`, `colours`), mixed (`mixing`), and what stands beside
them read: `boxes`, `masks`."""

from lm.lazy import lazy

_AUGMENT = ("Flip", "RandomCrop", "RandomErasing", "RandomResizedCrop", "ScaleJitter", "Turn")
__getattr__, __dir__ = lazy(
    __name__,
    {"ImageData": "module", "ColorJitter": "colours", "RandAugment": "colours"}
    | dict.fromkeys(_AUGMENT, "augment"),
)
