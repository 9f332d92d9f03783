"""Filling masks with a BERT."""

import torch

from lm.backbone import LanguageModel
from lm.errors import UserError
from lm.tokenizer import Tokenizer

MASK = "<mask>"


@torch.no_grad()
def fill(
    model: LanguageModel, tokenizer: Tokenizer, text: str, best: int = 5
) -> list[list[tuple[str, float]]]:
    """The best guesses for each `<mask>` in a text.

    Args:
        best: how many guesses for each.

    Returns:
        For each mask, pairs of text and probability, the likeliest first.

    Raises:
        UserError: the model writes from left to right, its tokenizer has no mask, the text has none or is
            too long.
    """
    if model.config.causal:
        raise UserError("this model writes from left to right: use `lm generate`; `lm fill` needs a BERT")
    if tokenizer.mask_id is None:
        raise UserError(f"this model's tokenizer has no {MASK} token: it was not trained to fill gaps")
    parts = text.split(MASK)
    if len(parts) == 1:
        raise UserError(f"there is no {MASK} in the text: put one where a token is to be guessed", status=2)
    ids = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    for i, part in enumerate(parts):
        ids += ([tokenizer.mask_id] if i else []) + tokenizer.encode(part)
    ids += [] if tokenizer.eos_id is None else [tokenizer.eos_id]
    if len(ids) > model.config.max_seq_len:
        raise UserError(
            f"the text has {len(ids)} tokens, the model sees {model.config.max_seq_len}: shorten it"
        )
    tokens = torch.tensor([ids], device=model.head.weight.device)
    logits = model(tokens)[0].float()  # (T, V)
    pieces = torch.from_numpy(tokenizer.byte_lengths().nonzero()[0])  # control tokens are no text
    guesses = []
    for position in (tokens[0] == tokenizer.mask_id).nonzero().flatten().tolist():
        top = logits[position].cpu()[pieces].softmax(-1).topk(min(best, len(pieces)))
        pairs = zip(pieces[top.indices].tolist(), top.values.tolist(), strict=True)
        guesses.append([(tokenizer.decode([i]), p) for i, p in pairs])
    return guesses


@torch.no_grad()
def show_guesses(model: LanguageModel, tokenizer: Tokenizer, ids: list[int], every: int = 6) -> str:
    """A text with every n-th token masked and the guess beside it: `[token→guess]`, or `[token]` if right."""
    was_training = model.training
    model.eval()
    lengths = tokenizer.byte_lengths()
    masked = [i % every == every - 1 and lengths[t] > 0 for i, t in enumerate(ids)]
    inputs = [tokenizer.mask_id if hidden else t for t, hidden in zip(ids, masked, strict=True)]
    logits = model(torch.tensor([inputs], device=model.head.weight.device))[0]
    model.train(was_training)
    guesses = logits.argmax(-1).tolist()
    shown = []
    for truth, guess, hidden in zip(ids, guesses, masked, strict=True):
        text = tokenizer.decode([truth])
        right = text if truth == guess else f"{text}→{tokenizer.decode([guess])}"
        shown.append(f"[{right}]" if hidden else text)
    return "".join(shown)
