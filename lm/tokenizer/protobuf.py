"""SentencePiece's messages by the numbers of their fields.

Its own `sentencepiece_model_pb2` asks for the newest protobuf, which other packages often don't let in.
What is put at a model's end is written here, so that the same pieces give the same bytes for ever:
https://protobuf.dev/programming-guides/encoding/
"""

import struct
from typing import Any


def read_fields(message: bytes) -> list[tuple[int, Any]]:
    """The fields of a message in turn: (number, value), bytes of a string or a message, else an integer."""
    from google.protobuf.empty_pb2 import Empty
    from google.protobuf.unknown_fields import UnknownFieldSet

    parsed = Empty.FromString(message)
    return [(field.field_number, field.data) for field in UnknownFieldSet(parsed)]


def _varint(number: int) -> bytes:
    """A number of no sign, seven bits a byte, the lowest first."""
    return bytes([number]) if number < 0x80 else bytes([number & 0x7F | 0x80]) + _varint(number >> 7)


def field(number: int, content: bytes) -> bytes:
    """A field of bytes: a string or a message."""
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def normal_piece(piece: str, score: float) -> bytes:
    """A piece of text as such a field."""
    return field(1, field(1, piece.encode()) + b"\x15" + struct.pack("<f", score))


def control_piece(piece: str) -> bytes:
    """A control piece as a field of ModelProto: at the end of a model it takes the next id."""
    return field(1, field(1, piece.encode()) + b"\x15\0\0\0\0\x18\x03")  # its score is 0, its type CONTROL
