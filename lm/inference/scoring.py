"""How likely a model takes texts to be: log-probabilities of given tokens, for measuring and comparing."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lm.backbone import LanguageModel

BATCH_TOKENS = 4096  # of a batch's rows with their padding, where nothing else is said
_LOGITS = 1 << 24  # numbers of a matrix of logits that is there at once

Row = tuple[int, ...]
Done = Callable[[int], object]  # is told how many more are done


class Scored(NamedTuple):
    """What a model says of the tokens that were asked for, in their order."""

    log_probabilities: Tensor  # (n,) float64, nats
    likeliest: Tensor  # (n,) bool: whether no other token was likelier

    @property
    def total(self) -> float:
        """Nats of all of them."""
        return float(self.log_probabilities.sum())


class _Asked(NamedTuple):
    row: Row  # what the model reads
    positions: Sequence[int]  # what it says at these
    targets: Sequence[int]  # of these


def score(
    model: LanguageModel,
    texts: Sequence[tuple[Sequence[int], int]],
    batch_size: int | None = None,
    done: Done = lambda _: None,
) -> list[Scored]:
    """log p(token | all before it) of each text's tokens from the first one that counts.

    What comes of a text does not depend on the others, but for rounding.

    Args:
        model: one that writes from left to right, in evaluation mode.
        texts: ids, at most one more than the model sees, and the first that counts, from 1.
        batch_size: rows of a batch; None: as many as make `BATCH_TOKENS` tokens.
        done: is told of each batch how many texts it had.
    """
    asked = [_Asked(tuple(ids[:-1]), range(start - 1, len(ids) - 1), ids[start:]) for ids, start in texts]
    return _look(model, asked, batch_size, done)


def pseudo_score(
    model: LanguageModel,
    texts: Sequence[tuple[Sequence[int], Sequence[int]]],
    mask_id: int,
    batch_size: int | None = None,
    done: Done = lambda _: None,
) -> list[Scored]:
    """log p(token | all others) of tokens of each text, which a BERT is asked for one by one: their sum is
    the text's pseudo-log-likelihood (Salazar et al. 2020, arXiv:1910.14659).

    Args:
        model: one that fills gaps, in evaluation mode.
        texts: ids as the model was trained on them, framed; and the positions that count.
        mask_id: what stands for the token that is asked for.
        batch_size: rows of a batch, a row for each position; None: as many as make `BATCH_TOKENS` tokens.
        done: is told of each batch how many tokens it had.
    """
    asked = [
        _Asked((*ids[:at], mask_id, *ids[at + 1 :]), [at], [ids[at]])
        for ids, positions in texts
        for at in positions
    ]
    each = iter(_look(model, asked, batch_size, done))
    return [_joined([next(each) for _ in positions]) for _, positions in texts]


def windows(ids: Sequence[int], prefix: int, length: int) -> list[tuple[list[int], int]]:
    """A long text as texts for `score`, in which each of its tokens counts once: pieces one after the other,
    each behind the token before it, the first behind `prefix`; the last one sees as much as fits.

    Args:
        length: tokens that the model sees.
    """
    whole = [prefix, *ids]
    found = []
    for start in range(0, len(ids), length):
        end = min(start + length, len(ids))
        first = max(end - length, 0)
        found.append((whole[first : end + 1], start - first + 1))
    return found


def _joined(parts: Sequence[Scored]) -> Scored:
    if not parts:
        return Scored(torch.empty(0, dtype=torch.float64), torch.empty(0, dtype=torch.bool))
    return Scored(*(torch.cat(column) for column in zip(*parts, strict=True)))


@torch.no_grad()
def _look(model: LanguageModel, asked: Sequence[_Asked], batch_size: int | None, done: Done) -> list[Scored]:
    """What was asked; where several ask of one row (the letters of a multiple choice), it is read once."""
    askers: dict[Row, list[int]] = defaultdict(list)
    for number, each in enumerate(asked):
        askers[each.row].append(number)
    found: dict[int, Scored] = {}
    for batch in _batches(list(askers), batch_size):
        numbers = [number for row in batch for number in askers[row]]
        places = [place for place, row in enumerate(batch) for n in askers[row] for _ in asked[n].positions]
        tokens, documents = _padded(batch, model.head.weight.device)
        # In a causal model nothing depends on what stands behind it.
        hidden = model.backbone(tokens, None if model.config.causal else documents)  # (B, T, H)
        positions = [at for number in numbers for at in asked[number].positions]
        targets = [id for number in numbers for id in asked[number].targets]
        scored = _of_tokens(model, hidden[places, positions], torch.tensor(targets, device=tokens.device))
        sizes = [len(asked[number].targets) for number in numbers]
        parts = zip(*(column.split(sizes) for column in scored), strict=True)
        found |= {number: Scored(*part) for number, part in zip(numbers, parts, strict=True)}
        done(len(numbers))
    return [found[number] for number in range(len(asked))]


def _batches(rows: list[Row], batch_size: int | None) -> Iterator[list[Row]]:
    """The longest first, so that rows of like length come together, and want of memory shows at once."""
    rows.sort(key=lambda row: (-len(row), row))
    start = 0
    while start < len(rows):
        end = start + (batch_size or max(BATCH_TOKENS // max(len(rows[start]), 1), 1))
        yield rows[start:end]
        start = end


def _padded(rows: list[Row], device: torch.device) -> tuple[Tensor, Tensor | None]:
    """Tokens (B, longest), filled up on the right, and documents, −1 for what is padding; None for none."""
    lengths = torch.tensor([len(row) for row in rows])
    longest = int(lengths.max())
    tokens = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], device=device)
    outside = torch.arange(longest) >= lengths[:, None]
    return tokens, -outside.to(device, torch.int64) if bool(outside.any()) else None


def _of_tokens(model: LanguageModel, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities (N,) float64 and which were likeliest (N,) bool, on the CPU; of (N, H) and (N,)."""
    values, best = [], []
    rows = max(_LOGITS // model.head.weight.shape[0], 1)
    for part, target in zip(hidden.split(rows), targets.split(rows), strict=True):
        logits = model.head(part).float()
        chosen = logits.gather(1, target[:, None])[:, 0]
        values.append((chosen - logits.logsumexp(dim=1)).double().cpu())
        best.append((logits.argmax(dim=1) == target).cpu())
    return torch.cat(values), torch.cat(best)
