"""Messages of a chat as other programs write them, and whether they are in order."""

from lm.data.examples.records import Message
from lm.errors import UserError

_ROLES = {
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bot", "model"), "assistant"),
    "system": "system",
}


class Unusable(Exception):
    """An example that cannot be learned from; says why, to be counted."""


def parse_messages(found: object, where: str, what: str) -> tuple[Message, ...]:
    """Messages from a list of `{"role", "content"}` (OpenAI) or `{"from", "value"}` (ShareGPT).

    Args:
        where, what: the row and the column, for messages.

    Raises:
        UserError: it is no such list.
        Unusable: a role is unknown.
    """
    if not isinstance(found, list):
        raise UserError(f"{where}: {what!r} is not a list of messages")
    return tuple(parse_message(one, where, what) for one in found)


def parse_message(found: object, where: str, what: str) -> Message:
    """One message; see `parse_messages`."""
    for role_key, content_key in (("role", "content"), ("from", "value")):
        if isinstance(found, dict) and role_key in found and content_key in found:
            role = _ROLES.get(str(found[role_key]).strip().lower())
            if role is None:
                raise Unusable(f"unknown role {str(found[role_key])[:30]!r}")
            return Message(role, _content(found[content_key], where, what))
    raise UserError(f'{where}: {what!r} holds a message that is not as {{"role": "user", "content": "…"}}')


def _content(found: object, where: str, what: str) -> str:
    if found is None:  # as where a tool is called
        return ""
    if isinstance(found, list):  # parts, such as texts and pictures
        if not all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in found):
            raise Unusable("a message that is not only text")
        return "".join(part["text"] for part in found)
    if not isinstance(found, str):
        raise UserError(f"{where}: a message in {what!r} is not text")
    return found


def in_order(messages: tuple[Message, ...], last: str) -> tuple[Message, ...]:
    """The messages, without a system's message that is empty.

    Args:
        messages: at most one of the system, first; then user and assistant in turns, the user first.
        last: who must speak last.

    Raises:
        Unusable: they are not so, or a message is empty.
    """
    if messages and messages[0].role == "system" and not messages[0].content.strip():
        messages = messages[1:]
    turns = messages[1:] if messages and messages[0].role == "system" else messages
    if not turns:
        raise Unusable("no messages")
    for turn, role in zip(turns, ("user", "assistant") * len(turns), strict=False):
        if turn.role != role:
            raise Unusable("roles out of order")
    if any(not turn.content.strip() for turn in turns):
        raise Unusable("empty message")
    if turns[-1].role != last:
        raise Unusable(f"last message not by the {last}")
    return messages


def with_system(messages: tuple[Message, ...], content: object) -> tuple[Message, ...]:
    """The messages with the system's first, if there is any and they have none."""
    if not isinstance(content, str) or not content.strip() or (messages and messages[0].role == "system"):
        return messages
    return (Message("system", content), *messages)
