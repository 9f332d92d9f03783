"""Chats as a folder's own template writes them: Jinja, as Hugging Face has it.

The template runs in a process of its own (see `template_worker`). What the messages say is text and stays it:
a message that spells a control token does not become one, as it would with transformers. Nor do two that
spell one together; nor one that spells a marker of the template's that the tokenizer's files don't declare.
"""

import json
import os
import re
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from lm.errors import UserError
from lm.tokenizer.base import Tokenizer
from lm.tokenizer.chat import ChatFormat, Message, chat_format, check_roles

SECONDS = 5  # that a template may take
START_SECONDS = 60  # that the process may take to begin
_PROBE = [("user", "one two"), ("assistant", "three"), ("user", " four "), ("assistant", "five")]
_MARKER = re.compile(r"<(?!0x[0-9A-F]{2}>).+>|\[.+\]", re.DOTALL)  # how markers are spelt, bytes aside


class _Worker:
    """The process that renders, begun when it is first needed and ended with this object."""

    def __init__(self) -> None:
        words = [sys.executable, "-P", str(Path(__file__).with_name("template_worker.py"))]
        pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout"), subprocess.PIPE)
        # In a session of its own: Ctrl-C at the terminal stops an answer, and not this.
        self.process = subprocess.Popen(
            words, text=True, encoding="utf-8", stderr=subprocess.DEVNULL, start_new_session=True, **pipes
        )
        self.end = weakref.finalize(self, _end, self.process)
        self._lock = threading.Lock()
        if self._within(START_SECONDS, self.process.stdout.readline) != "ready\n":
            self.end()
            raise UserError(f"the process that renders chat templates ended ({self.process.poll()})")

    def _within(self, seconds: float, work: Callable[[], str]) -> str:
        """What comes of it; nothing where the process was ended because it took longer."""
        timer = threading.Timer(seconds, self.process.kill)
        timer.start()
        try:
            return work()
        except OSError:
            return ""
        finally:
            timer.cancel()

    def render(self, template: str, values: dict[str, Any]) -> str:
        def ask() -> str:
            self.process.stdin.write(json.dumps({"template": template, "values": values}) + "\n")
            self.process.stdin.flush()
            return self.process.stdout.readline()

        with self._lock:
            line = self._within(SECONDS, ask)
        if not line:
            self.end()
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
        with suppress(OSError):
            pipe.close()


_workers: dict[int, _Worker] = {}  # by process: one that was forked has none yet
_beginning = threading.Lock()


def _worker() -> _Worker:
    with _beginning:
        known = _workers.get(os.getpid())
        if known is None or known.process.poll() is not None:
            _workers.clear()
            _workers[os.getpid()] = _Worker()
        return _workers[os.getpid()]


def _beginnings(pieces: Iterable[str]) -> re.Pattern[str]:
    """Finds the first letter of each of these, and of each beginning of one at a text's end; of white space
    behind it, too, which a template may take away."""
    found = []
    for first, *rest in pieces:
        begun = ""
        for char in reversed(rest):
            begun = f"(?:{re.escape(char)}{begun})?"
        found.append(f"{re.escape(first)}(?={re.escape(''.join(rest))}|{begun}\\s*\\Z)")
    return re.compile("|".join(found) or "(?!)")


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
    def _pieces(self) -> list[str]:
        """Every control token, the longest first."""
        ids = filter(self.tokenizer.is_special, range(self.tokenizer.vocab_size))
        return sorted(filter(None, map(self.tokenizer.piece, ids)), key=len, reverse=True)

    @cached_property
    def _specials(self) -> re.Pattern[str]:
        return re.compile(f"({'|'.join(map(re.escape, self._pieces))})" if self._pieces else "((?!))")

    @cached_property
    def _markers(self) -> list[str]:
        """Tokens that the tokenizer's files have as text, and the template puts around messages."""
        around = self._text(_PROBE[:1], answer_next=True)
        with suppress(UserError):
            around += self._text([("system", "be brief"), *_PROBE[:1]], answer_next=True)
        return [piece for piece in self.tokenizer.atoms if piece in around and _MARKER.fullmatch(piece)]

    @cached_property
    def _beginnings(self) -> tuple[re.Pattern[str], re.Pattern[str]]:
        """Of control tokens and of markers; see `_beginnings`."""
        return _beginnings(self._pieces), _beginnings(self._markers)

    @cached_property
    def _single(self) -> list[str]:
        return [piece for piece in self._pieces if len(piece) == 1]

    def _guarded(self, content: str, mend: str, cut: str) -> str:
        """A message in which private characters break what it must not spell: `mend`, which is taken away
        before it is encoded, and `cut`, where it is encoded in parts."""
        controls, markers = self._beginnings
        content = markers.sub(rf"\g<0>{cut}", content)
        ids = (
            {id for text in content.split(cut) for id in self.tokenizer.encode(text)} if self._markers else ()
        )
        if any(self.tokenizer.id(marker) in ids for marker in self._markers):  # in full-width letters, say
            content = cut.join(content)
        content = controls.sub(rf"\g<0>{mend}", content)
        for number, single in enumerate(self._single):  # nothing breaks these
            content = content.replace(single, mend + chr(0xF0000 + number))
        return content

    def _mended(self, text: str, mend: str) -> str:
        for number, single in enumerate(self._single):
            text = text.replace(mend + chr(0xF0000 + number), single)
        return text.replace(mend, "")

    @cached_property
    def end_id(self) -> int | None:
        """The control token that ends an answer: the first behind one, else the end of a text."""
        behind = self._text(_PROBE, answer_next=False).rpartition(_PROBE[-1][1])[2]
        found = self._specials.search(behind)
        return self.tokenizer.id(found[0]) if found else self.tokenizer.eos_id

    def _text(self, messages: Sequence[Message], answer_next: bool) -> str:
        names = {f"{role}_token": id for role, id in self.tokenizer.roles.items()}
        values: dict[str, Any] = {
            name: "" if id is None else self.tokenizer.piece(id) for name, id in names.items()
        }
        values["messages"] = [{"role": role, "content": content} for role, content in messages]
        values |= {"add_generation_prompt": answer_next, "tools": None}
        return _worker().render(self.template, values)

    def render(self, messages: Sequence[Message], answer_next: bool = False) -> tuple[list[int], list[bool]]:
        """The ids of a chat; which are learned is not known. See `ChatFormat.render`.

        Raises:
            UserError: the roles are out of order, or the template won't have them, or it can't be used.
        """
        check_roles(messages, answer_next)
        contents = "".join(content for _, content in messages)
        mend, cut = islice((c for c in map(chr, range(0xE000, 0xF8FF)) if c not in contents), 2)
        guarded = [(role, self._guarded(content, mend, cut)) for role, content in messages]
        ids: list[int] = []
        for number, part in enumerate(self._specials.split(self._text(guarded, answer_next))):
            if number % 2:
                ids.append(self.tokenizer.id(part))
                continue
            for text in filter(None, self._mended(part, mend).split(cut)):
                ids += self.tokenizer.encode(text)
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
