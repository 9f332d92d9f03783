"""Drafts of what comes next, looked up in the text itself: prompt lookup decoding.

Where a text repeats what it said (code, summaries, answers about a document), the tokens that followed the
last time often follow again. A model reads a few tokens in hardly more time than one, and those that it would
have written itself stand: the text is the same, but for rounding. Source: prompt lookup decoding (A. Saxena,
2023), which is speculative decoding (arXiv:2211.17192) without a second model.
"""

from collections.abc import Callable

import torch
from torch import Tensor

SHORTEST, LONGEST = 2, 3  # tokens that are looked up: one alone is seldom followed by the same


class Lookup:
    """Logits behind a text, read with a draft of what follows, so that some are there before they are needed.

    Args:
        read: logits (1, 1 + N, V) behind a text (1, T) and behind each of the N tokens of a draft at its end.
        room: how long the draft of a text of so many tokens can be.
        most: tokens of a draft.
    """

    def __init__(self, read: Callable[[Tensor, int], Tensor], room: Callable[[int], int], most: int) -> None:
        self.read, self.room, self.most = read, room, most
        self.hope = most  # tokens of the next draft: few, where drafts are wrong
        self.ids: list[int] = []
        self.after: dict[
            tuple[int, ...], int
        ] = {}  # where that begins which followed some tokens the last time
        self.draft: list[int] = []
        self.stand = 0  # tokens of the draft that were chosen
        self.logits = torch.empty(0)

    def __call__(self, text: Tensor) -> Tensor:
        """Logits (1, V) behind a text (1, T), which is longer than at the last call."""
        new = text[0, len(self.ids) :].tolist()
        self._extend(new)
        if self.stand < len(self.draft) and new == [self.draft[self.stand]]:
            self.stand += 1
            return self.logits[:, self.stand]
        if self.draft:
            right = self.stand == len(self.draft)
            self.hope = min(self.most, 2 * self.hope) if right else max(1, self.stand)
        self.draft, self.stand = self._find(min(self.hope, self.room(len(self.ids)))), 0
        self.logits = self.read(torch.cat((text, text.new_tensor([self.draft])), 1), len(self.draft))
        return self.logits[:, 0]

    def _extend(self, new: list[int]) -> None:
        """The text goes on."""
        for token in new:
            for count in range(SHORTEST, min(LONGEST, len(self.ids)) + 1):
                self.after[tuple(self.ids[-count:])] = len(self.ids)
            self.ids.append(token)

    def _find(self, most: int) -> list[int]:
        """What followed the end of the text the last time; nothing where it is new."""
        for count in range(min(LONGEST, len(self.ids)), SHORTEST - 1, -1):
            start = self.after.get(tuple(self.ids[-count:]))
            if start is not None:
                return self.ids[start : start + max(0, most)]
        return []
