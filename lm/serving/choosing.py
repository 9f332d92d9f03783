"""Which token comes next, of texts that each have their own way of choosing."""

import random
from collections.abc import Sequence
from dataclasses import astuple

import torch
from torch import Tensor

from lm.errors import UserError
from lm.inference.generate import Sampling
from lm.serving.requests import Request, Stuck

GREEDY = 1e-3  # the temperature below which the likeliest is taken
FEW = (256, 4096)  # tokens that mostly make up a nucleus
NEVER = -1e30  # a logit that nothing comes of, and yet a number


class Chooser:
    """How one request's tokens are chosen.

    Args:
        vocab_size: tokens that can be chosen.

    Raises:
        UserError: an option can't be.
    """

    def __init__(self, request: Request, vocab_size: int, device: torch.device) -> None:
        greedy = 0 <= request.temperature < GREEDY
        asked = (request.temperature, request.top_k or 0, request.top_p, request.min_p)
        self.sampling = Sampling(0) if greedy else Sampling(*asked)
        self.key = astuple(self.sampling)  # texts that have the same are looked at together
        self.generator = torch.Generator(device=device)
        if not greedy:
            seed = random.getrandbits(63) if request.seed is None else request.seed % (1 << 63)
            self.generator.manual_seed(seed)
        self.constraint = request.constraint
        self.presence, self.frequency = request.presence_penalty, request.frequency_penalty
        self.written: list[int] = []
        self.offset: Tensor | None = None  # (V,), is added to the logits
        if request.logit_bias or self.presence or self.frequency:
            self.offset = torch.zeros(vocab_size, device=device)
            for id, bias in request.logit_bias.items():
                self.offset[id] = bias

    @property
    def plain(self) -> bool:
        """Whether the logits are taken as they are."""
        return self.offset is None and self.constraint is None

    def change(self, logits: Tensor) -> None:
        """Bias, penalties and constraint, on logits (V,) in place."""
        if self.offset is not None:
            logits += self.offset
        if self.constraint is not None:
            allowed = self.constraint.mask(self.written).to(logits.device)
            if not bool(allowed.any()):
                raise Stuck
            logits.masked_fill_(~allowed[: len(logits)], NEVER)

    def wrote(self, id: int) -> None:
        """The text goes on with a token."""
        if self.offset is not None and (self.presence or self.frequency):
            first = id not in self.written
            self.offset[id] -= self.frequency + (self.presence if first else 0)
        self.written.append(id)


def choose(logits: Tensor, choosers: Sequence[Chooser]) -> list[int | Exception]:
    """The next token of each of N texts, of logits (N, V); or why there is none."""
    found: list[int | Exception] = [0] * len(choosers)
    if not all(each.plain for each in choosers):
        logits = logits.float().clone()
        for row, chooser in enumerate(choosers):
            try:
                chooser.change(logits[row])
            except Exception as error:
                found[row] = error
    alike: dict[tuple[float, ...], list[int]] = {}
    for row, chooser in enumerate(choosers):
        if not isinstance(found[row], Exception):
            alike.setdefault(chooser.key, []).append(row)
    for rows in alike.values():
        own = logits.float() if len(rows) == len(logits) else logits[rows].float()
        first = choosers[rows[0]]
        if first.sampling.temperature:
            chosen, sums = draw(own, first.sampling, [choosers[row].generator for row in rows])
        else:
            sums, chosen = own.max(1)
        # Where a logit is no number, neither is the sum nor the largest.
        for row, id, sound in zip(rows, chosen.tolist(), sums.isfinite().tolist(), strict=True):
            found[row] = id if sound else UserError("the model's logits are not finite")
    return found


def draw(logits: Tensor, how: Sampling, generators: Sequence[torch.Generator]) -> tuple[Tensor, Tensor]:
    """A token for each of N texts (N,), of logits (N, V), and the sums of what they are drawn from.

    From the same tokens as `Sampling.choose`, but by one random number a text instead of one for each token,
    and without sorting them all: of 50,000 tokens, many times faster.
    """
    logits, order = logits / how.temperature, None
    if how.top_k:  # the likeliest first
        logits, order = logits.topk(min(how.top_k, logits.shape[1]))
    kept = logits.softmax(1)
    if how.top_p < 1:
        ranked = _likeliest(kept, how.top_p) if order is None else kept
        outside = ranked.cumsum(1) - ranked >= how.top_p
        kept = kept.masked_fill(kept < ranked.masked_fill(outside, 1).amin(1, keepdim=True), 0)
    if how.min_p:
        kept = kept.masked_fill(kept < kept.amax(1, keepdim=True) * how.min_p, 0)
    below = kept.cumsum(1)
    sums = below[:, -1:]
    numbers = torch.stack([torch.rand(1, generator=each, device=logits.device) for each in generators])
    spots = torch.minimum(numbers * sums, torch.nextafter(sums, torch.zeros_like(sums)))  # below the sum
    chosen = torch.searchsorted(below, spots, right=True).clamp_(max=below.shape[1] - 1)
    return (chosen if order is None else order.gather(1, chosen))[:, 0], sums[:, 0]


def _likeliest(probabilities: Tensor, mass: float) -> Tensor:
    """The largest of probabilities (N, V) that make up a mass, in order: (N, M)."""
    for count in FEW:
        if count < probabilities.shape[1]:
            found = probabilities.topk(count).values
            if not bool((found.sum(1) < mass).any()):
                return found
    return probabilities.sort(1, descending=True).values


def log_probabilities(
    logits: Tensor, ids: Sequence[int], count: int, vocab_size: int
) -> list[tuple[float, tuple[tuple[int, float], ...]]]:
    """What a model says of tokens: the log-probability of each of N tokens, and the `count` likeliest of the
    tokenizer's tokens with theirs; of logits (N, V)."""
    logits = logits.float()
    total = logits.logsumexp(1)
    chosen = logits.gather(1, torch.tensor(ids, device=logits.device)[:, None])[:, 0] - total
    best = logits[:, :vocab_size].topk(min(count, vocab_size), dim=1)
    tops = zip(best.indices.tolist(), (best.values - total[:, None]).tolist(), strict=True)
    return [(own, tuple(zip(*top, strict=True))) for own, top in zip(chosen.tolist(), tops, strict=True)]
