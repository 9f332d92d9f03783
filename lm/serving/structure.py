"""Answers of a form: which tokens may follow, by llguidance (https://github.com/guidance-ai/llguidance).

A form is tried in a process of its own, then made ready for the model's tokens in a thread; the engine's
thread only asks what may follow.
"""

import asyncio
import json
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lm.serving import limits
from lm.serving.errors import APIError
from lm.serving.forms import Form, form_of
from lm.serving.schemas import Writing
from lm.tokenizer import StreamDecoder, Tokenizer

SECONDS = 20  # that trying a form may take, on a machine that has other things to do
# Of its computing and its memory; and of the stack less than any thread of the server has.
MOST = {"seconds": 2, "memory": 128 << 20, "stack": 1 << 20}
# What llguidance does for one token, and keeps for one answer: tens of milliseconds and of megabytes at most.
BOUNDS: dict[str, Any] = {
    "max_items_in_row": 10_000,
    "step_lexer_fuel": 200_000,
    "step_max_items": 50_000,
    "max_lexer_states": 20_000,
    "max_grammar_size": 200_000,
    "verbose_errors": False,  # they would quote the form
}


class Follower:
    """What may follow in one answer: a `Constraint`.

    Args:
        grammar: at its beginning; it stays there.
        ends: tokens that end an answer: allowed where the form is whole.
        size: tokens that can be chosen.
    """

    def __init__(self, grammar: Any, ends: Iterable[int], size: int) -> None:
        self._grammar, self._ends, self._size = grammar, [id for id in ends if id < size], size
        self._matcher: Any = None
        self._read = 0  # tokens that the matcher knows

    def _follow(self, written: Sequence[int]) -> Any:
        if self._matcher is None:
            self._matcher = self._grammar.deep_copy()
        for id in written[self._read :]:
            self._matcher.consume_token(id)
        self._read = len(written)
        return self._matcher

    def mask(self, written: Sequence[int]) -> Tensor:
        """See `Constraint`. No token where what came before was too much to follow."""
        matcher = self._follow(written)
        if matcher.is_error():
            return torch.zeros(self._size, dtype=torch.bool)
        bits = np.frombuffer(matcher.compute_bitmask(), np.uint8)
        found = np.unpackbits(bits, count=self._size + 1, bitorder="little").view(np.bool_)
        found[self._ends] = found[-1]
        if matcher.is_error():
            found[:] = False
        return torch.from_numpy(found[:-1])

    def over(self, written: Sequence[int]) -> bool:
        """See `Constraint`."""
        matcher = self._follow(written)
        return matcher.is_stopped() and not matcher.is_error()


class Grammar:
    """A form, ready for a model's tokens."""

    def __init__(self, grammar: Any, size: int) -> None:
        self._grammar, self._size = grammar, size

    def follow(self, ends: Iterable[int]) -> Follower:
        """For one answer, which these tokens can end."""
        return Follower(self._grammar, ends, self._size)


class Structure:
    """Makes forms ready for a model, one at a time, and keeps those that were asked for last.

    Args:
        size: tokens that can be chosen.
    """

    def __init__(self, tokenizer: Tokenizer, size: int) -> None:
        self.tokenizer, self.size = tokenizer, size
        self._made: OrderedDict[Form, Future[Grammar]] = OrderedDict()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="lm-structure")

    async def of(self, body: Writing) -> Grammar | None:
        """The form that a request wants its answer to have; None where any text will do.

        Raises:
            APIError: it can't be, or too many wait for theirs.
        """
        form = form_of(body)
        if form is None:
            return None
        made = self._made.get(form)
        if made is None:
            if sum(not each.done() for each in self._made.values()) >= limits.FORMS_WAITING:
                raise APIError(429, "many forms of answers are being read: ask again in a moment", form.field)
            made = self._made[form] = self._worker.submit(self._make, form)
            if len(self._made) > limits.FORMS_KEPT:
                self._made.popitem(last=False)
        self._made.move_to_end(form)
        try:
            return await asyncio.shield(asyncio.wrap_future(made))  # others may wait for it, too
        except Exception:
            self._made.pop(form, None)
            raise

    def stop(self) -> None:
        self._worker.shutdown(wait=False, cancel_futures=True)

    def _make(self, form: Form) -> Grammar:
        from llguidance import LLMatcher, LLParserLimits

        grammar = form.grammar(self._strips)
        if error := self._tried(form, grammar):
            raise form.refused(error)
        made = LLMatcher(self._tokens, grammar, log_level=0, limits=LLParserLimits(**BOUNDS))
        first = made.deep_copy()
        if not any(first.compute_bitmask()) or first.is_error():
            raise form.refused(made.get_error() or "the model has no token with which it could begin")
        return Grammar(made, self.size)

    def _tried(self, form: Form, grammar: str) -> str:
        """What is wrong with it, if anything."""
        words = [sys.executable, "-P", str(Path(__file__).with_name("forms_worker.py"))]
        asked = json.dumps({"grammar": grammar, "limits": BOUNDS, "most": MOST})
        pipe, nothing = subprocess.PIPE, subprocess.DEVNULL
        try:
            done = subprocess.run(
                words,
                input=asked,
                stdout=pipe,
                stderr=nothing,
                text=True,
                timeout=SECONDS,
                start_new_session=True,  # Ctrl-C at the terminal is the server's
            )
        except subprocess.TimeoutExpired:
            raise form.too_much from None
        if done.returncode or not done.stdout:
            raise form.too_much
        return json.loads(done.stdout)["error"]

    @cached_property
    def _strips(self) -> bool:
        """Whether a space at a text's beginning is not shown."""
        spaced = next((id for id, piece in enumerate(self._pieces) if piece[:1] == b" "), None)
        return spaced is not None and not StreamDecoder(self.tokenizer).feed(spaced).startswith(" ")

    @cached_property
    def _pieces(self) -> list[bytes]:
        """The model's tokens by their bytes, control tokens without any."""
        known = self.tokenizer
        return [b"" if known.is_special(id) else known.piece_bytes(id) for id in range(self.size)]

    @cached_property
    def _tokens(self) -> Any:
        """The model's tokens for llguidance, and one behind them that stands for whatever ends an answer."""
        from llguidance import LLTokenizer, TokenizerWrapper

        return LLTokenizer(TokenizerWrapper(_Tokens([*self._pieces, b"<end>"])))


class _Tokens:
    """What llguidance asks of a tokenizer."""

    bos_token_id = None

    def __init__(self, tokens: list[bytes]) -> None:
        self.tokens, self.eos_token_id = tokens, len(tokens) - 1
        self.special_token_ids = [self.eos_token_id]

    def __call__(self, text: bytes) -> list[int]:
        return []  # nothing is forced, so nobody wants it
