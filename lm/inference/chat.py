"""Talking with a model: a dialogue at the terminal, one answer, or many from JSON Lines."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from lm.backbone import LanguageModel
from lm.errors import UserError
from lm.inference.batch import complete
from lm.inference.generate import Sampling, stream_text
from lm.inference.lines import BATCH, Line, pools
from lm.tokenizer.chat import ChatFormat, Message, Shortened, shortened
from lm.tokenizer.template import TemplateFormat

COMMANDS = "/new begins a new chat, /quit or Ctrl-D ends, Ctrl-C stops an answer"
LEFT_OUT = "the oldest messages don't fit into what the model sees and are left out"
CUT = "the message is longer than what the model sees: its beginning is left out"
_TOKENS = 512  # of an answer, unless said otherwise
_LEAST = 16  # of a chat, before the answer


def fit(chat: ChatFormat | TemplateFormat, messages: Sequence[Message], room: int) -> Shortened:
    """A chat, whose last message is the user's, in at most `room` tokens: see `shortened`.

    Raises:
        UserError: the roles are out of order, or the system's message leaves no room.
    """
    found = shortened(chat, messages, room)
    if found.lost:
        raise UserError(f"the model sees {room} tokens before its answer: the system's message fills them")
    return found


def answer_length(limit: int, tokens: int | None) -> int:
    """How many tokens an answer may have.

    Args:
        limit: positions that the model sees, chat and answer together.
        tokens: how many are asked for; None: 512, at most half of `limit`.

    Raises:
        UserError: the chat would have no room beside it.
    """
    if tokens is None:
        return min(_TOKENS, limit // 2)
    if not 1 <= tokens <= limit - _LEAST:
        raise UserError(
            f"`tokens` {tokens}: it must be from 1 to {limit - _LEAST}, for this model sees {limit} tokens, "
            "question and answer together",
            status=2,
        )
    return tokens


class Chat:
    """A dialogue with a model: what was said so far, and the next answer.

    Args:
        model: causal, and trained on chats.
        chat: how its tokenizer writes them.
        tokens: most tokens of an answer; see `answer_length`.
        sampling: how tokens are chosen.
        seed: the same seed and messages give the same answers.
        system: what the system says first; empty for nothing.
        note: is told, once each, that something had to be left out.

    Attributes:
        messages: pairs of role and content; those that were left out are gone.
    """

    def __init__(
        self,
        model: LanguageModel,
        chat: ChatFormat | TemplateFormat,
        tokens: int,
        sampling: Sampling,
        seed: int = 0,
        system: str = "",
        note: Callable[[str], object] = lambda _: None,
    ) -> None:
        self.model, self.chat, self.tokens, self.sampling = model, chat, tokens, sampling
        self.seed, self.note = seed, note
        self.room = model.config.max_seq_len - tokens
        self.system: list[Message] = [("system", system)] if system.strip() else []
        self._noted: set[str] = set()
        self.begin_anew()

    def begin_anew(self) -> None:
        """Forget what was said, but for the system's message."""
        self.messages = list(self.system)
        self._turn = 0

    def fitted(self, messages: list[Message]) -> Shortened:
        """See `fit`; tells `note`."""
        found = fit(self.chat, messages, self.room)
        for left, words in ((found.dropped, LEFT_OUT), (found.cut, CUT)):
            if left and words not in self._noted:
                self._noted.add(words)
                self.note(words)
        return found

    def say(self, text: str) -> Iterator[str]:
        """The answer to the user's next message, bit by bit, without white space around it. If it is not
        iterated to the end (`close`), what was written by then is the answer.

        Raises:
            UserError: the system's message leaves no room.
        """
        asked: list[Message] = [*self.messages, ("user", text)]
        fitted = self.fitted(asked)
        first, tokenizer = len(self.system), self.chat.tokenizer
        del asked[first : first + fitted.dropped]
        written, seed = "", self.seed + self._turn
        ends = self.chat.end_id, tokenizer.eos_id
        parts = stream_text(
            self.model, tokenizer, fitted.ids, self.tokens, self.sampling, seed=seed, ends=ends
        )
        try:
            for part in self._visible(text for _, text in parts):
                written += part
                yield part
        finally:
            self.messages = [*asked, ("assistant", written)]
            self._turn += 1

    @staticmethod
    def _visible(parts: Iterator[str]) -> Iterator[str]:
        """Without white space at the start; white space elsewhere waits until something follows it."""
        held, begun = "", False
        for part in parts:
            held += part
            if not begun:
                held = held.lstrip()
            ready = held.rstrip()
            if ready:
                begun = True
                yield ready
                held = held[len(ready) :]

    def answers(self, lines: Iterable[Line]) -> Iterator[list[dict[str, Any]]]:
        """The answer to each line's chat, many side by side, in the order of the lines. The first line's seed
        is the chat's, each further one has the next.

        Args:
            lines: each with `messages`, a list of role and content whose last is the user's; or `prompt`,
                what the user says.

        Yields:
            Rows: a line's fields and `answer`.

        Raises:
            UserError: a line has neither, or its roles are out of order; names the line.
        """
        tokenizer = self.chat.tokenizer
        for number, pool in enumerate(pools(lines)):
            prompts = []
            for line in pool:
                messages = _messages(line, self.system)
                try:
                    prompts.append(self.fitted(messages).ids)
                except UserError as error:
                    raise UserError(f"{line.where}: {error}") from error
            rows = complete(
                self.model,
                prompts,
                self.tokens,
                (self.chat.end_id, tokenizer.eos_id),
                self.sampling,
                self.seed + number * BATCH,
                tokenizer.vocab_size,
            )
            yield [
                {**line.fields, "answer": tokenizer.decode(row).strip()}
                for line, row in zip(pool, rows, strict=True)
            ]


def _messages(line: Line, system: list[Message]) -> list[Message]:
    """A line's chat; the system's message stands before it if it has none of its own."""
    if "messages" not in line.fields:
        if "prompt" not in line.fields:
            raise UserError(f"{line.where}: there is neither 'messages' nor 'prompt'")
        return [*system, ("user", line.text("prompt"))]
    found = line.fields["messages"]
    messages = [
        (m["role"], m["content"])
        for m in (found if isinstance(found, list) else [])
        if isinstance(m, dict) and isinstance(m.get("role"), str) and isinstance(m.get("content"), str)
    ]
    if not isinstance(found, list) or len(messages) != len(found):
        raise UserError(
            f'{line.where}: \'messages\' is not a list of messages such as {{"role": "user", "content": "…"}}'
        )
    return messages if messages[:1] and messages[0][0] == "system" else [*system, *messages]


def dialogue(chat: Chat, read: Callable[[str], str] = input, write: Callable[..., object] = print) -> None:
    """Talk at a terminal until the person leaves.

    Args:
        read: asks for a line, after a prompt; EOFError and KeyboardInterrupt end the dialogue.
        write: shows text as `print` does.
    """
    while True:
        try:
            text = read("> ")
        except (EOFError, KeyboardInterrupt):
            write()
            return
        word = text.strip()
        if word == "/quit":
            return
        if word == "/new":
            chat.begin_anew()
            write("(a new chat)")
        elif re.fullmatch(r"/[a-z]*", word):
            write(f"({COMMANDS})")
        elif word:
            parts = chat.say(text)
            silent = True
            try:
                for part in parts:
                    silent = False
                    write(part, end="", flush=True)
                if silent:
                    write("(the answer is empty)", end="")
            except KeyboardInterrupt:
                parts.close()
                write(" …", end="")
            write()
