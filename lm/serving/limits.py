"""How much one request may ask for."""

import argparse
from dataclasses import dataclass

PROMPTS = 64  # of a completion
CHOICES = 16  # `n`
INPUTS = 2048  # of embeddings and tasks
FILES = 64  # that a request brings along to have things found in them
SECONDS = 1800  # of sound that is written down
BEAM = 64  # beginnings that are followed
BEAM_SECONDS = 3840  # of sound, times beginnings: a minute with the most of them
STOPS, STOP_LENGTH = 16, 256  # strings, and characters of each
TOP = 20  # likeliest tokens beside each
BIASES = 300
MESSAGES = 1000
TEXT = 1 << 20  # characters of a text
SCHEMA, SCHEMA_DEPTH, REGEX = 100_000, 64, 4096  # characters, levels of a schema; characters of an expression
FORMS_KEPT, FORMS_WAITING = 64, 8  # of answers: ready for the next who asks, and not yet ready


@dataclass(frozen=True)
class Limits:
    """What the command can change.

    Args:
        body: bytes of a request.
        files: of one that brings pictures or sounds along.
        seconds: that a request may take; what is written by then is the answer.
        upload: seconds in which its body has to be there.
        files_upload: the same with pictures or sounds.
        linger: more seconds, for who reads slowly and for what an engine does not write.
    """

    body: int = 4_000_000
    files: int = 32_000_000
    seconds: float = 300
    upload: float = 20
    files_upload: float = 120
    linger: float = 10


def limits_of(args: argparse.Namespace) -> Limits:
    """Those that `lm serve` was told."""
    return Limits(int(args.max_body * 1e6), int(args.max_files * 1e6), args.timeout)
