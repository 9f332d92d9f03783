"""Writing answers to many prompts side by side."""

from collections.abc import Sequence
from itertools import takewhile

import torch
from torch import Tensor

from lm.backbone import LanguageModel
from lm.inference.generate import Sampling, write

PADDING = -1  # the document of positions that hold nothing


def _left_padded(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Tokens and documents (B, longest): texts that end together, so that the next token of each is next.
    They are padded with their own first token, or a penalty on repetitions would see one that is not there.
    """
    longest = max(map(len, rows))
    tokens = torch.empty(len(rows), longest, dtype=torch.int64)
    documents = torch.full((len(rows), longest), PADDING)
    for i, row in enumerate(rows):
        tokens[i] = torch.tensor([row[0]] * (longest - len(row)) + list(row))
        documents[i, longest - len(row) :] = 0
    return tokens.to(device), documents.to(device)


def complete(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    tokens: int,
    ends: Sequence[int | None],
    sampling: Sampling | None = None,
    seed: int = 0,
    vocab_size: int | None = None,
    batch_size: int = 64,
) -> list[list[int]]:
    """What the model writes after each prompt, up to one of the tokens `ends` (which is left out).

    Prompts of like length share a batch. What is written does not depend on who shares it, but for rounding.

    Args:
        prompts: ids, at least one each; with `tokens` more they have to fit into the model's positions.
        tokens: tokens to write at most.
        ends: at least one; None stands for a token that the tokenizer lacks.
        sampling: how tokens are chosen; None: always the likeliest.
        seed: of the first prompt; the second has the next, and so on, in whatever batch they are.
        vocab_size: tokens of the tokenizer, where the model has room for more.
    """
    sampling = sampling or Sampling(temperature=0)
    device = model.head.weight.device
    stops = [end for end in ends if end is not None]
    answers: list[list[int]] = [[] for _ in prompts]
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        text, documents = _left_padded([prompts[i] for i in chosen], device)
        generators = [torch.Generator(device=device).manual_seed(seed + i) for i in chosen]
        steps = write(model, text, tokens, sampling, generators, stops, documents, vocab_size=vocab_size)
        for i, row in zip(chosen, torch.stack([*steps], dim=1).tolist(), strict=True):
            answers[i] = list(takewhile(lambda piece: piece not in stops, row))
    return answers
