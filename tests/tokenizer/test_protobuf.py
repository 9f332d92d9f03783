"""Fields of messages: what is written at a model's end stays the same to the byte."""

import struct

from lm.tokenizer.protobuf import control_piece, field, normal_piece, read_fields


def test_a_control_piece_s_bytes():
    assert control_piece("<|x|>") == bytes.fromhex("0a0e 0a05 3c7c787c3e 1500000000 1803")


def test_a_normal_piece_s_bytes():
    assert normal_piece("▁ab", -2.0) == bytes.fromhex("0a0c 0a05 e296816162 15000000c0")


def test_what_was_written_is_read():
    long = "x" * 300  # its length takes two bytes
    message = control_piece(long) + field(4242, b"{}")
    (first, piece), last = read_fields(message)
    assert (first, last) == (1, (4242, b"{}"))
    assert read_fields(piece) == [(1, long.encode()), (2, 0), (3, 3)]
    assert read_fields(b"\x15" + struct.pack("<f", 1.0)) == [(2, 0x3F800000)]
    assert read_fields(b"") == []
