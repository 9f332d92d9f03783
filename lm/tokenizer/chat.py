"""Chats as tokens: the control tokens that open and close messages, and which tokens are learned.

Three formats are known, by the control tokens that a tokenizer has:
- lm's own: `<|user|>Hello<|end|><|assistant|>Good day<|end|>`;
- ChatML (Qwen): `<|im_start|>user\\nHello<|im_end|>\\n`;
- Llama 3: `<|start_header_id|>user<|end_header_id|>\\n\\nHello<|eot_id|>`.

Contents are encoded as text: one that spells a control token stays text. (A chat template of Hugging Face
can't tell the two apart: there a content that spells one becomes one.)
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from lm.errors import UserError
from lm.tokenizer.base import Tokenizer
from lm.tokenizer.sentencepiece import CHAT_PIECES

ROLES = ("system", "user", "assistant")
Message = tuple[str, str]  # role, content


@dataclass(frozen=True)
class ChatFormat:
    """How a tokenizer writes chats. Made by `chat_format`."""

    tokenizer: Tokenizer = field(repr=False)  # has the control tokens
    pieces: tuple[str, ...]  # the control tokens that the format needs
    headers: dict[str, tuple[str, ...]]  # what opens a message of each role: control tokens and text in turn
    end: str  # the control token that closes a message
    after: str = ""  # text behind it
    start: tuple[int, ...] = ()  # ids at a chat's very start
    # Which ends of a content lose their white space: "", "left" or "both" (as Llama's own template does).
    # Behind a header that ends in text it would run together with that: other tokens than the joined text's.
    strips: str = ""

    @property
    def end_id(self) -> int:
        """The token that ends an answer."""
        return self.tokenizer.id(self.end)

    def _content(self, text: str) -> list[int]:
        if self.strips:
            text = text.strip() if self.strips == "both" else text.lstrip()
        return self.tokenizer.encode(text)

    def opening(self, role: str) -> list[int]:
        """The ids that open a message of this role."""
        ids: list[int] = []
        for part in self.headers[role]:
            ids += [self.tokenizer.id(part)] if part in self.pieces else self.tokenizer.encode(part)
        return ids

    def render(self, messages: Sequence[Message], answer_next: bool = False) -> tuple[list[int], list[bool]]:
        """A chat from the document's start.

        Args:
            messages: (role, content) in turn, a system message first if at all.
            answer_next: the last message is the user's, and the opening of an answer follows.

        Returns:
            the ids, and which of them are learned: the assistant's contents with the tokens that close them.

        Raises:
            UserError: the roles are out of order.
        """
        check_roles(messages, answer_next)
        after = self.tokenizer.encode(self.after)
        parts = [(list(self.start), False)]
        for role, content in messages:
            answer = [*self._content(content), self.end_id]
            parts += [(self.opening(role), False), (answer, role == "assistant"), (after, False)]
        if answer_next:
            parts.append((self.opening("assistant"), False))
        ids = [id for part, _ in parts for id in part]
        return ids, [learn for part, learn in parts for _ in part]

    @property
    def template(self) -> str:
        """The same as a Jinja chat template for transformers. Its text, encoded with special tokens parsed,
        gives the ids of `render`, as long as no content spells a control token and the tokenizer puts no
        space before a text."""
        start = "".join(map(self.tokenizer.piece, self.start))
        content = {"": "", "left": ".lstrip()", "both": ".strip()"}[self.strips]
        headers = {role: _quoted("".join(self.headers[role])) for role in ROLES}
        roles = "{% el".join(
            f"if message['role'] == '{role}' %}}{{{{ {header} }}}}" for role, header in headers.items()
        )
        unknown = "'the role is to be system, user or assistant'"
        return (
            (f"{{{{ {_quoted(start)} }}}}" if start else "")
            + f"{{% for message in messages %}}{{% {roles}"
            + f"{{% else %}}{{{{ raise_exception({unknown}) }}}}{{% endif %}}"
            + f"{{{{ message['content']{content} + {_quoted(self.end + self.after)} }}}}{{% endfor %}}"
            + f"{{% if add_generation_prompt %}}{{{{ {headers['assistant']} }}}}{{% endif %}}"
        )


def _quoted(text: str) -> str:
    """A string as Jinja writes it."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n") + "'"


_CHATML_PIECES = ("<|im_start|>", "<|im_end|>")
_LLAMA_PIECES = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")


def chat_format(tokenizer: Tokenizer) -> ChatFormat | None:
    """The format whose control tokens a tokenizer has; None where it has those of none."""

    def has(pieces: tuple[str, ...]) -> bool:
        ids = [tokenizer.id(piece) for piece in pieces]
        return all(id is not None and tokenizer.is_special(id) for id in ids)

    bos = () if tokenizer.bos_id is None else (tokenizer.bos_id,)
    if has(CHAT_PIECES):
        *openings, end = CHAT_PIECES
        headers = {role: (opening,) for role, opening in zip(ROLES, openings, strict=True)}
        return ChatFormat(tokenizer, CHAT_PIECES, headers, end, start=bos)
    if has(_CHATML_PIECES):
        opening, end = _CHATML_PIECES
        headers = {role: (opening, f"{role}\n") for role in ROLES}
        # Only where the tokenizer begins every text so: Qwen's don't.
        starts = bos if tokenizer.frame([-1])[0][:1] == list(bos) else ()
        return ChatFormat(tokenizer, _CHATML_PIECES, headers, end, "\n", starts, "left")
    if has(_LLAMA_PIECES):
        opening, closing, end = _LLAMA_PIECES
        headers = {role: (opening, role, closing, "\n\n") for role in ROLES}
        return ChatFormat(tokenizer, _LLAMA_PIECES, headers, end, start=bos, strips="both")
    return None


def with_chat(tokenizer: Tokenizer) -> tuple[Tokenizer, tuple[str, ...]]:
    """A tokenizer that has a chat format, and which control tokens had to be added for that.

    One that has a format comes back as it is; else lm's own tokens are added that it lacks.
    """
    if chat_format(tokenizer) is not None:
        return tokenizer, ()
    wider = tokenizer.with_pieces(CHAT_PIECES)
    return wider, tuple(piece for piece in CHAT_PIECES if wider.id(piece) >= tokenizer.vocab_size)


def check_roles(messages: Sequence[Message], answer_next: bool = False) -> None:
    """See that a chat's roles follow each other as they have to.

    Args:
        answer_next: the answer is yet to come: the last message is the user's. Else it is the assistant's.

    Raises:
        UserError: an empty chat, an unknown role, a system message that is not the first, two messages of one
            side in a row, or the wrong one at the end.
    """
    if not messages:
        raise UserError("the chat is empty: it needs a message of the user")
    expected = "user"
    for number, (role, _) in enumerate(messages, 1):
        if role not in ROLES:
            raise UserError(f"message {number} has the role {role!r}: roles are system, user and assistant")
        if role == "system":
            if number > 1:
                raise UserError(f"message {number} is of the system: only the first may be")
            continue
        if role != expected:
            before = messages[number - 2][0] if number > 1 else None
            after = f"after one of the {before}" if before else "and the first"
            raise UserError(
                f"message {number} is of the {role}, {after}: user and assistant take turns, the user begins"
            )
        expected = "assistant" if role == "user" else "user"
    last, wanted = messages[-1][0], "user" if answer_next else "assistant"
    if last != wanted:
        why = "the answer to it comes next" if answer_next else "that is what is learned"
        raise UserError(f"the last message is of the {last}, it has to be of the {wanted}: {why}")


class Shortened(NamedTuple):
    """A chat up to the opening of the next answer."""

    ids: list[int]
    learned: list[bool]  # which of them are earlier answers
    dropped: int  # how many of the oldest messages are left out, not counting the system's
    cut: bool = False  # whether the last question lost its beginning, too
    lost: bool = False  # whether nothing of that question is left


def shortened(chat: Any, messages: Sequence[Message], room: int) -> Shortened:
    """A chat, whose last message is the user's, in at most `room` tokens, as far as that goes: the oldest
    turns are left out first, then the beginning of the last question. The system's message stays.

    Args:
        chat: a `ChatFormat`, or a `TemplateFormat`.

    Raises:
        UserError: the roles are out of order.
    """
    ids, learned = chat.render(messages, answer_next=True)
    system = list(messages[:1]) if messages[0][0] == "system" else []
    turns = messages[len(system) :]
    dropped = 0
    while len(ids) > room and dropped < len(turns) - 1:
        dropped += 2
        ids, learned = chat.render([*system, *turns[dropped:]], answer_next=True)
    over = len(ids) - room
    if over <= 0:
        return Shortened(ids, learned, dropped)
    if not isinstance(chat, ChatFormat):
        ids, lost = chat.shorter(system, messages[-1][1], room)
        return Shortened(ids, [False] * len(ids), dropped, True, lost)
    empty, _ = chat.render([*system, ("user", "")], answer_next=True)
    question = len(ids) - len(empty)
    behind = len(chat.opening("assistant")) + len(chat.tokenizer.encode(chat.after)) + 1  # what follows it
    start = len(empty) - behind
    end = start + min(over, question)
    return Shortened(
        ids[:start] + ids[end:], learned[:start] + learned[end:], dropped, end > start, over >= question
    )
