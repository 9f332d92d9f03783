"""What a model writes: texts, answers in chats, the gaps of a text."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, TypedDict, Unpack, overload

from lm.backbone import LanguageModel
from lm.errors import UserError
from lm.inference.batch import complete
from lm.inference.chat import Chat, answer_length
from lm.inference.fill import fill
from lm.inference.generate import Sampling, prompt_ids, stream_text
from lm.inference.lines import Line
from lm.predictor.opened import Opened
from lm.tasks.table import refuse, writes_text
from lm.tokenizer.template import chat_format_of

Messages = Sequence[Mapping[str, str]]  # each with `role` (system, user, assistant) and `content`


class SamplingOptions(TypedDict, total=False):
    """How the next token is chosen; see `lm.inference.generate.Sampling`."""

    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    lookup: int


class WritingOptions(SamplingOptions, total=False):
    """And a seed, which writes the same text each time, and strings before which a text ends."""

    seed: int
    stop: str | Sequence[str]


class Writing(Opened):
    """What a model does that has learned to write."""

    def writer(self, command: str = "generate") -> Any:
        """The network of a model that writes or fills, in evaluation mode.

        Raises:
            UserError: it does something else, or its weights don't fit.
        """
        if not writes_text(self.model.record):
            raise refuse(self.model.source, self.model.record, command)
        if command == "generate" and not self.config.causal:
            raise UserError(f"{self.model.source} is a BERT, which fills gaps: use `lm fill`")
        return self.model.checked().network

    @overload
    def generate(self, prompt: str, tokens: int = 200, **options: Unpack[WritingOptions]) -> str: ...

    @overload
    def generate(
        self, prompt: Sequence[str], tokens: int = 200, **options: Unpack[WritingOptions]
    ) -> list[str]: ...

    def generate(self, prompt: Any, tokens: int = 200, **options: Unpack[WritingOptions]) -> Any:
        """What the model writes after a prompt, without the prompt.

        Args:
            prompt: a text, or several: the second has the next seed, and so on.
            tokens: to write at most.
            options: see `WritingOptions`; temperature 0.8 and top_k 50, where nothing is said.

        Raises:
            UserError: the model does something else, or an option can't be.
        """
        if isinstance(prompt, str):
            return self.generate([prompt], tokens, **options)[0]
        network, how, seed, stops = self._writing(tokens, **options)
        ids = [prompt_ids(self.tokenizer, text) for text in prompt]
        if all(len(row) + tokens <= self.config.max_seq_len for row in ids):
            ends = (self.tokenizer.eos_id,)
            rows = complete(network, ids, tokens, ends, how, seed, self.tokenizer.vocab_size)
            return [_before(self.tokenizer.decode(row), stops) for row in rows]
        # What is longer than the model sees goes on with a part of it, which no batch does.
        streams = (
            stream_text(network, self.tokenizer, row, tokens, how, seed=seed + i, stops=stops)
            for i, row in enumerate(ids)
        )
        return ["".join(text for _, text in parts) for parts in streams]

    def stream(
        self, prompt: str, tokens: int = 200, cache: bool = True, **options: Unpack[WritingOptions]
    ) -> Iterator[str]:
        """The same for one prompt, bit by bit.

        Args:
            cache: keep keys and values; without it every step computes everything anew, to the same result.
        """
        network, how, seed, stops = self._writing(tokens, **options)
        parts = stream_text(
            network, self.tokenizer, prompt, tokens, how, seed=seed, stops=stops, use_cache=cache
        )
        return (text for _, text in parts)

    def _writing(
        self,
        tokens: int,
        seed: int = 0,
        stop: str | Sequence[str] = (),
        **sampling: Unpack[SamplingOptions],
    ) -> tuple[LanguageModel, Sampling, int, tuple[str, ...]]:
        """Network, sampling, seed and stop strings of what was asked for."""
        if tokens < 1:
            raise UserError(f"`tokens` {tokens}: it must be at least 1", status=2)
        asked: SamplingOptions = {"temperature": 0.8, "top_k": 50, **sampling}
        stops = (stop,) if isinstance(stop, str) else tuple(stop)
        return self.writer(), Sampling(**asked), seed, stops

    # Talking.

    @cached_property
    def _chat_format(self) -> Any:
        return chat_format_of(self.tokenizer, self.model.chat_template)

    def dialogue(
        self,
        system: str = "",
        tokens: int | None = None,
        *,
        seed: int = 0,
        note: Any = lambda words: None,
        **sampling: Unpack[SamplingOptions],
    ) -> Chat:
        """A chat that remembers: `.say(text)` streams the answer.

        Args:
            system: what the system says first.
            tokens: of an answer at most; None: 512, at most half of what the model sees.
            note: is told, once each, that something had to be left out.
            sampling: temperature (0.7), top_k (50), top_p (0.95), min_p (0), repetition_penalty (1).

        Raises:
            UserError: the model has not learned to chat.
        """
        model, network = self.model, self.writer("chat")
        asked: SamplingOptions = {"temperature": 0.7, "top_k": 50, "top_p": 0.95, **sampling}
        found = self._chat_format
        if not model.config.causal:
            raise refuse(model.source, model.record, "chat")
        if found is None or not model.chats:
            raise UserError(
                f"{model.source} has not learned to chat: fine-tune it first (`lm fit` with "
                f"lm.tasks.InstructionTuning and --model.init_from {model.source})"
            )
        length = answer_length(model.config.max_seq_len, tokens)
        return Chat(network, found, length, Sampling(**asked), seed, system, note)

    @overload
    def chat(
        self, messages: str | Messages, system: str = "", tokens: int | None = None, **options: Any
    ) -> str: ...

    @overload
    def chat(
        self,
        messages: Sequence[str] | Sequence[Messages],
        system: str = "",
        tokens: int | None = None,
        **options: Any,
    ) -> list[str]: ...

    def chat(self, messages: Any, system: str = "", tokens: int | None = None, **options: Any) -> Any:
        """The answer to a message, or to a chat whose last message is the user's.

        Args:
            messages: a text, or a list of `{"role": "user", "content": "…"}`; or a list of such.
            system: what the system says first, where a chat has no such message of its own.
            tokens, options: see `dialogue`.
        """
        one = isinstance(messages, str) or (bool(messages) and isinstance(messages[0], Mapping))
        asked = [messages] if one else list(messages)
        lines = [
            Line(f"chat {n}", {"prompt": each} if isinstance(each, str) else {"messages": [*map(dict, each)]})
            for n, each in enumerate(asked, start=1)
        ]
        rows = [row for group in self.dialogue(system, tokens, **options).answers(lines) for row in group]
        answers = [row["answer"] for row in rows]
        return answers[0] if one else answers

    # Filling.

    @overload
    def fill(self, text: str, best: int = 5) -> list[list[tuple[str, float]]]: ...

    @overload
    def fill(self, text: Sequence[str], best: int = 5) -> list[list[list[tuple[str, float]]]]: ...

    def fill(self, text: Any, best: int = 5) -> Any:
        """A BERT's guesses for each `<mask>` in a text, or in several: pairs of text and probability, the
        likeliest first."""
        network = self.writer("fill")
        if isinstance(text, str):
            return fill(network, self.tokenizer, text, best)
        return [fill(network, self.tokenizer, each, best) for each in text]


def _before(text: str, stops: Sequence[str]) -> str:
    """The text before the first of some strings."""
    return text[: min((at for s in stops if s and (at := text.find(s)) >= 0), default=len(text))]
