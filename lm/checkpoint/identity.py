"""What a model is, as one hash: so that what is said of it elsewhere holds of it and no other."""

import hashlib
import json
from dataclasses import asdict
from typing import Any

import torch

from lm.checkpoint.model import Model, is_language
from lm.tokenizer.chat import chat_format

_TRAINING = ("dropout", "init_std", "residual_init")  # fields that change nothing of a model in use


def identity(model: Model) -> str:
    """SHA-256 of a model's weights, shape, head, labels, processor and chat template, in hexadecimal digits;
    of an ONNX file, which holds its weights itself, its record has the hash of the whole file.

    It goes by content: equal for a checkpoint and a folder of another project's that hold the same numbers of
    the same types. A single other bit gives another one.

    Args:
        model: on any device; its weights are read once.
    """
    record, config = model.record, asdict(model.config)
    head = {} if is_language(record.get("head")) else dict(record["head"])
    own = {
        **{name: record.get(name) for name in ("labels", "kind", "input", "quantised", "onnx")},
        "chats": _chats(model),
    }
    words = [
        {name: value for name, value in config.items() if name not in _TRAINING},
        {name: value for name, value in {"head": {**head, "dropout": 0}, **own}.items() if value},
    ]
    digest = hashlib.sha256(json.dumps(words, sort_keys=True, default=str).encode())
    digest.update(model.processor.fingerprint.encode())
    for name, tensor in sorted(model.weights.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _chats(model: Model) -> Any:
    """The template of a model that chats: its own, or the tokenizer's, which exported folders have."""
    if not (model.config.causal and model.has_head and model.chats):
        return None
    known = chat_format(model.tokenizer)
    return model.chat_template or (known.template if known else "none")
