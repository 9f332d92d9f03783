"""LoRA and DoRA: small matrices that are trained beside frozen ones, by peft."""

import hashlib
from dataclasses import asdict, dataclass
from typing import Any, Literal

from torch import Tensor, nn

from lm.errors import UserError

LAYERS = ("query", "key", "value", "output", "up", "gate", "down")


@dataclass
class Adapter:
    """What is trained instead of the whole network.

    Args:
        kind: lora (arXiv:2106.09685), or dora (arXiv:2402.09353), which learns each row's length apart.
        rank: of the two small matrices.
        alpha: their product counts alpha / rank times.
        dropout: probability, on what goes into them.
        layers: the linear layers of each block that get them: of attention `query`, `key`, `value`, `output`, of the
            feed-forward network `up`, `gate`, `down`. All by default, as arXiv:2305.14314 advises.
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
            raise UserError(f"adapter.layers has {unknown or 'nothing'}: it can have {', '.join(LAYERS)}", status=2)


def adapter_record(adapter: Adapter) -> dict[str, Any]:
    """The adapter in plain values, for the checkpoint."""
    return {**asdict(adapter), "layers": list(adapter.layers)}


def inject(net: nn.Module, adapter: Adapter, head: str) -> None:
    """Put the adapter into the blocks of `net`, in place: at the start it changes no output. What is not an
    adapter is frozen, but for a classifier's new head.

    Args:
        head: kind of the head; `language` heads are frozen too.

    Raises:
        UserError: peft is not installed.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise UserError("adapters need peft: pip install 'lm[lora]'") from error
    names = [
        f"backbone.{name}"
        for name, module in net.backbone.named_modules()
        if isinstance(module, nn.Linear) and name.rpartition(".")[2] in adapter.layers
    ]
    settings = LoraConfig(
        r=adapter.rank,
        lora_alpha=adapter.alpha,
        lora_dropout=adapter.dropout,
        target_modules=names,
        use_dora=adapter.kind == "dora",
    )
    inject_adapter_in_model(settings, net)
    if head != "language":
        for name, parameter in net.named_parameters():
            if not name.startswith("backbone."):
                parameter.requires_grad_(True)


def fingerprint(weights: dict[str, Tensor]) -> str:
    """A hash of a backbone's weights: an adapter is of use with these alone."""
    digest = hashlib.sha256()
    for name in sorted(n for n in weights if n.startswith("backbone.")):
        digest.update(name.encode())
        digest.update(weights[name].detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
