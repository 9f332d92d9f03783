"""What a model is, as one hash: so that what is said of it elsewhere holds of it and no other."""

import hashlib
import json
from dataclasses import asdict

import torch

from lm.checkpoint.model import Model


def identity(model: Model) -> str:
    """SHA-256 of a model's weights, shape, head, labels and processor, in hexadecimal digits.

    It goes by content: equal for a checkpoint and a folder of another project's that hold the same numbers of
    the same types. A single other bit gives another one.

    Args:
        model: on any device; its weights are read once.
    """
    record = model.record
    own = {name: record.get(name) for name in ("head", "labels", "quantised")}
    words = [asdict(model.config), {name: value for name, value in own.items() if value}]
    digest = hashlib.sha256(json.dumps(words, sort_keys=True, default=str).encode())
    digest.update(model.processor.fingerprint.encode())
    for name, tensor in sorted(model.weights.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
