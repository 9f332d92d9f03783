"""`/v1/embeddings`: the mean of a text's last hidden states, special tokens among them, scaled to length 1.

So all-MiniLM and its like are meant to be used; of a GPT or a classifier it is a summary like another.
"""

import base64
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lm.checkpoint import Model
from lm.serving.errors import APIError
from lm.serving.schemas import Embedding

if TYPE_CHECKING:
    from lm.serving.house import Served

ROWS = 16  # texts that share a batch


def body_of(model: Model) -> Any:
    """The network without what stands on it, also where nothing does."""
    if model.has_head or model.record.get("head"):
        return model.network.backbone
    weights = {name: value for name, value in model.weights.items() if name.startswith("backbone.")}
    size = model.config.hidden_size
    weights |= {"head.weight": torch.zeros(1, size), "head.bias": torch.zeros(1)}
    record = {**model.record, "head": {"kind": "classifier", "outputs": 1, "pooling": "mean"}}
    return replace(model, weights=weights, record=record).network.backbone


@torch.inference_mode()
def vectors(body: Any, rows: Sequence[Sequence[int]], padding: int) -> Tensor:
    """The embeddings (B, hidden_size) of texts' tokens; those of like length share a batch."""
    device = next(body.parameters()).device
    found = torch.empty(len(rows), body.config.hidden_size)
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    for start in range(0, len(order), ROWS):
        chosen = order[start : start + ROWS]
        tokens = torch.full((len(chosen), len(rows[chosen[-1]])), padding)
        documents = torch.full_like(tokens, -1)
        for line, i in enumerate(chosen):
            tokens[line, : len(rows[i])] = torch.tensor(rows[i])
            documents[line, : len(rows[i])] = 0
        hidden = body(tokens.to(device), documents.to(device)).float().cpu()
        real = (documents == 0)[..., None]
        found[chosen] = F.normalize(torch.where(real, hidden, 0).sum(1) / real.sum(1), dim=-1)
    return found


def embed(served: "Served", body: Embedding) -> dict[str, Any]:
    """The response; runs in the model's thread.

    Raises:
        APIError: a text is empty or too long, or a token is none of the model's.
    """
    tokenizer, config, given = served.model.tokenizer, served.model.config, body.input
    if body.dimensions not in (None, config.hidden_size):
        words = f"`dimensions`: this model's vectors have {config.hidden_size}, and are not cut"
        raise APIError(400, words, "dimensions")
    several: Any = [given] if isinstance(given, str) or not given or isinstance(given[0], int) else given
    if not all(several):
        raise APIError(400, "`input` is empty: give a text, or the ids of tokens", "input")
    rows = [tokenizer.frame(tokenizer.encode(x))[0] if isinstance(x, str) else x for x in several]
    longest = max(map(len, rows))
    if longest > config.max_seq_len:
        words = f"`input`: a text has {longest} tokens, the model sees {config.max_seq_len}: cut it"
        raise APIError(400, words, "input", "context_length_exceeded")
    if not longest or max(map(max, filter(None, rows))) >= config.vocab_size:
        raise APIError(400, f"`input`: token ids are below {config.vocab_size}, and at least one", "input")
    made = vectors(served.body, rows, tokenizer.padding_id)
    if not bool(made.isfinite().all()):
        raise APIError(500, "the model's outputs are not finite: its training has diverged")
    packed = body.encoding_format == "base64"
    values = [base64.b64encode(row.numpy().tobytes()).decode() for row in made] if packed else made.tolist()
    data = [{"object": "embedding", "index": i, "embedding": value} for i, value in enumerate(values)]
    read = sum(map(len, rows))
    used = {"prompt_tokens": read, "total_tokens": read}
    return {"object": "list", "data": data, "model": served.name, "usage": used}
