"""A checkpoint: `format` reads and writes it, and makes a model of it."""

from lm.checkpoint.format import (
    FORMAT,
    MODEL_PREFIX,
    Loaded,
    config_of,
    load_model,
    load_tokenizer,
    make_network,
    make_record,
    network_weights,
    read,
    read_record,
    write,
)

__all__ = [
    "FORMAT",
    "MODEL_PREFIX",
    "Loaded",
    "config_of",
    "load_model",
    "load_tokenizer",
    "make_network",
    "make_record",
    "network_weights",
    "read",
    "read_record",
    "write",
]
