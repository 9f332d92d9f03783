"""What stands before the blocks: a raw batch to hidden states. A class of one's own is given to a network as
its `embeddings`."""

from typing import Any

from lm.backbone.inputs.base import GridConfig, Input, InputConfig, document_positions, make_norm, positions
from lm.backbone.inputs.feature_maps import FeatureMapInput, FeatureMaps
from lm.backbone.inputs.frames import FrameInput, Frames
from lm.backbone.inputs.patches import Patches, PatchInput
from lm.backbone.inputs.tokens import TokenInput
from lm.errors import UserError

# Kinds of input that a checkpoint may name.
KINDS: dict[str, type[InputConfig]] = {each.kind: each for each in (Patches, Frames, FeatureMaps)}


def read_input(described: dict[str, Any]) -> InputConfig:
    """The shape of an input from what a checkpoint says of it.

    Raises:
        UserError: it is of a kind that is not known here, or names code that is not trusted.
    """
    values = dict(described)
    kind = values.pop("kind")
    if kind not in KINDS:
        raise UserError(f"an input of kind {kind!r} is not known here ({', '.join(KINDS)})")
    return KINDS[kind].read(values)


__all__ = [
    "FeatureMapInput",
    "FeatureMaps",
    "FrameInput",
    "Frames",
    "GridConfig",
    "Input",
    "InputConfig",
    "PatchInput",
    "Patches",
    "TokenInput",
    "document_positions",
    "make_norm",
    "positions",
    "read_input",
]
