"""Tasks on the places in pictures whose head may be learned queries: vectors behind the patches."""

from dataclasses import replace
from typing import Any

from torch import Tensor

from lm.backbone import BackboneConfig
from lm.checkpoint import Model
from lm.errors import UserError
from lm.processes import say
from lm.tasks.image.placed import PlacedTask

_QUERIES = "backbone.embeddings.queries.weight"


class QueriedTask(PlacedTask):
    """A task that says something of every position of a picture, or of things by queries.

    Args:
        backbone: the shape of the Transformer, not causal; with `init_from` it comes from there.
        head: what speaks: `queries`, or anything else for the positions.
        queries: how many there are, of the head that has some.
    """

    beside = PlacedTask.beside | {"queries", "things"}
    kept = ("queries",)

    def __init__(self, backbone: BackboneConfig, head: str = "", queries: int = 100, **kwargs: Any) -> None:
        super().__init__(backbone, **kwargs)
        if queries < 1:
            raise UserError(f"queries is {queries}: it must be at least 1", status=2)
        self.queries = queries if head == "queries" else 0
        self.input = replace(self.input, queries=self.queries)
        self.things = 1.0  # of a picture, on average

    def head(self) -> dict[str, Any]:
        return {**super().head(), "kind": "queries" if self.queries else "positions"}

    def count_things(self, counts: list[int]) -> None:
        """Take note of how many things the pictures have that are learned from."""
        self.things = max(sum(counts) / len(counts), 1.0)
        if 0 < self.queries < max(counts):
            say(f"a picture has {max(counts)} things, but there are {self.queries} queries to find them")

    # New queries are trained, whatever else of a starting point stays as it is.

    def growth(self, start: Model) -> list[str]:
        new = self.queries != len(start.weights.get(_QUERIES, ()))
        return super().growth(start) + ([f"{self.queries} queries are new"] if self.queries and new else [])

    def _fitting(self, start: Model, name: str, ours: Tensor) -> Tensor | None:
        theirs = start.weights.get(name)
        if name == _QUERIES and (theirs is None or theirs.shape != ours.shape):
            return ours
        return super()._fitting(start, name, ours)

    def _choose_parameters(self, talk: bool) -> None:
        if self.queries and self.start is not None:
            self._fresh.append(_QUERIES)  # an adapter does not freeze them
        super()._choose_parameters(talk)
        if self.queries:
            self.net.backbone.embeddings.queries.requires_grad_(True)
