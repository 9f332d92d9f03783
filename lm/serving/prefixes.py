"""What many prompts begin with: keys and values that need not be computed again."""

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor

BLOCK = 16  # tokens; only whole blocks are kept

_Key = tuple[int, tuple[int, ...]]  # the block before it, by number, and its tokens: a path in a tree


class Prefixes:
    """Keys and values of blocks of tokens, each behind one certain beginning. Those that have not been used
    for longest go first, a text's last ones before those that they stand behind.

    Args:
        most: bytes of all of them; 0 for no cache.
    """

    def __init__(self, most: int) -> None:
        self.most, self.bytes = most, 0
        self._blocks: OrderedDict[_Key, tuple[int, Tensor]] = OrderedDict()
        self._made = 0

    def find(self, ids: Sequence[int]) -> list[Tensor]:
        """The blocks (layers, 2, K, BLOCK, D) of a prompt's beginning. Its last token is never among them:
        the model is asked what follows it."""
        found: list[Tensor] = []
        path: list[_Key] = []
        before = 0
        for end in range(BLOCK, len(ids), BLOCK):
            key = (before, tuple(ids[end - BLOCK : end]))
            if key not in self._blocks:
                break
            before, block = self._blocks[key]
            found.append(block)
            path.append(key)
        self._touch(path)
        return found

    def keep(self, ids: Sequence[int], entries: Tensor) -> None:
        """A text's blocks, from the entries (layers, 2, K, at least its length, D) that were made for it."""
        path: list[_Key] = []
        before = 0
        for end in range(BLOCK, len(ids) + 1, BLOCK):
            key = (before, tuple(ids[end - BLOCK : end]))
            if key not in self._blocks:
                block = entries[..., end - BLOCK : end, :]
                size = block.numel() * block.element_size()
                if (len(path) + 1) * size > self.most:
                    break
                self._made += 1
                self._blocks[key] = self._made, block.clone()
                self.bytes += size
            before = self._blocks[key][0]
            path.append(key)
        self._touch(path)
        while self.bytes > self.most:
            _, (_, block) = self._blocks.popitem(last=False)
            self.bytes -= block.nbytes

    def _touch(self, path: Sequence[_Key]) -> None:
        """Used now: the first block is the last to go, for those behind it can't be found without it."""
        for key in reversed(path):
            self._blocks.move_to_end(key)
