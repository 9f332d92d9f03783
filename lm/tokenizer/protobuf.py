"""As much of protobuf's wire format as SentencePiece's messages take, so that nothing else is needed.

https://protobuf.dev/programming-guides/encoding/
"""

from collections.abc import Iterator

_VARINT, _BYTES, _FLOAT = 0, 2, 5
CONTROL = 3  # ModelProto.SentencePiece.Type


def varint(number: int) -> bytes:
    """A number of no sign, seven bits a byte, the lowest first."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def field(number: int, content: bytes) -> bytes:
    """A field of bytes: a string or a message."""
    return varint(number << 3 | _BYTES) + varint(len(content)) + content


def control_piece(piece: str) -> bytes:
    """A control piece as a field of ModelProto: at the end of a model it takes the next id."""
    score = varint(2 << 3 | _FLOAT) + bytes(4)
    return field(1, field(1, piece.encode()) + score + varint(3 << 3 | _VARINT) + varint(CONTROL))


def read_fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of a message in turn: (number, value).

    Raises:
        IndexError: the message is cut short.
    """
    place = 0

    def read_varint() -> int:
        nonlocal place
        number = shift = 0
        while True:
            byte = message[place]
            place += 1
            number |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return number

    while place < len(message):
        tag = read_varint()
        kind = tag & 7
        if kind == _VARINT:
            yield tag >> 3, read_varint()
            continue
        size = read_varint() if kind == _BYTES else 4 if kind == _FLOAT else 8
        yield tag >> 3, message[place : place + size]
        place += size


def piece_spans(text: bytes) -> list[tuple[int, str, int, int]]:
    """(id, piece, begin, end) of a serialised SentencePieceText; begin and end count bytes of the text."""
    pieces = []
    for number, value in read_fields(text):
        if number == 2:
            part = dict(read_fields(value))
            pieces.append((part.get(2, 0), part.get(1, b"").decode(), part.get(4, 0), part.get(5, 0)))
    return pieces
