"""Our tensors from theirs and theirs from ours, by a family's list of parts."""

from collections.abc import Iterable

import torch
from torch import Tensor

from lm.convert.family import Part

Shape = tuple[int, ...]


def shape_of(part: Part, shapes: dict[str, Shape]) -> Shape:
    """The shape of their tensor, by the shapes of ours."""
    if not part.ours:
        return part.zeros
    shape = shapes[part.ours[0]]
    if part.skip or len(part.ours) > 1:
        shape = (sum(shapes[name][0] for name in part.ours) + part.skip, *shape[1:])
    return shape[::-1] if part.transposed else shape


def unpack(parts: Iterable[Part], tensors: dict[str, Tensor], shapes: dict[str, Shape]) -> dict[str, Tensor]:
    """Our tensors by our names, from theirs, which have the right shapes. One of ours that is in theirs twice
    is taken once."""
    ours: dict[str, Tensor] = {}
    for part in parts:
        if not part.ours:
            continue
        tensor = tensors[part.theirs]
        tensor = tensor.T if part.transposed else tensor
        pieces = [tensor]
        if part.skip or len(part.ours) > 1:
            pieces = tensor[part.skip :].split([shapes[name][0] for name in part.ours])
        for name, piece in zip(part.ours, pieces, strict=True):
            if name not in ours:
                # Each with memory of its own: parts of one would be saved with the whole of it.
                shared = len(pieces) > 1 or part.skip
                ours[name] = (
                    piece.clone(memory_format=torch.contiguous_format) if shared else piece.contiguous()
                )
    return ours


def pack(part: Part, ours: dict[str, Tensor]) -> Tensor:
    """Their tensor from ours, with memory of its own: what shares some is written once."""
    if not part.ours:
        return torch.zeros(part.zeros)
    found = [ours[name] for name in part.ours]
    tensor = found[0].clone() if len(found) == 1 else torch.cat(found)  # a scalar can't be joined
    if part.skip:
        tensor = torch.cat((tensor.new_zeros(part.skip, *tensor.shape[1:]), tensor))
    return (tensor.T if part.transposed else tensor).contiguous()
