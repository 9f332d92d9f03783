"""What compression has brought and cost: size, speed and quality of a model and of what was made of it."""

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lm.compression.rounding import packed, quantised_bytes
from lm.errors import UserError
from lm.inference.batch import complete
from lm.inference.scoring import score, windows

if TYPE_CHECKING:
    from lm.predictor import Predictor

_PROMPT, _TOKENS, _ROUNDS = 16, 32, 5


@dataclass
class Variant:
    """A model's figures.

    Attributes:
        name: of the model.
        megabytes: of its weights in memory.
        layers: how many times smaller than in fp32 the quantised layers are; None where none is.
        speed: tokens a second by texts side by side.
        bits: bits per byte of the held-out text.
        change: of the perplexity against the first model's, a share; `error` is its standard error.
    """

    name: str
    megabytes: float
    layers: float | None
    speed: dict[int, float]
    bits: float
    change: float = 0.0
    error: float = 0.0


def report(models: "dict[str, Predictor]", text: str, batches: Sequence[int] = (1, 32)) -> list[Variant]:
    """Measure models that write beside the first of them, in turns: this machine's figures.

    Args:
        models: by name, all with the same tokenizer.
        text: held out; the perplexities' difference is that of windows of it, with a paired error.
        batches: texts written side by side.

    Raises:
        UserError: a model does not write, they have different tokenizers, or the text is too short.
    """
    (first, *_), names = models.values(), list(models)
    if any(each.tokenizer.fingerprint != first.tokenizer.fingerprint for each in models.values()):
        raise UserError("a report compares models with the same tokenizer")
    ids, length = measurable(first, text)
    prefix = first.tokenizer.start_id
    losses = {name: _losses(each, ids, prefix, length) for name, each in models.items()}
    speeds = _speeds(models, batches, ids[:_PROMPT])
    found = []
    for name in names:
        network = models[name].writer()
        tensors = {each.data_ptr(): each.nbytes for each in network.state_dict().values()}
        tensors |= {each.data_ptr(): each.nbytes for each in packed(network)}
        small, whole = quantised_bytes(network)
        counts, own, base = losses[name][0], losses[name][1], losses[names[0]][1]
        more = [(a - b) for a, b in zip(own, base, strict=True)]
        change = sum(more) / sum(counts)
        residuals = [d - change * n for d, n in zip(more, counts, strict=True)]
        error = math.sqrt(len(more)) * statistics.stdev(residuals) / sum(counts)
        found.append(
            Variant(
                name,
                sum(tensors.values()) / 1e6,
                whole / small if small else None,
                speeds[name],
                sum(own) / math.log(2) / len(text.encode()),
                math.expm1(change),
                error * math.exp(change),
            )
        )
    return found


def measurable(model: "Predictor", text: str) -> tuple[list[int], int]:
    """A text's ids, and how many of them a window has.

    Raises:
        UserError: the model does not write, or the text is too short.
    """
    model.writer()
    ids = model.tokenizer.encode(text)
    length = min(512, model.config.max_seq_len)
    if len(ids) < 4 * length:
        raise UserError(f"the text has {len(ids):,} tokens: a report wants {4 * length:,} at least")
    return ids, length


def _losses(model: "Predictor", ids: list[int], prefix: int, length: int) -> tuple[list[int], list[float]]:
    """Tokens and nats of each window."""
    texts = windows(ids, prefix, length)
    scored = score(model.writer(), texts)
    return [len(text) - start for text, start in texts], [-each.total for each in scored]


def _speeds(
    models: "dict[str, Predictor]", batches: Sequence[int], prompt: list[int]
) -> dict[str, dict[int, float]]:
    """Tokens a second, medians of rounds in which all have their turn."""
    speeds: dict[str, dict[int, float]] = {name: {} for name in models}
    tokens = min(_TOKENS, *(model.config.max_seq_len - len(prompt) for model in models.values()))
    for batch in batches:
        taken: dict[str, list[float]] = {name: [] for name in models}
        for _ in range(_ROUNDS + 1):
            for name, model in models.items():
                start = time.perf_counter()
                rows = complete(model.writer(), [prompt] * batch, tokens, [None], batch_size=batch)
                taken[name].append((time.perf_counter() - start) / sum(map(len, rows)))
        for name, seconds in taken.items():
            speeds[name][batch] = 1 / statistics.median(seconds[1:])
    return speeds


def table(variants: Sequence[Variant]) -> str:
    """For a person."""
    batches = list(variants[0].speed)
    rows = [
        [
            "",
            "MB in memory",
            "layers",
            *(f"tok/s at {batch}" for batch in batches),
            "bits per byte",
            "perplexity",
        ]
    ]
    for each in variants:
        change = f"{each.change:+.2%} ± {each.error:.2%}" if each is not variants[0] else ""
        layers = f"1/{each.layers:.2f}" if each.layers else ""
        speeds = [
            f"{each.speed[batch]:,.0f} ({each.speed[batch] / variants[0].speed[batch]:.2f})"
            for batch in batches
        ]
        rows.append([each.name, f"{each.megabytes:,.1f}", layers, *speeds, f"{each.bits:.4f}", change])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
