"""A request at work: what it has written, and how it goes on."""

import time

import torch
from torch import Tensor

from lm.backbone import KVCache
from lm.serving.choosing import Chooser, log_probabilities
from lm.serving.requests import Piece, Running, TokenInfo
from lm.serving.text import Text
from lm.tokenizer import StreamDecoder, Tokenizer


class Row:
    """A text that is read or written.

    Args:
        vocab_size: tokens that can be chosen.

    Attributes:
        cache: of its prompt, while that is read.
        last: the token that was written last.
        finish: how it has ended; None while it goes on.

    Raises:
        UserError: what is asked for can't be.
    """

    def __init__(self, running: Running, tokenizer: Tokenizer, vocab_size: int, device: torch.device) -> None:
        request = running.request
        self.running, self.request, self.vocab_size = running, request, vocab_size
        self.chooser = Chooser(request, vocab_size, device)
        self.text, self.prompt = Text(tokenizer, request.stop), StreamDecoder(tokenizer)
        self.ends = {tokenizer.eos_id, *request.stop_ids}
        self.until = float("inf") if request.seconds is None else time.monotonic() + request.seconds
        self.cache: KVCache | None = None
        self.last = 0
        self.finish: str | None = None

    def overdue(self, now: float) -> str | None:
        """Why it can't go on, if so."""
        if self.running.cancelled:
            return "cancelled"
        return "timeout" if now >= self.until else None

    def hear(self, begin: int, logits: Tensor) -> None:
        """What the model says (N, V) of the prompt, behind the token at `begin` and those that follow."""
        known, ids = self.running.prompt_logprobs, self.request.ids
        if not begin:
            known.append(TokenInfo(ids[0], self.prompt.feed(ids[0])))
        targets = ids[begin + 1 : begin + 1 + len(logits)]
        if targets:
            top = self.request.logprobs or 0
            said = log_probabilities(logits[: len(targets)], targets, top, self.vocab_size)
            pairs = zip(targets, said, strict=True)
            known += [TokenInfo(id, self.prompt.feed(id), *each) for id, each in pairs]

    def take(self, token: TokenInfo) -> None:
        """The next token; gives what has become final with it."""
        self.last, finish = token.id, None
        self.chooser.wrote(token.id)
        ended = token.id in self.ends
        self.text.add(token, shown=not ended)
        constraint = self.request.constraint
        if ended or (constraint is not None and constraint.over(self.chooser.written)):
            finish = "stop"
        elif len(self.chooser.written) >= self.request.max_tokens:
            finish = "length"
        text, tokens = self.text.take(last=finish is not None)
        self.finish = "stop" if self.text.stopped else finish
        if text or tokens or self.finish:
            self.running.give(Piece(text, tokens, self.finish))

    def end(self, finish: str) -> None:
        """It ends before its time, with what it has."""
        rest = ("", ()) if finish == "error" else self.text.take(last=True)
        self.finish = finish
        self.running.give(Piece(*rest, finish))
