"""What every processor has: bytes that make it again, and a fingerprint."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property
from importlib import import_module
from typing import ClassVar

from lm.errors import UserError


class Processor(ABC):
    """Turns raw things into a network's input.

    Attributes:
        kind: its name in checkpoints, under which it was registered.
    """

    kind: ClassVar[str]

    @abstractmethod
    def to_bytes(self) -> bytes:
        """Everything that is needed to make it again."""

    @cached_property
    def fingerprint(self) -> str:
        """The SHA-256 of its bytes, in hexadecimal: equal for the same processor."""
        return hashlib.sha256(self.to_bytes()).hexdigest()


Opener = Callable[[bytes], Processor]
_OPENERS: dict[str, Opener] = {}
_HOMES = {"image": "images", "sound": "speech"}  # lm's own that are imported when one is opened


def register(kind: str, opener: Opener) -> None:
    """Say how processors of a kind are made of their bytes; where the kind's module is imported."""
    _OPENERS[kind] = opener


def open_processor(kind: str, data: bytes) -> Processor:
    """The processor that a checkpoint carries.

    A checkpoint never decides which code is imported: only kinds that are registered are opened.

    Raises:
        UserError: the kind is not registered, or the bytes are not those of one.
    """
    if kind not in _OPENERS and kind in _HOMES:
        import_module(f"lm.processors.{_HOMES[kind]}")
    if kind not in _OPENERS:
        known = ", ".join(_OPENERS) or "none"
        raise UserError(f"a processor of kind {kind!r} is not known here ({known}): import its module first")
    return _OPENERS[kind](data)
