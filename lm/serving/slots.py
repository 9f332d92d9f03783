"""Texts of different lengths that are written side by side, each in a slot with its keys and values."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lm.backbone import KVCache, LanguageModel
from lm.backbone.quantised import QuantisedLinear
from lm.inference.decoder import Decoder, Layer, Prepared, attention, can_be_prepared, sight

SPREAD = 1 << 14  # numbers of a text's keys that are read for nothing, from which it is looked at alone


class Slots:
    """The keys and values of n texts, and the step that reads the last token of each.

    Args:
        most: texts at once.

    Attributes:
        lengths: tokens of each text that have been read.
    """

    def __init__(self, model: LanguageModel, most: int) -> None:
        weight = next(model.parameters())
        self.model, self.config, self.most, self.device = model, model.config, most, weight.device
        copied = can_be_prepared(model)
        self.network = Prepared(model, most, model.config.max_seq_len, copied)
        # As `lm generate` has it: on a CPU products are fastest in fp32, whatever the weights are in.
        self.dtype = torch.float32 if copied and self.device.type == "cpu" else weight.dtype
        # Where activations are rounded to three digits, a last bit becomes a thousandth: texts are looked at
        # one by one, as they are alone. The products of integers are the same for one and many.
        rounded = any(isinstance(each, QuantisedLinear) for each in model.modules())
        self.one_by_one = rounded or weight.dtype != torch.float32
        self.lengths: list[int] = []
        self.entries = self._room(0, 0)

    def _room(self, rows: int, length: int) -> Tensor:
        """Zeros: what nobody sees has to be a number all the same."""
        shape = (self.config.num_layers, 2, rows, self.config.kv_heads, length, self.config.dim_per_head)
        return torch.zeros(shape, device=self.device, dtype=self.dtype)

    def cache(self, length: int) -> KVCache:
        """An empty cache for a prompt that is being read."""
        return KVCache(self.config, 1, length, self.device, self.dtype)

    def read(self, tokens: Sequence[int], cache: KVCache, last: int) -> Tensor:
        """Read the next tokens of a prompt into its cache: logits (N, V) behind the `last` ones."""
        ids = torch.tensor([tokens], device=self.device)
        if self.one_by_one:  # as it is read alone
            hidden = self.model.backbone(ids, None, cache)[0]
            return self.model.head(hidden[len(tokens) - last :])
        return Decoder(self.model, cache, None, self.network)(ids, last)[0]

    def join(self, cache: KVCache, length: int) -> None:
        """A text whose prompt has been read becomes the last one.

        Args:
            length: positions that it may come to have.
        """
        count = len(self.lengths)
        rows, have = self.entries.shape[2], self.entries.shape[4]
        if not count and have > 4 * length:
            rows, have = 0, 0  # nobody needs what a long text left behind
        if count == rows or length > have:
            more = max(have, min(self.config.max_seq_len, -(-length // 64) * 64))
            old = self.entries[:, :, :count]
            self.entries = self._room(min(self.most, max(2 * rows, 2)) if count == rows else rows, more)
            if count:
                self.entries[:, :, :count, :, : old.shape[4]] = old
        self.entries[:, :, count, :, : cache.length] = cache.entries[:, :, 0, :, : cache.length]
        self.lengths.append(cache.length)

    def leave(self, row: int, broken: bool = False) -> None:
        """A text is gone; the last one takes its slot.

        Args:
            broken: what it leaves may be no numbers.
        """
        if broken:
            self.entries[:, :, row] = 0
        length = self.lengths.pop()
        if row < len(self.lengths):
            self.entries[:, :, row, :, :length] = self.entries[:, :, len(self.lengths), :, :length]
            self.lengths[row] = length

    def clear(self) -> None:
        """All texts are gone, and something went wrong with them."""
        self.lengths.clear()
        self.entries = self._room(0, 0)

    def kept(self, row: int) -> Tensor:
        """Keys and values (layers, 2, K, L, D) of a text."""
        return self.entries[:, :, row]

    def _window(self, windowed: bool) -> int:
        """Positions that a token sees, itself included."""
        return (self.config.window if windowed else None) or self.config.max_seq_len

    def _sight(self, lengths: Tensor, windowed: bool) -> tuple[int, Tensor | None]:
        """The first position that one of the tokens at the positions `lengths` (n,) sees, and what is added
        to their scores, (n, 1, 1, S)."""
        most, window = max(self.lengths), self._window(windowed)
        start = max(0, min(self.lengths) + 1 - window)
        if len(self.lengths) * most == sum(self.lengths):
            return start, None
        back = lengths[:, None] - torch.arange(start, most + 1, device=self.device)
        return start, sight((back >= 0) & (back < window), self.dtype)[:, None, None]

    def __call__(self, tokens: Sequence[int]) -> Tensor:
        """Logits (n, V) behind the next token of each text."""
        count, (heads, length, dim) = len(self.lengths), self.entries.shape[3:]
        ends = [each + 1 for each in self.lengths]
        lengths = torch.tensor(self.lengths, device=self.device)
        # Where the new entries stand, of a layer's as (rows * K * L, D).
        first = torch.arange(count * heads, device=self.device).view(count, heads) * length
        spots = (first + lengths[:, None]).flatten()
        nothing = count * max(ends) - sum(ends)  # positions that stand behind their text's end
        one_by_one = self.one_by_one or nothing * heads * dim > SPREAD * count
        sights = {} if one_by_one else {kind: self._sight(lengths, kind) for kind in self.network.kinds}

        def look(layer: Layer, q: Tensor, *new: Tensor) -> Tensor:
            """Each text goes on at a position of its own."""
            both, q = self.entries[layer.number].unbind(), q.to(self.dtype)
            for kept, own in zip(both, new, strict=True):
                kept.view(-1, dim).index_copy_(0, spots, own.reshape(-1, dim).to(self.dtype))
            if not one_by_one:
                start, bias = sights[layer.windowed]
                keys, values = (kept[:count].narrow(2, start, max(ends) - start) for kept in both)
                return attention(q, keys, values, bias)
            found = []
            for row, end in enumerate(ends):
                start = max(0, end - self._window(layer.windowed))
                keys, values = (kept[row : row + 1].narrow(2, start, end - start) for kept in both)
                found.append(attention(q[row : row + 1], keys, values, None))
            return torch.cat(found)

        ids = torch.tensor(tokens, device=self.device)[:, None]
        logits = self.network(ids, lengths[:, None], look)[:, 0]
        self.lengths = ends
        return logits
