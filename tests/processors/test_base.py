"""What a checkpoint carries is opened by what was registered, and by nothing else."""

import pytest

from lm.errors import UserError
from lm.processors import Processor, base, open_processor, register


class Scale(Processor):
    kind = "test-scale"

    def __init__(self, size: bytes) -> None:
        self.size = size

    def to_bytes(self) -> bytes:
        return self.size


def test_it_comes_back_and_is_recognised(monkeypatch):
    monkeypatch.setattr(base, "_OPENERS", {})
    with pytest.raises(UserError, match=r"kind 'test-scale' is not known here \(none\): import its module"):
        open_processor("test-scale", b"7")
    register(Scale.kind, Scale)
    found = open_processor("test-scale", b"7")
    assert isinstance(found, Scale) and found.to_bytes() == b"7"
    # The SHA-256 of "7".
    known = "7902699be42c8a8e46fbbb4501726517e86b22c56a189f7625a6da49081b2451"
    assert found.fingerprint == known != Scale(b"8").fingerprint
