"""What tasks on chats share: a GPT, a chat format, and how a chat that is too long is cut."""

from collections.abc import Sequence
from typing import Any

from lm.data.examples.batches import Features
from lm.data.examples.records import Message
from lm.tasks.base import IGNORED
from lm.tasks.text.finetuning import FineTuning
from lm.tokenizer import Tokenizer
from lm.tokenizer.chat import chat_format, shortened, with_chat


class ChatTask(FineTuning):
    """A task on chats. A subclass says what is learned of them."""

    beside = FineTuning.beside | {"chat"}  # which the tokenizer decides
    needs_causal = True
    usage = "chat {}"

    def head(self) -> dict[str, Any]:
        return {"kind": "language"}

    def with_pieces(self, tokenizer: Tokenizer) -> tuple[Tokenizer, tuple[str, ...]]:
        return with_chat(tokenizer)

    def make_figures(self) -> None:
        self.chat = chat_format(self.tokenizer)

    def answered(self, messages: Sequence[Message], answers: Sequence[str], earlier: bool) -> list[Features]:
        """A chat with each of some answers: `tokens` and `targets` one further, of the answer and, with
        `earlier`, of those before it. What comes before is the same for all answers: of a chat that is too
        long the oldest turns are left out, then the beginning of the last question, down to half of the
        window; then the answer's end. Where nothing is left to learn, there are no features."""
        limit = self.config.max_seq_len + 1  # one more than the inputs
        ends = [self._end(text) for text in answers]
        longest = max(len(ids) for ids, _ in ends)
        before = [(m.role, m.content) for m in messages]
        asked = shortened(self.chat, before, max(limit - longest, limit // 2))
        cut = asked.dropped > 0 or asked.cut or len(asked.ids) + longest > limit
        found = []
        for end, learned in ends:
            ids = (asked.ids + end)[:limit]
            keep = [earlier and one for one in asked.learned] + learned
            targets = [i if one else IGNORED for i, one in zip(ids, keep, strict=False)][1:]
            if any(t != IGNORED for t in targets):
                found.append({"tokens": ids[:-1], "targets": targets, "cut": cut})
        return found

    def _end(self, answer: str) -> tuple[list[int], list[bool]]:
        """The tokens behind an answer's opening, and which of them are learned."""
        question = [("user", "")]
        start = len(self.chat.render(question, answer_next=True)[0])
        ids, learned = self.chat.render([*question, ("assistant", answer)])
        return ids[start:], learned[start:]
