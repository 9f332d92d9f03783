"""LoRA and DoRA: small matrices that are trained beside frozen ones, by peft."""

from collections.abc import Container
from dataclasses import dataclass
from typing import Literal

from torch import nn

from lm.errors import UserError, not_installed

LAYERS = ("query", "key", "value", "output", "up", "gate", "down")


@dataclass
class Adapter:
    """What is trained instead of the whole network.

    Args:
        kind: lora (arXiv:2106.09685), or dora (arXiv:2402.09353), which learns each row's length apart.
        rank: of the two small matrices.
        alpha: their product counts alpha / rank times.
        dropout: probability, on what goes into them.
        layers: the linear layers of each block that get them: of attention `query`, `key`, `value`, `output`;
            of the feed-forward network `up`, `gate`, `down`. All by default, as arXiv:2305.14314 advises.
    """

    kind: Literal["lora", "dora"] = "lora"
    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    layers: tuple[str, ...] = LAYERS

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise UserError(f"adapter.rank is {self.rank}: it must be at least 1", status=2)
        if not 0 <= self.dropout < 1:
            raise UserError(f"adapter.dropout is {self.dropout}: it must be from 0 to below 1", status=2)
        unknown = [name for name in self.layers if name not in LAYERS]
        if unknown or not self.layers:
            raise UserError(
                f"adapter.layers has {unknown or 'nothing'}: it can have {', '.join(LAYERS)}", status=2
            )


def inject(net: nn.Module, adapter: Adapter, frozen_layers: int, learned: Container[str]) -> None:
    """Put the adapter into the blocks of `net`, in place: at the start it changes no output. What is not an
    adapter is frozen.

    Args:
        frozen_layers: so many of the lowest blocks get none.
        learned: names of parameters that are trained all the same: a new head's.

    Raises:
        UserError: peft is not installed, or no layer has a name that the adapter has.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise not_installed("training an adapter", "peft", "finetune") from error
    names = [
        f"backbone.blocks.{name}"
        for name, module in net.backbone.blocks.named_modules()
        if isinstance(module, nn.Linear)
        and name.rpartition(".")[2] in adapter.layers
        and int(name.partition(".")[0]) >= frozen_layers
    ]
    if not names:
        raise UserError(
            f"no layer is left for the adapter: adapter.layers is {', '.join(adapter.layers)}, freeze_layers "
            f"{frozen_layers}",
            status=2,
        )
    settings = LoraConfig(
        r=adapter.rank,
        lora_alpha=adapter.alpha,
        lora_dropout=adapter.dropout,
        target_modules=names,
        use_dora=adapter.kind == "dora",
    )
    inject_adapter_in_model(settings, net)
    for name, parameter in net.named_parameters():
        if name in learned:
            parameter.requires_grad_(True)
