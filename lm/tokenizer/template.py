"""Chats as a folder's own template writes them: Jinja, as Hugging Face has it.

The template runs in a process of its own (see `template_worker`). What the messages say is text and stays it:
a message that spells a control token does not become one, as it would with transformers.
"""

import itertools
import json
import re
import subprocess
import sys
import threading
import weakref
from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path

from lm.errors import UserError
from lm.tokenizer.base import Tokenizer
from lm.tokenizer.chat import ChatFormat, Message, chat_format, check_roles

SECONDS = 5  # that a template may take
_PROBE = [("user", "one two"), ("assistant", "three"), ("user", " four "), ("assistant", "five")]


class _Worker:
    """The process that renders, begun when it is first needed and ended with this object."""

    def __init__(self) -> None:
        words = [sys.executable, "-I", str(Path(__file__).with_name("template_worker.py"))]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen(words, text=True, encoding="utf-8", **pipes)
        self._end = weakref.finalize(self, _end, self.process)

    def render(self, template: str, values: dict) -> str:
        timer = threading.Timer(SECONDS, self.process.kill)
        timer.start()
        try:
            self.process.stdin.write(json.dumps({"template": template, "values": values}) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except OSError:
            line = ""
        finally:
            timer.cancel()
        if not line:
            self._end()
            _worker.cache_clear()
            raise UserError(f"the chat template takes more than {SECONDS} seconds, or too much memory")
        answer = json.loads(line)
        if "error" in answer:
            words = " ".join(answer["error"].split())
            raise UserError(f"the chat template can't be used: {words[:300]}")
        return answer["text"]


def _end(process: subprocess.Popen) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        pipe.close()


@lru_cache(maxsize=1)
def _worker() -> _Worker:
    return _Worker()


class TemplateFormat:
    """How a template writes chats; stands where a `ChatFormat` does when a model answers.

    Args:
        tokenizer: has the control tokens.
        template: Jinja.
    """

    after = ""

    def __init__(self, tokenizer: Tokenizer, template: str) -> None:
        self.tokenizer, self.template = tokenizer, template

    @cached_property
    def _specials(self) -> re.Pattern[str]:
        """Every control token, the longest first; () where there is none."""
        ids = filter(self.tokenizer.is_special, range(self.tokenizer.vocab_size))
        pieces = sorted(filter(None, map(self.tokenizer.piece, ids)), key=len, reverse=True)
        return re.compile(f"({'|'.join(map(re.escape, pieces))})" if pieces else "((?!))")

    @cached_property
    def end_id(self) -> int:
        """The control token that ends an answer: the first behind one, else the end of a text."""
        ids, _ = self.render(_PROBE, answer_next=False)
        answer = self.tokenizer.encode("five")
        behind = reversed(ids)
        found = list(itertools.takewhile(lambda id: id not in answer, behind))[::-1]
        special = [id for id in found if self.tokenizer.is_special(id)]
        return special[0] if special else self.tokenizer.eos_id

    def render(self, messages: Sequence[Message], answer_next: bool = False) -> tuple[list[int], list[bool]]:
        """The ids of a chat; which are learned is not known. See `ChatFormat.render`.

        Raises:
            UserError: the roles are out of order, or the template won't have them, or it can't be used.
        """
        check_roles(messages, answer_next)
        contents = "".join(content for _, content in messages)
        # A character that none of them has breaks up control tokens that they spell; it is taken out again.
        breaker = next(c for c in map(chr, range(0xE000, 0xF8FF)) if c not in contents)
        guarded = [
            {"role": role, "content": self._specials.sub(lambda m: f"{m[0][0]}{breaker}{m[0][1:]}", content)}
            for role, content in messages
        ]
        names = {f"{role}_token": id for role, id in self.tokenizer.roles.items()}
        values = {name: "" if id is None else self.tokenizer.piece(id) for name, id in names.items()}
        values |= {"messages": guarded, "add_generation_prompt": answer_next, "tools": None}
        text = _worker().render(self.template, values)
        ids: list[int] = []
        for number, part in enumerate(self._specials.split(text)):
            if number % 2:
                ids.append(self.tokenizer.id(part))
            elif part:
                ids += self.tokenizer.encode(part.replace(breaker, ""))
        return ids, [False] * len(ids)

    def shorter(self, system: list[Message], question: str, room: int) -> tuple[list[int], bool]:
        """The last question without its beginning, in at most `room` tokens.

        Returns:
            the ids, and whether nothing of the question is left.
        """
        ids, _ = self.render([*system, ("user", question)], answer_next=True)
        while len(ids) > room and question:
            pieces = self.tokenizer.encode(question)[len(ids) - room :]
            shorter = self.tokenizer.decode(pieces)
            question = shorter if len(shorter) < len(question) else question[1:]
            ids, _ = self.render([*system, ("user", question)], answer_next=True)
        return ids, not question


def chat_format_of(tokenizer: Tokenizer, template: str | None) -> ChatFormat | TemplateFormat | None:
    """How a model writes chats: its template, or one of the known formats where that is the same or where
    there is no template; None where there is neither.

    Raises:
        UserError: the template can't be used.
    """
    known = chat_format(tokenizer)
    if template is None or (known is not None and template == known.template):
        return known
    own = TemplateFormat(tokenizer, template)
    probes = (_PROBE[:1], _PROBE[:3], [("system", "be brief"), *_PROBE[:1]])
    try:
        alike = known is not None and all(
            known.render(probe, True)[0] == own.render(probe, True)[0] for probe in probes
        )
    except UserError:  # a template that has no system, say
        alike = False
    return known if alike else own
