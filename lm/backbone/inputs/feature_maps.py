"""Feature maps of a CNN, mostly a pretrained one: the hybrid ViT's input (arXiv:2010.11929) and DETR's
(arXiv:2005.12872)."""

import importlib
import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lm.backbone.config import BackboneConfig
from lm.backbone.inputs.base import GridConfig, Input, behind, make_norm
from lm.backbone.inputs.packaged import PACKAGED
from lm.backbone.inputs.patches import padded, sine_positions
from lm.errors import UserError, not_installed, some

TRUST = "LM_TRUST"  # packages, with commas between them, that a checkpoint may name a class of
_SIDE = 128  # of the picture that channels and strides are found with


@dataclass
class FeatureMaps(GridConfig):
    """A CNN before the blocks: each place of its feature map is a position, row by row.

    Exactly one of `model`, `config` and `class_path` says which. A checkpoint has the CNN's weights and its
    config, so that it needs no `model`; what a class path names has to be installed.

    Args:
        model: a Hugging Face folder of a CNN: ResNet, RegNet, ConvNeXt, MobileNetV2, EfficientNet; or
            `efficientnet-lite0`, which a package holds.
        config: what its config.json says, for new weights.
        class_path: a torch module of one's own, or a function that makes one, with its weights.
        init_args: for it.
        levels: names of the parts of it whose outputs are taken: `encoder.stages.1` of a ResNet,
            `encoder.blocks.10` of an EfficientNet, `_blocks.10` of that of the package. Several are summed at
            the size of the finest, as a feature pyramid does (arXiv:1612.03144). Empty: what it gives itself,
            a map (B, channels, rows, columns).
        frozen: true: all of the CNN stays as it is; or the name of its last part that does.
        norms: whether the statistics of its batch norms stay as they are.
        channels, strides: of the maps; they are found out.
    """

    kind: ClassVar[str] = "feature_maps"

    model: str | None = None
    config: dict[str, Any] | None = None
    class_path: str | None = None
    init_args: dict[str, Any] = field(default_factory=dict)
    levels: list[str] = field(default_factory=list)
    frozen: bool | str = False
    norms: Literal["frozen", "trained"] = "frozen"
    channels: list[int] | None = None
    strides: list[int] | None = None

    def __post_init__(self) -> None:
        if sum(each is not None for each in (self.model, self.config, self.class_path)) != 1:
            raise UserError("give one of input.model, input.config and input.class_path", status=2)
        folder = self.model is not None and self.model not in PACKAGED
        if folder and not (Path(self.model) / "config.json").is_file():
            known = ", ".join(PACKAGED)
            words = f"that is no Hugging Face folder, nor one of {known}"
            raise UserError(f"input.model is {self.model}: {words}", status=2)

    def described(self) -> dict[str, Any]:
        """The values, with the kind and without a folder."""
        self.grid(1, 1)
        values = {"kind": self.kind, **asdict(self)}
        if self.model is not None and self.model not in PACKAGED:
            config = json.loads((Path(self.model) / "config.json").read_text("utf-8"))
            values |= {"model": None, "config": config}
        return values

    @classmethod
    def read(cls, values: dict[str, Any]) -> Self:
        """Raises UserError: it names a folder, or a class of a package that this process was not told to
        trust."""
        if values.get("model") not in (None, *PACKAGED):
            raise UserError(f"the model was made with a CNN that is not known here: {values['model']}")
        package = (values.get("class_path") or "").partition(".")[0]
        if package and package not in os.environ.get(TRUST, "").split(","):
            raise UserError(
                f"the model was made with {values['class_path']}, and a checkpoint does not decide which "
                f"code runs: if you trust the package {package}, set {TRUST}={package}"
            )
        return cls(**values)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of the finest map of a picture; it is padded so that the coarsest one fits."""
        if self.strides is None:
            self._look(self._network())
        coarse, fine = max(self.strides), min(self.strides)
        return -(-height // coarse) * (coarse // fine), -(-width // coarse) * (coarse // fine)

    def of_size(self, size: tuple[int, int]) -> "FeatureMaps":
        """The same for pictures of a height and width: it is for all."""
        return self

    def make(self, config: BackboneConfig) -> "FeatureMapInput":
        network = self._network()
        if self.strides is None:
            self._look(network)
        return FeatureMapInput(config, self, network)

    def maps(self, network: nn.Module, raw: Tensor) -> list[Tensor]:
        """The maps (B, channels, rows, columns) that a network gives of pictures."""
        found: dict[str, Any] = {}
        hooks = [
            network.get_submodule(name).register_forward_hook(
                lambda _, given, output, name=name: found.update({name: output})
            )
            for name in self.levels
        ]
        try:
            output = network(raw)
        finally:
            for hook in hooks:
                hook.remove()
        outputs = [found.get(name) for name in self.levels] or [output]
        outputs = [getattr(each, "last_hidden_state", each) for each in outputs]
        return [each[0] if isinstance(each, tuple) else each for each in outputs]

    @torch.no_grad()
    def _look(self, network: nn.Module) -> None:
        """Find out channels and strides."""
        known = dict(network.named_modules())
        if missing := [name for name in self.levels if name not in known]:
            there = some([name for name, _ in network.named_children()], 12)
            raise UserError(f"input.levels: the network has no part {missing[0]}; it has {there}", status=2)
        found = self.maps(network.eval(), _black(network))
        for name, each in zip(self.levels or ["the network"], found, strict=True):
            if not isinstance(each, Tensor) or each.ndim != 4:
                there = tuple(each.shape) if isinstance(each, Tensor) else type(each).__name__
                words = (
                    f"{name} gives {there}, no map (1, channels, rows, columns): name a part that gives one"
                )
                raise UserError(f"input.levels: {words}", status=2)
        self.channels = [each.shape[1] for each in found]
        self.strides = [round(_SIDE / each.shape[2]) for each in found]

    @torch.enable_grad()
    def beyond(self, network: nn.Module) -> list[nn.Parameter]:
        """Parameters from which no path leads to a level, such as those of the network's own head: no
        gradient comes to them, which processes that learn together would wait for. None on the meta device,
        where nothing is trained."""
        trained = [each for each in network.parameters() if each.requires_grad]
        if not trained or any(each.is_meta for each in trained):
            return []
        maps = [each.sum() for each in self.maps(network.eval(), _black(network)) if each.requires_grad]
        found = torch.autograd.grad(maps, trained, allow_unused=True) if maps else [None] * len(trained)
        return [each for each, gradient in zip(trained, found, strict=True) if gradient is None]

    def _network(self) -> nn.Module:
        """The CNN, with its weights where it brings them along."""
        if self.class_path is not None:
            with torch.device("cpu"):  # it may read its weights, though no memory is asked for here
                return _named(self.class_path)(**self.init_args)
        if self.model in PACKAGED:
            return PACKAGED[self.model]()
        try:
            import transformers
        except ImportError as error:
            raise not_installed("a CNN of Hugging Face's", "transformers", "lora") from error
        if self.model is None:
            values = dict(self.config)
            config = transformers.AutoConfig.for_model(values.pop("model_type", None), **values)
            return transformers.AutoModel.from_config(config, trust_remote_code=False)
        level = transformers.logging.get_verbosity()
        transformers.logging.set_verbosity_error()  # that a head was left out
        try:
            return transformers.AutoModel.from_pretrained(
                self.model,
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
                dtype=torch.float32,
            )
        except (OSError, ValueError) as error:
            raise UserError(f"input.model is {self.model}: {str(error).splitlines()[0]}", status=2) from error
        finally:
            transformers.logging.set_verbosity(level)


class FeatureMapInput(Input):
    """A CNN's maps to hidden states. Without a block behind it, a single one with as many channels as the
    hidden size is handed on as it is: then a linear head makes a plain CNN of it."""

    def __init__(self, config: BackboneConfig, shape: FeatureMaps, network: nn.Module) -> None:
        super().__init__()
        self.shape, self.width, self.placed = shape, config.hidden_size, config.num_layers > 0
        self.network = network
        plain = shape.channels == [self.width] and not self.placed
        sizes = () if plain else shape.channels
        self.projections = nn.ModuleList(nn.Conv2d(channels, self.width, 1) for channels in sizes)
        self.norm = nn.Identity() if plain else make_norm(config)
        self.queries = nn.Embedding(shape.queries, self.width) if shape.queries else None
        self.dropout = nn.Dropout(config.dropout)
        for parameter in self._frozen():
            parameter.requires_grad_(False)
        # A run whose optimizer has these in its groups, as it once did, can't go on; its weights can be used.
        for parameter in shape.beyond(network):
            parameter.requires_grad_(False)
        self.train()

    def _frozen(self) -> list[nn.Parameter]:
        names, parameters = zip(*self.network.named_parameters(), strict=True)
        if isinstance(self.shape.frozen, bool):
            return list(parameters) if self.shape.frozen else []
        within = [at for at, name in enumerate(names) if name.startswith(f"{self.shape.frozen}.")]
        if not within:
            there = some([name for name, _ in self.network.named_children()], 12)
            raise UserError(
                f"input.frozen: the network has no part {self.shape.frozen}; it has {there}", status=2
            )
        return list(parameters[: within[-1] + 1])

    def brought(self) -> Iterable[nn.Module]:
        return self.network.modules()

    def train(self, mode: bool = True) -> Self:
        """What is frozen stays in evaluation mode."""
        super().train(mode)
        if self.shape.frozen is True:
            self.network.eval()
        elif self.shape.norms == "frozen":
            for module in self.network.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def forward(self, raw: Tensor, documents: Tensor | None = None, past: int = 0, **more: Any) -> Tensor:
        """Hidden states (B, rows · columns + queries, hidden_size) of pictures (B, channels, height, width),
        padded with zeros on the right and at the bottom to a multiple of the coarsest stride."""
        raw = raw.to(next(self.network.parameters()).dtype)  # sharded weights may compute in bf16
        maps = self.shape.maps(self.network, padded(raw, max(self.shape.strides)))
        finest = max(each.shape[2:] for each in maps)
        if self.projections:
            maps = [project(each) for project, each in zip(self.projections, maps, strict=True)]
        x = maps[0] if len(maps) == 1 else sum(F.interpolate(each, finest) for each in maps)
        x = self.norm(x.flatten(2).transpose(1, 2))
        if self.placed:
            x = x + sine_positions(*finest, self.width, x.device).to(x.dtype)
        return self.dropout(behind(x, self.queries))


def _black(network: nn.Module) -> Tensor:
    """A picture (1, channels, _SIDE, _SIDE) for a network, whose first kernel has the picture's channels."""
    first = next(each for each in network.parameters() if each.ndim == 4)
    return torch.zeros(1, first.shape[1], _SIDE, _SIDE, device=first.device, dtype=first.dtype)


def _named(path: str) -> Any:
    """What a class path names: a class, a function, or a class's own one, such as
    `package.Network.from_pretrained`."""
    parts = path.split(".")
    for count in range(len(parts) - 1, 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:count]))
            for name in parts[count:]:
                found = getattr(found, name)
            return found
        except ModuleNotFoundError as error:
            if error.name is None or not ".".join(parts[:count]).startswith(error.name):
                raise
        except AttributeError:
            break
    raise UserError(f"input.class_path is {path}: there is no such class or function", status=2)
