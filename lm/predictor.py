"""A model to use: `lm.load(path)`, wherever it lies, and what it can do.

    import lm

    model = lm.load("checkpoints/gpt-nano")
    print(model.generate("def parse", tokens=50))
    for part in model.stream("def parse"):
        print(part, end="")

What takes a text takes several, too, and then gives a list: they share batches, and what comes of one does
not depend on the others, but for rounding. What a model can't do is an `lm.UserError` that says what it is.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack, overload

import torch

from lm.backbone import BackboneConfig, LanguageModel
from lm.checkpoint import Model
from lm.convert import open_model
from lm.errors import UserError
from lm.inference.batch import complete
from lm.inference.chat import Chat, answer_length
from lm.inference.fill import fill
from lm.inference.generate import Sampling, prompt_ids, stream_text
from lm.inference.lines import Line
from lm.tasks.table import entry_of, path_of, refuse, writes_text
from lm.tokenizer import Tokenizer
from lm.tokenizer.template import chat_format_of

Row = dict[str, Any]
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


def load(
    path: str | Path,
    device: str | torch.device = "cpu",
    base: str | Path | None = None,
    dtype: Literal["fp32", "bf16"] = "fp32",
) -> "Predictor":
    """Open a model.

    Args:
        path: a checkpoint, a run's folder (its best.ckpt), an adapter.ckpt, a Hugging Face folder, or an ONNX
            file of lm.
        device: where it works: cpu, cuda, cuda:1, mps.
        base: what an adapter was trained beside, where it is no longer where it was.
        dtype: of the weights. bf16 halves the memory, and writes faster on a GPU, and on a CPU that has
            instructions for it; it rounds to three digits.

    Raises:
        UserError: there is none, or more than one, it is damaged, or there is no such device or type.
    """
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"`device` {device}: there is none here", status=2) from error
    if dtype not in ("fp32", "bf16"):
        raise UserError(f"`dtype` {dtype}: it can be fp32, bf16", status=2)
    model = open_model(path, device, base, check=False, integers=True)
    if dtype == "bf16":
        model.to(torch.bfloat16)
    return Predictor(model)


class Predictor:
    """A model that is open, made by `load`.

    Attributes:
        model: its shape, weights, tokenizer and record.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self._tasks: dict[str, Any] = {}

    def __repr__(self) -> str:
        what = entry.what if (entry := entry_of(self.model.record)) else "a model"
        return f"<{what}: {self.model.source}>"

    @property
    def config(self) -> BackboneConfig:
        """The shape of its Transformer."""
        return self.model.config

    @property
    def tokenizer(self) -> Tokenizer:
        return self.model.tokenizer

    @property
    def labels(self) -> list[str]:
        """Of a classifier or tagger; none of others."""
        return list(self.model.record.get("labels") or [])

    # Writing.

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

    # Looking.

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

    @overload
    def classify(self, text: str | Path | bytes, pair: str | None = None) -> Row: ...

    @overload
    def classify(
        self, text: Sequence[str | Path | bytes], pair: Sequence[str] | None = None
    ) -> list[Row]: ...

    def classify(self, text: Any, pair: Any = None) -> Any:
        """The labels of a text, picture or sound, or of several: `prediction` and `probabilities`, or a
        rating's `prediction`.

        Args:
            text: of a model that works on files: a file's path, or its bytes.
            pair: the second text of each, of a model that was trained on pairs.
        """
        if self.model.record.get("input"):
            return self._of_files("classify", text)
        return self._apply("classify", text=text, pair=pair)

    @overload
    def transcribe(self, sound: str | Path | bytes, **settings: Any) -> Row: ...

    @overload
    def transcribe(self, sound: Sequence[str | Path | bytes], **settings: Any) -> list[Row]: ...

    def transcribe(self, sound: Any, **settings: Any) -> Any:
        """What is said in a sound, or in several: `text`, and its `words` with `start` and `end` in seconds.

        Args:
            sound: a file's path, or its bytes.
            settings: `beam_width`, `language_model`, `alpha`, `beta`, which stay so; see
                `lm.tasks.SpeechRecognition`.
        """
        self.task("transcribe").decode_with(**settings)
        return self._of_files("transcribe", sound)

    @overload
    def detect(self, picture: str | Path | bytes, **settings: Any) -> Row: ...

    @overload
    def detect(self, picture: Sequence[str | Path | bytes], **settings: Any) -> list[Row]: ...

    def detect(self, picture: Any, **settings: Any) -> Any:
        """The things in a picture, or in several: `boxes`, the surest first, each with its `label`, `score`
        and `box`, x0 y0 x1 y1 in pixels.

        Args:
            picture: a file's path, or its bytes.
            settings: `threshold`, `draw`; see `lm.tasks.ObjectDetection`.
        """
        self.task("detect").decode_with(**settings)
        return self._of_files("detect", picture)

    @overload
    def segment(self, picture: str | Path | bytes, **settings: Any) -> Row: ...

    @overload
    def segment(self, picture: Sequence[str | Path | bytes], **settings: Any) -> list[Row]: ...

    def segment(self, picture: Any, **settings: Any) -> Any:
        """What each pixel of a picture shows, or of several: `shares` of the classes, and `mask`, their
        numbers, uint8 (H, W).

        Args:
            picture: a file's path, or its bytes.
            settings: `out`, `draw`; see `lm.tasks.Segmentation`.
        """
        self.task("segment").decode_with(**settings)
        return self._of_files("segment", picture)

    @overload
    def tag(self, text: str) -> Row: ...

    @overload
    def tag(self, text: Sequence[str]) -> list[Row]: ...

    def tag(self, text: Any) -> Any:
        """The words of a sentence, or of several, with their `tags` and `entities`."""
        return self._apply("tag", text=text)

    @overload
    def answer(self, question: str, context: str) -> Row: ...

    @overload
    def answer(self, question: Sequence[str], context: Sequence[str]) -> list[Row]: ...

    def answer(self, question: Any, context: Any) -> Any:
        """The answer to a question in a text, or to several each in its own: `answer`, `start` (its first
        character in the context) and `score` (above 0: likelier than that there is none)."""
        return self._apply("answer", question=question, context=context)

    def task(self, command: str) -> Any:
        """The task that a command uses, in evaluation mode.

        Raises:
            UserError: the model is for another command, or damaged.
        """
        if command not in self._tasks:
            from lm.tasks.applying import task_of

            self._tasks[command] = task_of(self.model, command)
        return self._tasks[command]

    def apply(self, command: str, lines: Iterable[Line], **options: Any) -> Iterator[list[Row]]:
        """See `lm.tasks.applying.apply`."""
        from lm.tasks.applying import apply

        return apply(self.task(command), lines, **options)

    def _of_files(self, command: str, given: Any) -> Any:
        """What a command finds in a file, or in several: paths, or bytes."""
        one = isinstance(given, str | Path | bytes)
        files = [given] if one else list(given)
        lines = [
            Line(f"file {n}", {"data": each})
            if isinstance(each, bytes)
            else Line(str(each), {"path": str(each)})
            for n, each in enumerate(files, start=1)
        ]
        found = [
            {name: value for name, value in row.items() if name not in ("path", "data")}
            for group in self.apply(command, lines)
            for row in group
        ]
        return found[0] if one else found

    def _apply(self, command: str, **given: Any) -> Any:
        columns = {name: values for name, values in given.items() if values is not None}
        kinds = {isinstance(values, str) for values in columns.values()}
        one = kinds == {True}
        if len(kinds) > 1 or (not one and len({len(values) for values in columns.values()}) > 1):
            names = " and ".join(f"`{name}`" for name in columns)
            raise UserError(f"{names}: give one of each, or as many of one as of the other")
        rows = [tuple(columns.values())] if one else list(zip(*columns.values(), strict=True))
        lines = [
            Line(f"text {n}", dict(zip(columns, row, strict=True))) for n, row in enumerate(rows, start=1)
        ]
        found = [
            {name: value for name, value in row.items() if name not in columns}
            for group in self.apply(command, lines)
            for row in group
        ]
        return found[0] if one else found


@contextmanager
def while_training(task: Any) -> Iterator[Predictor]:
    """A model in the midst of its training, to be used within: in evaluation mode, uncompiled, as each length
    of text would be compiled anew. What is drawn within is nothing to the training.

    Args:
        task: that trains it; not sharded.
    """
    from lightning.pytorch.utilities.seed import isolate_rng

    record = {"task": path_of(task.plain()), **task.record()}
    model = Model(task.config, {}, task.processor, "the model", record)
    model.__dict__["network"] = task.net  # as it is
    predictor, training = Predictor(model), task.net.training
    if entry := entry_of(model.record):
        predictor._tasks[entry.command] = task
    task.net.eval()
    try:
        with isolate_rng(), torch.compiler.set_stance("force_eager"):
            yield predictor
    finally:
        task.net.train(training)


def _before(text: str, stops: Sequence[str]) -> str:
    """The text before the first of some strings."""
    return text[: min((at for s in stops if s and (at := text.find(s)) >= 0), default=len(text))]
