"""Writing: from a prompt to tokens, one at a time, with or without a cache of keys and values."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lm.backbone import KVCache, LanguageModel
from lm.errors import UserError
from lm.inference.decoder import Decoder, can_be_prepared
from lm.inference.lookup import Lookup
from lm.tokenizer import StreamDecoder, Tokenizer


@dataclass
class Sampling:
    """How the next token is chosen from the logits.

    Args:
        temperature: divides the logits; 0 always takes the likeliest token.
        top_k: only this many likeliest tokens; 0 for all.
        top_p: only the likeliest tokens that make up this probability (arXiv:1904.09751); 1 for all.
        min_p: only tokens at least this many times as likely as the likeliest (arXiv:2407.01082); 0 for all.
        repetition_penalty: logits of tokens that stand in the context are divided by it where positive and
            multiplied where negative (arXiv:1909.05858); 1 for none.
        lookup: where one text is written, read up to this many tokens at once that followed the last time,
            and keep those that would have been chosen anyway: the same text, sooner where it repeats itself.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    lookup: int = 0

    def __post_init__(self) -> None:
        for name, good, wanted in (
            ("temperature", self.temperature == 0 or self.temperature >= 1e-3, "0, or 0.001 and more"),
            ("top_k", self.top_k >= 0, "0 or more"),
            ("top_p", 0 < self.top_p <= 1, "above 0, at most 1"),
            ("min_p", 0 <= self.min_p <= 1, "from 0 to 1"),
            ("repetition_penalty", self.repetition_penalty > 0, "above 0"),
            ("lookup", self.lookup >= 0, "0 or more"),
        ):
            if not good:
                raise UserError(f"`{name}` {getattr(self, name)}: it must be {wanted}", status=2)

    def choose(
        self,
        logits: Tensor,
        context: Tensor,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
    ) -> Tensor:
        """The next token of each of N samples: (N,) from logits (N, V) and the tokens so far (N, T), drawn by
        one generator or by N, one for each."""
        logits = logits.float()
        if self.repetition_penalty != 1:
            seen = logits.gather(1, context)
            seen = torch.where(seen > 0, seen / self.repetition_penalty, seen * self.repetition_penalty)
            logits = logits.scatter(1, context, seen)
        # A token that is not a number is the largest, so that the largest tells of all.
        if self.temperature == 0:
            best, chosen = logits.max(dim=-1)
            self._check(best)
            return chosen
        kept = min(self.top_k or logits.shape[-1], logits.shape[-1])
        order: Tensor | None = None
        if self.top_k or self.top_p < 1:  # the few that are left, the likeliest first
            logits, order = logits.topk(kept, dim=-1)
        self._check(logits[:, 0] if order is not None else logits)
        probabilities = (logits / self.temperature).softmax(dim=-1)
        if self.top_p < 1:
            before = probabilities.cumsum(dim=-1) - probabilities
            probabilities = probabilities.masked_fill(before >= self.top_p, 0)
        if self.min_p:
            least = probabilities.amax(dim=-1, keepdim=True) * self.min_p
            probabilities = probabilities.masked_fill(probabilities < least, 0)
        if isinstance(generator, Sequence):
            rows = zip(probabilities, generator, strict=True)
            drawn = torch.stack([torch.multinomial(row, 1, generator=own) for row, own in rows])
        else:
            drawn = torch.multinomial(probabilities, 1, generator=generator)
        return (drawn if order is None else order.gather(1, drawn)).squeeze(1)

    @staticmethod
    def _check(logits: Tensor) -> None:
        if not bool(logits.isfinite().all()):
            raise UserError("the model's logits are not finite: its training has diverged")


class Sample(NamedTuple):
    """Something that a model does, to look at.

    Args:
        text: to be shown.
        opening: the part of it that was given.
    """

    text: str = ""
    opening: str = ""


def context_start(length: int, limit: int) -> int:
    """Where the context of a text of `length` tokens starts, for a model that sees `limit` of them. Once the
    text is longer, the context is cut to half of the limit and grows again, so that a cache lasts a while."""
    if length <= limit:
        return 0
    half = limit // 2
    step = limit - half
    return -(-(length - limit) // step) * step


class _Reader:
    """What comes next after each of B texts: the model reads their beginning, a decoder goes on from there.

    Args:
        room: positions that a cache needs.
        documents: (B, T), of texts that are padded on the left.
    """

    def __init__(self, model: LanguageModel, room: int, documents: Tensor | None, use_cache: bool) -> None:
        self.model, self.room, self.documents, self.use_cache = model, room, documents, use_cache
        device = model.head.weight.device
        autocast = torch.is_autocast_enabled(device.type)  # rounds each product for itself
        self.prepared = use_cache and not autocast and can_be_prepared(model)
        self.cache: KVCache | None = None
        self.decoder: Decoder | None = None
        self.begun = -1  # where the context starts that is in the cache

    def __call__(self, text: Tensor, drafted: int = 0) -> Tensor:
        """Logits (B, 1 + drafted, V) behind texts (B, T) and each token of a draft at their end. Without the
        draft they are longer than at the last call."""
        config, known = self.model.config, text.shape[1] - drafted
        start = context_start(known, config.max_seq_len)
        if not self.use_cache:
            return self.model(text[:, start:])[:, -1 - drafted :]
        if self.documents is not None:  # what is written belongs to the text
            self.documents = F.pad(self.documents, (0, text.shape[1] - self.documents.shape[1]))
        if self.cache is None or start != self.begun:
            self.decoder, self.begun = None, start
            # A decoder's products are fastest in fp32 on a CPU, whatever the weights are in.
            fp32 = self.prepared and text.device.type == "cpu"
            dtype = torch.float32 if fp32 else self.model.head.weight.dtype
            self.cache = KVCache(config, len(text), self.room, text.device, dtype)
        else:
            self.cache.length = known - 1 - start  # a draft that did not stand is forgotten
            if self.prepared:
                before = None if self.documents is None else self.documents[:, : known - 1]
                self.decoder = self.decoder or Decoder(self.model, self.cache, before)
                return self.decoder(text[:, known - 1 :])
        unread = text[:, start + self.cache.length :]
        if self.prepared:  # the head is for the last positions alone
            last = self.model.backbone(unread, self.documents, self.cache)[:, -1 - drafted :]
            return self.model.head(last)
        return self.model(unread, self.documents, cache=self.cache)[:, -1 - drafted :]

    def ahead(self, known: int) -> int:
        """Tokens that a draft behind a text of `known` tokens can have."""
        return self.room - (known - context_start(known, self.model.config.max_seq_len))

    def keep(self, rows: Tensor) -> None:
        """Go on with the texts where `rows` (B,) is True."""
        self.decoder = None
        self.documents = None if self.documents is None else self.documents[rows]
        if self.cache is not None:
            self.cache.keep(rows)


@torch.no_grad()
def write(
    model: LanguageModel,
    text: Tensor,
    tokens: int,
    sampling: Sampling,
    generator: torch.Generator | Sequence[torch.Generator],
    ends: Sequence[int] = (),
    documents: Tensor | None = None,
    use_cache: bool = True,
    vocab_size: int | None = None,
) -> Iterator[Tensor]:
    """Write up to `tokens` tokens after each of B texts (B, T), until all have ended.

    Args:
        generator: one for all texts, or one for each.
        ends: tokens that end a text; one that has ended goes on as the first of them.
        documents: (B, T), of texts that are padded on the left; with `tokens` more they have to fit into the
            model's positions.
        use_cache: keep keys and values; without it every step computes everything anew, to the same result.
        vocab_size: tokens of the tokenizer, where the model has room for more; no others are chosen.

    Yields:
        The next token of each text (B,). Where half of them have ended, these are computed no longer.
    """
    stops = torch.tensor(ends, dtype=text.dtype, device=text.device)
    reader = _Reader(model, min(model.config.max_seq_len, text.shape[1] + tokens), documents, use_cache)
    drafts = Lookup(reader, reader.ahead, sampling.lookup) if sampling.lookup and len(text) == 1 else None
    texts, rows = len(text), torch.arange(len(text), device=text.device)  # that are still written
    ended = torch.zeros(texts, dtype=torch.bool, device=text.device)
    written = torch.cat((text, text.new_empty(texts, tokens)), dim=1)
    # Nobody's draws hang on those that have ended.
    alone = reader.prepared and (sampling.temperature == 0 or isinstance(generator, Sequence))
    was_training = model.training
    model.eval()
    try:
        for length in range(text.shape[1], text.shape[1] + tokens):
            text = written[:, :length]
            logits = drafts(text) if drafts else reader(text)[:, -1]
            piece = sampling.choose(logits[:, :vocab_size], text, generator)
            if len(stops):
                piece = torch.where(ended, stops[0], piece)
                ended |= torch.isin(piece, stops)
            written[:, length] = piece
            yield piece if len(rows) == texts else stops[0].repeat(texts).index_copy(0, rows, piece)
            left = len(rows) if not len(stops) else int((~ended).sum())
            if left == 0:
                return
            if alone and 2 * left <= len(rows):
                going = ~ended
                reader.keep(going)
                if isinstance(generator, Sequence):
                    generator = [own for own, goes in zip(generator, going.tolist(), strict=True) if goes]
                rows, written, ended = rows[going], written[going], ended[going]
    finally:
        model.train(was_training)


def generate(
    model: LanguageModel,
    prompt: list[int],
    tokens: int,
    sampling: Sampling,
    samples: int = 1,
    seed: int = 0,
    end: int | None = None,
    use_cache: bool = True,
    vocab_size: int | None = None,
) -> Iterator[list[int]]:
    """Write up to `tokens` tokens after `prompt`, for several samples at once; see `write`.

    Args:
        prompt: ids; at least one.
        end: the token that ends a text.

    Yields:
        The next token of each sample.
    """
    device = model.head.weight.device
    text = torch.tensor([prompt] * samples, device=device)
    generator = torch.Generator(device=device).manual_seed(seed)
    ends = () if end is None else (end,)
    for pieces in write(model, text, tokens, sampling, generator, ends, None, use_cache, vocab_size):
        yield pieces.tolist()


def prompt_ids(tokenizer: Tokenizer, prompt: str) -> list[int]:
    """A prompt as the model knows text: what its tokenizer puts first, if it does, then its tokens."""
    return tokenizer.opening + tokenizer.encode(prompt) or [tokenizer.start_id]


def stream_text(
    model: LanguageModel,
    tokenizer: Tokenizer,
    prompt: str | list[int],
    tokens: int,
    sampling: Sampling,
    samples: int = 1,
    seed: int = 0,
    stops: tuple[str, ...] = (),
    use_cache: bool = True,
    ends: tuple[int | None, ...] | None = None,
) -> Iterator[tuple[int, str]]:
    """Text after `prompt` as it is written.

    Args:
        prompt: a text, or ids.
        stops: a sample ends before the first of these strings.
        ends: tokens that end a sample; None: that of the tokenizer.

    Yields:
        (sample, text that is certain by now); text that may be the start of a stop string is held back.
    """
    ends = (tokenizer.eos_id,) if ends is None else ends
    ids = prompt_ids(tokenizer, prompt) if isinstance(prompt, str) else prompt
    decoders = [StreamDecoder(tokenizer) for _ in range(samples)]
    held = [""] * samples
    open_samples = set(range(samples))

    def settle(sample: int, final: bool) -> str:
        """The part of a sample's held text that can be shown."""
        text = held[sample]
        found = [at for at in (text.find(s) for s in stops) if at >= 0]
        if found:
            open_samples.discard(sample)
            return text[: min(found)]
        # Only an end that could still grow into a stop string has to wait.
        starts = (text[at:] for at in range(len(text)))
        waits = "" if final else next((t for t in starts if any(s.startswith(t) for s in stops)), "")
        held[sample] = waits
        return text[: len(text) - len(waits)]

    pieces = generate(model, ids, tokens, sampling, samples, seed, ends[0], use_cache, tokenizer.vocab_size)
    for step in chain(pieces, [[ends[0]] * samples]):
        for sample in sorted(open_samples):
            final = step[sample] in ends
            held[sample] += decoders[sample].flush() if final else decoders[sample].feed(step[sample])
            if final:
                open_samples.discard(sample)
            ready = settle(sample, final)
            if ready:
                yield sample, ready
        if not open_samples:
            return


def generate_text(
    model: LanguageModel, tokenizer: Tokenizer, prompt: str, tokens: int, sampling: Sampling, seed: int = 0
) -> str:
    """The prompt and what one sample writes after it."""
    return prompt + "".join(t for _, t in stream_text(model, tokenizer, prompt, tokens, sampling, seed=seed))
