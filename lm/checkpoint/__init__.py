"""A checkpoint: `format` reads and writes it, `model` is what is open."""

from lm.checkpoint.format import (
    FORMAT,
    MODEL_PREFIX,
    Damaged,
    config_of,
    configuration_of,
    make_record,
    network_weights,
    processor_of,
    read,
    read_record,
    write,
)
from lm.checkpoint.identity import identity
from lm.checkpoint.model import Model, is_language, make_network, model_of, open_checkpoint, outline

__all__ = [
    "FORMAT",
    "MODEL_PREFIX",
    "Damaged",
    "Model",
    "config_of",
    "configuration_of",
    "identity",
    "is_language",
    "make_network",
    "make_record",
    "model_of",
    "network_weights",
    "open_checkpoint",
    "outline",
    "processor_of",
    "read",
    "read_record",
    "write",
]
