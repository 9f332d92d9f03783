"""What tasks share that say where things are in a picture."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lm.data.examples.batches import Features, collate
from lm.data.images.annotated import AnnotatedData
from lm.data.media.places import Place
from lm.errors import UserError
from lm.files import write_atomically
from lm.processors.pictures import Picture, read_picture
from lm.tasks.image.base import ImageTask, PictureCollate

Pictures = Sequence[Picture]
_FAR = 4096  # pixels of a picture that the distance between positions is measured with


@dataclass(frozen=True)
class PlacedCollate(PictureCollate):
    """Features as a batch: `pixels` (B, 3, H, W) of the pictures that they name, opened here, their `sizes`
    (height and width), and what a subclass adds of the places in them."""

    @abstractmethod
    def annotate(self, picture: Picture, features: Features) -> Picture:
        """The picture as it is in its file, with what is known of its places."""

    @abstractmethod
    def added(self, features: Sequence[Features], opened: Pictures, fitted: Pictures) -> dict[str, Any]:
        """What a batch has of the places in its pictures.

        Args:
            opened: as they are in their files.
            fitted: changed at random, and as large as the input.
        """

    def __call__(self, features: Sequence[Features]) -> dict[str, Any]:
        batch = collate([{k: f[k] for k in ("index", "draw") if k in f} for f in features], {})
        opened = [self.opened(each) for each in features]
        fitted = [self.changed(*each) for each in zip(opened, features, strict=True)]
        batch["pixels"] = torch.stack([self.processor.pixels(picture) for picture in fitted])
        batch["sizes"] = [picture.size for picture in opened]
        return batch | self.added(features, opened, fitted)

    def opened(self, features: Features) -> Picture:
        place = Place(*features["place"])
        return self.annotate(read_picture(place.read(), place.where), features)


def classes_of(pictures: Pictures) -> Tensor:
    """The classes of the things on pictures, (B, N), -1 behind the last."""
    classes = [torch.from_numpy(each.labels) for each in pictures]
    return pad_sequence(classes, batch_first=True, padding_value=-1)


class PlacedTask(ImageTask):
    """A task that says something of every position of a picture."""

    beside = ImageTask.beside | {"_written"}

    @abstractmethod
    def outputs(self) -> int:
        """Numbers that come out at each position."""

    def head(self) -> dict[str, Any]:
        dropout = self.config.dropout
        made = {"kind": "positions", "outputs": self.outputs(), "pooling": None}
        return {**made, "pooler": False, "dropout": dropout}

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of positions."""
        return self.input.grid(*self.processor.size)

    @property
    def step(self) -> int:
        """Pixels from one position to the next."""
        return round(_FAR / self.input.grid(_FAR, _FAR)[0])

    def find_labels(self, data: AnnotatedData) -> list[str]:
        found = data.class_names()
        if not found:
            raise UserError(f"there is nothing on the pictures of {data.called('train')}: nothing to learn")
        return found

    def logits(self, batch: dict[str, Any]) -> Tensor:
        return self.net(batch["pixels"])

    @abstractmethod
    def losses(self, batch: dict[str, Any], logits: Tensor) -> Tensor:
        """The summed loss of each picture (B,), from outputs (B, T, outputs) in fp32."""

    @abstractmethod
    def targets(self, batch: dict[str, Any]) -> Tensor:
        """What each picture's loss is a sum over, (B,): things, or pixels."""

    @property
    @abstractmethod
    def expected(self) -> float:
        """How many of these a picture has on average."""

    @abstractmethod
    def measure(self, batch: dict[str, Any], logits: Tensor, losses: Tensor) -> None:
        """Add pictures to the figures: those that count, the first ones of the batch, as many as losses."""

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        total = self.losses(batch, self.logits(batch)).sum()
        return self.outcome(
            total, self.data.batch_size * self.expected, self.targets(batch).sum().clamp(min=1)
        )

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        counted, logits = batch["index"] >= 0, self.logits(batch)
        losses, targets = self.losses(batch, logits)[counted], self.targets(batch)[counted]
        self.loss.update(losses.sum(), targets.sum())
        self.measure(batch, logits, losses / targets.clamp(min=1))

    @abstractmethod
    def row(self, found: Any) -> dict[str, Any]:
        """What is said of a picture, in plain values."""

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> list[dict[str, Any]]:
        examples, found = self.data.examples("test"), self.look(batch, self.logits(batch))
        return [
            {"index": i, **self.named(examples[i]), **self.row(each)}
            for i, each in zip(batch["index"].tolist(), found, strict=True)
            if i >= 0
        ]

    # Of a line that a person gives; see `lm.tasks.applying`.

    @abstractmethod
    def look(self, batch: dict[str, Any], logits: Tensor) -> list[Any]:
        """What is found on each picture, in its own pixels."""

    @cached_property
    def _written(self) -> dict[Path, str]:
        """Files that were written, and of which photos."""
        return {}

    def file_for(self, folder: str | Path, photo: str) -> Path:
        """Where a picture of a photo is written: `cat.png` of `a/cat.jpg`; of another cat as much of its path
        as tells the two apart: `b-cat.jpg.png`."""
        parts = Path(photo).parts
        longer = ("-".join(parts[-n:]).lstrip("/") for n in range(2, max(len(parts), 2) + 1))
        for name in (Path(photo).stem, *longer):
            path = Path(folder) / f"{name}.png"
            if self._written.setdefault(path, photo) == photo:
                break
        return path


class Drawn:
    """Pixels of a batch's pictures, each drawn on when it is asked for.

    Args:
        task: whose input they are.
        pixels: (B, 3, H, W).
        draw: given a picture's number in the batch and the picture, uint8 (H, W, 3), draws on a copy.
    """

    def __init__(
        self, task: ImageTask, pixels: Tensor, draw: Callable[[int, np.ndarray], np.ndarray]
    ) -> None:
        self.processor, self.pixels, self.draw = task.processor, pixels, draw

    def __getitem__(self, number: int) -> Tensor:
        drawn = self.draw(number, self.processor.image(self.pixels[number]))
        return self.processor.pixels(Picture(drawn))


def png(pixels: np.ndarray, palette: Sequence[tuple[int, int, int]] = ()) -> bytes:
    """A PNG file: colours uint8 (H, W, 3), or labels (H, W) with the colours that show them."""
    from PIL import Image

    image = Image.fromarray(pixels)
    if palette:
        image.putpalette([value for colour in palette for value in colour])
    file = BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def write_picture(path: Path, pixels: np.ndarray, palette: Sequence[tuple[int, int, int]] = ()) -> str:
    """Write a PNG file; see `png`. Gives the path.

    Raises:
        UserError: it can't be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, png(pixels, palette))
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    return str(path)


def photo(place: Place) -> np.ndarray:
    """The pixels of a picture as it is in its file, uint8 (H, W, 3)."""
    return read_picture(place.read(), place.where).pixels
