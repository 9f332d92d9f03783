"""What a Whisper's decoder reads in each position of the encoder: what recognition by CTC begins with.

The decoder's last layer that looks at the encoder takes a value of each position, and what it writes of the
value lies near the embeddings of the words that are said there (weights seen as maps between embeddings: Dar
et al. 2022, arXiv:2209.02535). So each of the decoder's pieces of words has a row of a linear head, which
knows words that no transcript has.
"""

from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor

from lm.convert.tokenizer_files import read_tokenizer
from lm.convert.weights import read_json, read_tensors
from lm.errors import UserError

_TABLE = "decoder.embed_tokens.weight"
_MOST = 8000  # pieces: the commonest
_QUIET = (",", "-", ".")  # what it reads where no word is said, beside the end of the text
_QUIETER = 6.0  # nats by which that is likelier at first, as it is with CTC nearly everywhere; chosen once


class DecoderWords:
    """The decoder's pieces of words, and a linear head that finds them.

    Args:
        folder: a Hugging Face folder of a whole Whisper.

    Raises:
        UserError: it is none, or its files can't be read.
    """

    def __init__(self, folder: Path) -> None:
        if not (folder / "config.json").is_file():
            raise UserError(
                f"{folder} has no decoder of a Whisper: give its folder, or other `tokens`", status=2
            )
        count = read_json(folder / "config.json").get("decoder_layers")
        last = f"decoder.layers.{count - 1 if isinstance(count, int) else None}.encoder_attn"
        layers = [f"{last}.out_proj", f"{last}.v_proj", "encoder.layer_norm", "decoder.layer_norm"]
        pairs = [(f"{layer}.weight", f"{layer}.bias") for layer in layers]
        wanted = {_TABLE, *chain.from_iterable(pairs)}
        read = read_tensors(folder, lambda name: name.removeprefix("model.") in wanted)
        tensors = {name.removeprefix("model."): tensor for name, tensor in read.items()}
        if tensors.keys() != wanted:
            raise UserError(
                f"{folder} has no decoder of a Whisper: give a whole one, or other `tokens`", status=2
            )
        self._embeddings = tensors[_TABLE]
        self._out, self._value, self._encoder_norm, self._norm = ((tensors[w], tensors[b]) for w, b in pairs)
        tokenizer = read_tokenizer(folder)
        self._end = tokenizer.eos_id
        self._ids: dict[str, int] = {}  # of a text, the commonest first
        for id in range(min(tokenizer.vocab_size, len(self._embeddings))):
            try:
                text = tokenizer.piece_bytes(id).decode()
            except UnicodeDecodeError:  # a part of a character
                continue
            if text and not tokenizer.is_special(id):
                self._ids.setdefault(text, id)

    def pieces(self, characters: set[str]) -> list[str]:
        """The commonest of more than one character that are spelled with some characters, a space at the
        most in front; the order is that in which they are merged."""
        found = [text for text in self._ids if len(text) > 1 and characters.issuperset(text.lstrip(" "))]
        return [text for text in found if " " not in text[1:]][:_MOST]

    def head(self, labels: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
        """Weight (labels, hidden_size) and bias (labels) that find what labels spell, and which of them the
        decoder has (labels). The first one is the blank."""
        (out, out_bias), (value, value_bias) = self._out, self._value
        through, plus = out @ value, out @ value_bias + out_bias
        through, plus = through - through.mean(0), plus - plus.mean()  # as the norm that follows does
        # That norm divides by a deviation, here what it is where the encoder's own norm gives variances of 1.
        deviation = (through * self._encoder_norm[0]).square().sum(1).mean().sqrt()
        gain, shift = self._norm
        through, plus = gain[:, None] * through / deviation, gain * plus / deviation + shift
        quiet = [self._ids[text] for text in _QUIET if text in self._ids]
        blank = self._embeddings[[*quiet, *([] if self._end is None else [self._end])]].mean(0)
        known = torch.tensor([label in self._ids for label in labels])
        rows = self._embeddings[[self._ids.get(label, 0) for label in labels]] * known[:, None]
        rows[0], known[0] = blank, True
        bias = rows @ plus
        bias[0] += _QUIETER
        return rows @ through, bias, known
