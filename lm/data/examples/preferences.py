"""Pairs of answers to the same chat, one better than the other."""

import re
from collections.abc import Iterator

from lm.data.examples.chats import alpaca_prompt
from lm.data.examples.dialogues import Unusable, in_order, parse_message, parse_messages, with_system
from lm.data.examples.files import Skipped
from lm.data.examples.records import Message, PreferenceExample
from lm.data.examples.tables import Row, read_rows, value
from lm.data.examples.texts import text_in
from lm.errors import UserError

_TURN = re.compile(r"\n\n(Human|Assistant):")
_ROLES = {"Human": "user", "Assistant": "assistant"}
Messages = tuple[Message, ...]


def read_preferences(path: str) -> Iterator[PreferenceExample | Skipped]:
    """Preferences from a table with the columns `chosen` and `rejected`, in one of these forms:

    - both are whole dialogues, as a text ("\\n\\nHuman: …\\n\\nAssistant: …", hh-rlhf) or as lists of
      messages: what they share is the chat;
    - both are answers, as texts or messages, to the chat in `conversations` or `messages` (LLaMA-Factory), in
      `prompt` (a text or a list of messages), or in `instruction` and `input`.

    Skipped are identical answers, dialogues that don't share their beginning, roles out of order, empty
    messages.

    Args:
        path: a table; see `read_rows`.

    Raises:
        UserError: a column is missing or holds something else; names file and line.
    """
    for where, row in read_rows(path):
        for name in ("chosen", "rejected"):
            value(row, name, where)  # an error where it is missing
        try:
            yield _example(row, where)
        except Unusable as error:
            yield Skipped(str(error))


def _example(row: Row, where: str) -> PreferenceExample:
    chat = _chat(row, where)
    chosen, rejected = (_dialogue(row, name, where, chat) for name in ("chosen", "rejected"))
    if chosen[:-1] != rejected[:-1]:
        raise Unusable("chosen and rejected don't share their beginning")
    chosen, rejected = in_order(chosen, "assistant"), in_order(rejected, "assistant")
    if chosen[-1].content.strip() == rejected[-1].content.strip():
        raise Unusable("chosen and rejected are the same")
    return PreferenceExample(chosen[:-1], chosen[-1].content, rejected[-1].content)


def _chat(row: Row, where: str) -> Messages | None:
    """The chat before the answers; None where chosen and rejected hold it."""
    for name in ("conversations", "messages", "prompt"):
        if isinstance(row.get(name), list):
            return with_system(parse_messages(row[name], where, name), row.get("system"))
    if "prompt" in row:
        prompt = text_in(row, "prompt", where)
        if prompt.startswith("\n\nHuman:"):
            messages = _split(prompt)
            if messages[-1] == Message("assistant", ""):  # as where it ends with "\n\nAssistant:"
                messages = messages[:-1]
            return with_system(messages, row.get("system"))
        return with_system((Message("user", prompt),), row.get("system"))
    return alpaca_prompt(row, where) if "instruction" in row else None


def _dialogue(row: Row, name: str, where: str, chat: Messages | None) -> Messages:
    """The whole dialogue that ends with the chosen or the rejected answer."""
    found = row[name]
    if isinstance(found, dict):
        answer: Messages = (parse_message(found, where, name),)
    elif isinstance(found, list):
        answer = parse_messages(found, where, name)
    else:
        text = text_in(row, name, where)
        if chat is None and not text.startswith("\n\nHuman:"):
            raise UserError(
                f"{where}: {name!r} is not a dialogue that begins with '\\n\\nHuman:', and there is no "
                "'prompt' nor 'conversations' beside it"
            )
        # hh-rlhf's form; beside a prompt, which it then repeats, too.
        whole = text.startswith("\n\nHuman:")
        answer = _split(text) if whole else (Message("assistant", text),)
    if chat is None:
        return answer
    if answer and answer[0].role == "assistant":
        return chat + answer
    # Some files have the prompt by itself and in both dialogues too.
    known, turns = _turns(chat), _turns(answer)
    if not all(map(_alike, turns, known)) or len(turns) < len(known):
        raise Unusable("chosen and rejected don't go on from their prompt")
    return chat + turns[len(known) :]


def _turns(messages: Messages) -> Messages:
    return messages[1:] if messages and messages[0].role == "system" else messages


def _alike(one: Message, other: Message) -> bool:
    return one.role == other.role and one.content.strip() == other.content.strip()


def _split(dialogue: str) -> Messages:
    """The turns of "\\n\\nHuman: …\\n\\nAssistant: …"."""
    parts = _TURN.split(dialogue)[1:]
    return tuple(
        Message(_ROLES[role], content.strip()) for role, content in zip(parts[::2], parts[1::2], strict=True)
    )
