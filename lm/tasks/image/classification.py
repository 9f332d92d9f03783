"""Classifying pictures: one label, several, or a number."""

from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor

from lm.backbone import BackboneConfig
from lm.data.examples.batches import Features
from lm.data.images.mixing import mixed
from lm.data.images.module import ImageExample
from lm.errors import UserError
from lm.tasks.classification import Classification
from lm.tasks.image.base import ImageTask


class ImageClassification(ImageTask, Classification):
    """Put a label on a picture; several labels; or rate it.

    Args:
        backbone: the shape of the Transformer, not causal; with `init_from` it comes from there.
        mixup: a picture is learned from as a mean with another of its batch (arXiv:1710.09412); the share is
            drawn from Beta(mixup, mixup). 0: never.
        cutmix: likewise, but with a window of another in its place (arXiv:1905.04899). Where both are given,
            one of them is drawn.
        also: what is read beside the first position, where `pooling` is that: the `mean` of the patches, as
            DINOv2 is evaluated.
    """

    reads = ImageExample
    thing = "picture"
    data_class = "lm.data.ImageData"
    usage = "classify {} photo.jpg"
    beside = Classification.beside | ImageTask.beside | {"mixup", "cutmix"}

    def __init__(
        self,
        backbone: BackboneConfig,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        also: Literal["mean"] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone, **kwargs)
        if also is not None and self.pooling != "first":
            raise UserError(
                f"also is {also}, beside the first position: give `model.pooling` first", status=2
            )
        self.also = also
        for name, value in (("mixup", mixup), ("cutmix", cutmix)):
            if value < 0:
                raise UserError(f"{name} is {value}: it must be at least 0", status=2)
        self.mixup, self.cutmix = mixup, cutmix

    def head(self) -> dict[str, Any]:
        if self.also and not self.input.prefix:
            wanted = "there is none: `model.input.prefix` 1 makes one"
            raise UserError(f"also is {self.also}, beside the class token, but {wanted}", status=2)
        return super().head()

    def encode(self, example: ImageExample, training: bool) -> list[Features]:
        """`place`, and `target` where the label is known."""
        target = self.target(example.label)
        features = {"place": list(example.place)}
        return [features if target is None else {**features, "target": target}]

    def logits(self, batch: dict[str, Any]) -> Tensor:
        return self.net(batch["pixels"])

    def looked(self, batch: dict[str, Any], logits: Tensor, target: Tensor, losses: Tensor) -> None:
        def caption(number: int) -> str:
            if self.kind == "rating":
                return f"{target[number]:.4g}: {logits[number, 0]:.4g}"
            found = self.row(self.probabilities(logits[number : number + 1])[0].tolist())
            truth = target[number] if self.kind == "multi" else F.one_hot(target[number], len(self.labels))
            names = [name for name, holds in zip(self.labels, truth.tolist(), strict=True) if holds]
            guess = found["prediction"]
            return f"{', '.join(names)}: {guess if isinstance(guess, str) else ', '.join(guess)}"

        self.show_worst(batch, losses, caption)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        if not (self.mixup or self.cutmix) or self.kind == "rating":
            return super().training_step(batch, batch_idx)
        target = batch["target"]
        if self.kind == "single":
            target = F.one_hot(target, len(self.labels)).float()
        pixels, target = mixed(batch["pixels"], target, batch["draw"], self.mixup, self.cutmix)
        losses = self.losses(self.logits({"pixels": pixels}), target, training=True)
        return self.outcome(losses.sum(), self.data.batch_size, len(losses))
