"""What a model finds in texts, pictures and sounds: that of a task which it was trained for."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from inspect import signature
from pathlib import Path
from typing import Any, overload

from lm.errors import UserError
from lm.inference.lines import Line
from lm.predictor.opened import Opened, Row


class Looking(Opened):
    """What a model does that has learned to look at something."""

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
            settings: `beam_width`, `language_model`, `alpha`, `beta`; see `lm.tasks.SpeechRecognition`.
        """
        with self.using("transcribe", **settings):
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
        with self.using("detect", **settings):
            return self._of_files("detect", picture)

    @overload
    def segment(self, picture: str | Path | bytes, **settings: Any) -> Row: ...

    @overload
    def segment(self, picture: Sequence[str | Path | bytes], **settings: Any) -> list[Row]: ...

    def segment(self, picture: Any, **settings: Any) -> Any:
        """What each pixel of a picture shows, or of several: `shares` of the classes, and `mask`, their
        numbers, uint8 (H, W); of a model that tells things apart its `things`.

        Args:
            picture: a file's path, or its bytes.
            settings: `out`, `draw`, `threshold`; see `lm.tasks.Segmentation`.
        """
        with self.using("segment", **settings):
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

    @contextmanager
    def using(self, command: str, **settings: Any) -> Iterator[None]:
        """Within, the task that a command uses goes by these settings, and afterwards by those it had.

        Raises:
            UserError: there is none of a name, or it can't have a value.
        """
        task = self.task(command)
        known = signature(task.decode_with).parameters if settings else {}
        if unknown := ", ".join(sorted(settings.keys() - known)):
            raise UserError(f"there is no setting {unknown} of `{command}`: it has {', '.join(known)}")
        before = {name: getattr(task, name) for name in settings}
        if settings:
            task.decode_with(**settings)
        try:
            yield
        finally:
            if settings:
                task.decode_with(**before)

    def apply(
        self,
        command: str,
        lines: Iterable[Line],
        on_error: Callable[[UserError], None] | None = None,
        **options: Any,
    ) -> Iterator[list[Row]]:
        """See `lm.tasks.applying.apply`."""
        from lm.tasks.applying import apply

        return apply(self.task(command), lines, on_error, **options)

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
