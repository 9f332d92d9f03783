"""What compression has brought and cost: size, speed and quality of a model and of what was made of it."""

import math
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import nn

from lm.backbone.transformer import Block
from lm.compression.material import HeldOut, Labelled, material
from lm.compression.rounding import packed, quantised_bytes
from lm.errors import UserError
from lm.metrics.tables import aligned
from lm.processes import say
from lm.tasks.table import entry_of, writes_text

if TYPE_CHECKING:
    from lm.predictor import Predictor

_ROUNDS = 5  # of turns
_ZEROS = 0.05  # of the weights: rounding to 8 bits makes 1 to 3% zeros by itself
_FASTER, _SMALLER = 1.05, 0.99  # what is closer counts as equal: times vary


@dataclass
class Variant:
    """A model's figures.

    Attributes:
        name: of the model.
        megabytes: of its weights in memory; `disk`, of its file, None where nobody said.
        layers: how many times smaller than in fp32 the quantised layers are; None where none is.
        zeros: share of the weights of the blocks' linear layers.
        speed: `unit` (tokens, examples) a second by how many texts there are at once.
        figure: what `quality` is.
        quality: on the held-out text or the test file; `error` is its standard error.
        change_of: what `change` is of: of a text perplexity, else the figure.
        change: against the first model's: of perplexity a share, of others the difference;
            `change_error` is its standard error, paired by windows or examples.
        higher: whether more is better.
        noise: how much speeds vary from turn to turn, a share by how many texts there are at once.
    """

    name: str
    megabytes: float
    disk: float | None
    layers: float | None
    zeros: float
    speed: dict[int, float]
    unit: str
    figure: str
    quality: float
    error: float
    change_of: str
    change: float = 0.0
    change_error: float = 0.0
    higher: bool = False
    noise: dict[int, float] = field(default_factory=dict)

    @property
    def size(self) -> float:
        """Megabytes on disk, or in memory where nothing else is known."""
        return self.megabytes if self.disk is None else self.disk


def measurable(models: "Sequence[Predictor]", file: str) -> HeldOut | Labelled:
    """What models are measured on; called before anything is made of them, too.

    Raises:
        UserError: they can't be, see `lm.compression.material`; or they differ in their use or tokenizers.
    """
    first, *others = models
    for other in others:
        if _use(other)[0] != _use(first)[0]:
            beside = f"{other.model.source} is {_use(other)[1]}, {first.model.source} is {_use(first)[1]}"
            raise UserError(f"{beside}: a report compares models for the same use")
    if len({each.tokenizer.fingerprint for each in models}) > 1:
        raise UserError("a report compares models with the same tokenizer")
    return material(models, file)


def _use(model: "Predictor") -> tuple[str, str]:
    """The command that uses a model, and what it is."""
    entry, network = entry_of(model.model.record), "a GPT" if model.config.causal else "a BERT"
    command = entry.command if entry else ""
    if writes_text(model.model.record):
        command = "generate" if model.config.causal else "fill"
    return command, entry.what if entry else network


def report(
    models: "Mapping[str, Predictor]",
    file: str,
    batches: Sequence[int] = (1, 32),
    disk: Mapping[str, int] | None = None,
) -> list[Variant]:
    """Measure models beside the first of them, in turns: this machine's figures.

    Args:
        models: by name, all with the same tokenizer, for the same use.
        file: a held-out text for models that write; else a test file, with labels.
        batches: texts at once.
        disk: bytes of the models' files, by name.

    Raises:
        UserError: see `measurable`.
    """
    from lm.evaluation import Series, paired

    names, asked = list(models), measurable([*models.values()], file)
    scores = {}
    for name, model in models.items():
        say(f"measuring {name}")
        scores[name] = asked.scores(model)
    (speeds, noise), found = _speeds(models, asked, batches), []
    series = {name: Series(each.values, each.weights) for name, each in scores.items()}
    for name, model in models.items():
        own = scores[name]
        beside = paired(series[names[0]], series[name], own.clusters)
        alone = paired(series[name], series[name], own.clusters)
        quality, error = alone.a, alone.unpaired / math.sqrt(2)  # of two that are the same
        change, change_error = beside.difference, beside.error
        if isinstance(asked, HeldOut):  # nats a token, until here
            quality, error = (each * asked.bits_per_byte for each in (quality, error))
            change, change_error = math.expm1(change), change_error * math.exp(change)
        network = asked.network(model)
        small, whole = quantised_bytes(network)
        variant = Variant(
            name,
            _bytes(model, network) / 1e6,
            disk[name] / 1e6 if disk and name in disk else None,
            whole / small if small else None,
            _zeros(network),
            speeds[name],
            asked.unit,
            own.figure,
            quality,
            error,
            "perplexity" if isinstance(asked, HeldOut) else own.figure,
            change,
            change_error,
            own.higher,
            noise[name],
        )
        found.append(variant)
    return found


def _bytes(model: "Predictor", network: nn.Module) -> int:
    """What the weights take in memory, each once."""
    if made := model.model.record.get("onnx"):
        return made["bytes"]
    tensors = {each.data_ptr(): each.nbytes for each in network.state_dict().values()}
    return sum((tensors | {each.data_ptr(): each.nbytes for each in packed(network)}).values())


def _zeros(network: nn.Module) -> float:
    """Share of the blocks' weights; an ONNX file's network has none."""
    blocks = [each for each in network.modules() if isinstance(each, Block)]
    weights = [each.weight for block in blocks for each in block.modules() if isinstance(each, nn.Linear)]
    return sum(int((each == 0).sum()) for each in weights) / max(sum(each.numel() for each in weights), 1)


def _speeds(
    models: "Mapping[str, Predictor]", asked: HeldOut | Labelled, batches: Sequence[int]
) -> tuple[dict[str, dict[int, float]], dict[str, dict[int, float]]]:
    """Tokens or examples a second, medians of rounds in which all have their turn; and how far the middle
    half of a model's turns are apart, as a share of their median."""
    speeds: dict[str, dict[int, float]] = {name: {} for name in models}
    noise: dict[str, dict[int, float]] = {name: {} for name in models}
    for batch in batches:
        taken: dict[str, list[float]] = {name: [] for name in models}
        for _ in range(_ROUNDS + 1):
            for name, model in models.items():
                start = time.perf_counter()
                count = asked.work(model, batch)
                taken[name].append((time.perf_counter() - start) / count)
        for name, seconds in taken.items():
            low, middle, high = statistics.quantiles(seconds[1:], method="inclusive")
            speeds[name][batch], noise[name][batch] = 1 / middle, (high - low) / middle
    return speeds, noise


def _faster(other: Variant, each: Variant) -> bool:
    """Whether it is, with any number of texts, by more than both vary."""
    varies = {n: other.noise.get(n, 0) + each.noise.get(n, 0) for n in each.speed}
    return any(other.speed[n] > max(_FASTER, 1 + varies[n]) * each.speed[n] for n in each.speed)


def dominated(variants: Sequence[Variant]) -> dict[str, str]:
    """Those to which another is to be preferred, and which, by name: it is as small, as fast with any number
    of texts and as good, and better in one of these; of several such the fastest."""

    def beats(other: Variant, each: Variant) -> bool:
        speeds = [other.speed[batch] / each.speed[batch] for batch in each.speed]
        smaller, better = other.size / each.size, other.change - each.change
        better *= 1 if each.higher else -1
        worse = min(speeds) < 1 / _FASTER or smaller > 1 / _SMALLER or better < 0
        return not worse and (_faster(other, each) or smaller < _SMALLER or better > 0)

    found = {each.name: [other for other in variants if beats(other, each)] for each in variants}
    fastest = {
        name: max(others, key=lambda v: v.speed[min(v.speed)]) for name, others in found.items() if others
    }
    return {name: other.name for name, other in fastest.items()}


def remarks(variants: Sequence[Variant]) -> list[str]:
    """What the figures say, a sentence each."""
    lines, first = [], variants[0]
    for name, other in dominated(variants).items():
        lines.append(f"{name}: outdone by {other}, as small, as fast and as good, and better in one of these")
    for each in variants[1:]:
        gained = each.size < _SMALLER * first.size or each.megabytes < _SMALLER * first.megabytes
        if each.zeros > _ZEROS and not (gained or _faster(each, first)):
            lines.append(
                f"{each.name}: {each.zeros:.0%} of the layers' weights are zero, which made it neither "
                "smaller nor faster: zeros are stored and multiplied as other numbers are"
            )
    return lines


def table(variants: Sequence[Variant]) -> str:
    """For a person: the figures, and what they say."""
    first, batches = variants[0], list(variants[0].speed)
    text, on_disk = first.change_of == "perplexity", any(each.disk is not None for each in variants)
    sparse = any(each.zeros > _ZEROS for each in variants)
    head = ["", *["MB on disk"] * on_disk, "MB in memory", "layers", *["zeros"] * sparse]
    head += [f"{first.unit.replace('tokens', 'tok').replace('examples', 'ex')}/s at {n}" for n in batches]
    rows = [[*head, first.figure, "perplexity" if text else "difference"]]
    for each in variants:
        row = [each.name, *["" if each.disk is None else f"{each.disk:,.1f}"] * on_disk]
        row += [f"{each.megabytes:,.1f}", f"1/{each.layers:.2f}" if each.layers else ""]
        row += [f"{each.zeros:.0%}" if each.zeros > _ZEROS else ""] * sparse
        row += [f"{each.speed[n]:,.0f} ({each.speed[n] / first.speed[n]:.2f})" for n in batches]
        digits = ".2%" if each.higher else ".4f"
        row.append(f"{each.quality:{digits}} ± {each.error:{digits}}")
        digits = ".2%" if text else digits
        row.append("" if each is first else f"{each.change:+{digits}} ± {each.change_error:{digits}}")
        rows.append(row)
    return "\n".join([aligned(rows), *remarks(variants)])
