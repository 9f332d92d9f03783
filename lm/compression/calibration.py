"""What a model's layers read when texts go through it: what decides which of their weights are needed."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from lm.checkpoint import Model
from lm.errors import UserError

TEXTS, LENGTH = 64, 256  # windows of the calibration text, and their tokens at most
_AT_ONCE = 8  # windows that go through a block together
Read = Callable[[], Tensor]


def copied(model: Model) -> Model:
    """A model whose weights can be changed without changing the other's.

    Raises:
        UserError: they are integers.
    """
    if model.record.get("quantised"):
        raise UserError(f"{model.source} is quantised already: give the model that it was made of")
    weights = {name: value.clone() for name, value in model.weights.items()}
    return replace(model, weights=weights, notes=[], record=dict(model.record)).checked()


def filled(record: dict[str, Any]) -> dict[str, Any]:
    """What is said of a pruned model whose zeros have become other numbers."""
    made = record.get("pruned", {})
    return {**record, "pruned": {name: made[name] for name in made if name in ("layers", "heads", "mlp")}}


def calibration(model: Model, text: str) -> Tensor:
    """Windows (N, T) of a text's tokens, evenly spread over it, each as the model knows the start of a text.

    Raises:
        UserError: it is too short for one window.
    """
    tokenizer, length = model.tokenizer, min(LENGTH, model.config.max_seq_len)

    def frame(ids: list[int]) -> list[int]:
        return [tokenizer.start_id, *ids] if model.config.causal else tokenizer.frame(ids)[0]

    inner = length - len(frame([]))
    ids = tokenizer.encode(text)
    if len(ids) < inner:
        said = f"{inner:,} are one window of this model"
        raise UserError(
            f"the calibration text has {len(ids):,} tokens: {said}, and {TEXTS} windows are better"
        )
    count = min(TEXTS, len(ids) // inner)
    starts = [round(n * (len(ids) - inner) / max(count - 1, 1)) for n in range(count)]
    return torch.tensor([frame(ids[start : start + inner]) for start in starts])


@torch.no_grad()
def walk(model: Model, tokens: Tensor, visit: Callable[[Any, Tensor, Read], None]) -> None:
    """Send texts (N, T) through the blocks, one after the other. `visit` is called before each with the
    block, the hidden states (N, T, hidden_size) that it will read, and `read`, which gives what it makes of
    them; what it changes in the block holds for all that come after.
    """

    def before(block: Any, args: tuple[Any, ...]) -> None:
        x, *rest = args
        visit(block, x, lambda: torch.cat([block.forward(part, *rest) for part in x.split(_AT_ONCE)]))

    blocks = model.network.backbone.blocks
    handles = [block.register_forward_pre_hook(before) for block in blocks]
    try:
        model.network.backbone(tokens)
    finally:
        for handle in handles:
            handle.remove()


def inputs_of(layers: Sequence[nn.Module], read: Read, keep: Callable[[Tensor], Tensor]) -> list[Tensor]:
    """The sum of `keep` over the rows (R, in) that each of a block's layers reads while `read` works."""
    sums: dict[nn.Module, Tensor] = {}

    def heard(layer: nn.Module, args: tuple[Any, ...]) -> None:
        found = keep(args[0].flatten(0, -2))
        sums[layer] = sums[layer] + found if layer in sums else found

    handles = [layer.register_forward_pre_hook(heard) for layer in layers]
    try:
        read()
    finally:
        for handle in handles:
            handle.remove()
    return [sums[layer] for layer in layers]
