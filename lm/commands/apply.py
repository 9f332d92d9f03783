"""`lm classify`, `lm tag` and `lm answer`: a fine-tuned checkpoint on texts that a person or a file gives."""

import argparse
import re
import sys
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lm.commands.inference import add_device, check_device
from lm.errors import UserError
from lm.inference.lines import BATCH, Line, pools, read_lines, well_formed, write_rows
from lm.inference.uses import expect

if TYPE_CHECKING:
    from torch import Tensor

    from lm.tasks import FineTuning

Row = dict[str, Any]
_POOL = 8 * BATCH  # lines whose windows are sorted by length together


class Application(ABC):
    """How a task's model is used on lines. One for each command.

    Args:
        task: of the checkpoint, in evaluation mode.
        args: the command's.
    """

    def __init__(self, task: Any, args: argparse.Namespace) -> None:
        self.task, self.args = task, args

    @abstractmethod
    def example(self, line: Line) -> Any:
        """The task's example; null where there is nothing to look at, such as an empty text."""

    @abstractmethod
    def look(self, batch: Row, logits: "Tensor") -> list[Any]:
        """What the model finds in each window of a batch."""

    @abstractmethod
    def result(self, line: Line, example: Any, found: list[Any]) -> Row:
        """What is said of a line: what was found in each window of its example; nothing of a null one."""

    @abstractmethod
    def show(self, row: Row) -> str:
        """A result for a person."""


class Classify(Application):
    """`lm classify`."""

    def example(self, line: Line) -> Any:
        """A text, or a pair of texts."""
        from lm.data.examples.records import TextExample

        text, name = line.text(self.args.column, "--text"), self.args.pair
        if name is None and line.fields.get("pair") is not None:
            name = "pair"
        pair = None if name is None else line.text(name, "--pair")
        return TextExample(text, pair) if text.strip() else None

    def look(self, batch: Row, logits: "Tensor") -> list[Any]:
        """Each label's probability; of a rating, the number."""
        return self.task.probabilities(logits).tolist()

    def result(self, line: Line, example: Any, found: list[Any]) -> Row:
        """`prediction` and, of labels, `probabilities`."""
        if example is None:
            return {"prediction": None} | ({} if self.task.kind == "rating" else {"probabilities": None})
        return self.task.row(found[0])

    def show(self, row: Row) -> str:
        """The labels that are likeliest; where several may hold, those that do have a mark."""
        if self.task.kind == "rating":
            return f"  {row['prediction']:.4g}"
        ordered = sorted(row["probabilities"].items(), key=lambda pair: -pair[1])[: self.args.best]
        holds = row["prediction"] if self.task.kind == "multi" else ()
        return "\n".join(f"  {p:6.1%}  {name}" + " *" * (name in holds) for name, p in ordered)


class Tag(Application):
    """`lm tag`."""

    def __init__(self, task: Any, args: argparse.Namespace) -> None:
        super().__init__(task, args)
        from lm.metrics.entities import are_entities

        self.entities = are_entities(task.labels)

    def _split(self, line: Line) -> tuple[str, list[tuple[int, int]], bool]:
        """A line's text, where its words are, and whether that is the text that came with it: where it came
        with words that are not found there, one after another, the text is the joined words."""
        joiner, text = self.task.joiner, line.fields.get("text")
        if line.fields.get("words") is None:
            text = line.text("text")
            return text, [match.span() for match in re.finditer(r"\S+" if joiner else r"\S", text)], True
        words = line.fields["words"]
        if not isinstance(words, list) or not all(isinstance(w, str) and w for w in words):
            raise UserError(f"{line.where}: 'words' is not a list of words")
        if isinstance(text, str) and (places := _places(words, text)) is not None:
            return text, places, True
        joined = joiner.join(words)
        return joined, _places(words, joined) or [], text is None

    def example(self, line: Line) -> Any:
        """Words: those that are given, else the text's, by white space or, where training had nothing between
        words, by character."""
        from lm.data.examples.records import TagExample

        text, places, _ = self._split(line)
        if not places:
            return None
        return TagExample(tuple(text[start:end] for start, end in places), (), self.task.joiner)

    def look(self, batch: Row, logits: "Tensor") -> list[Any]:
        """The tags of each window's words, with their probabilities."""
        return self.task.found(batch, logits)

    def result(self, line: Line, example: Any, found: list[Any]) -> Row:
        """`words`, `tags` and, where these are entities', `entities`: the text's characters from `start` to
        before `end`, which are left out where the words that were given don't stand in the text that was. An
        entity is as probable as its least probable tag."""
        from lm.metrics.entities import spans

        if example is None:
            return {"words": [], "tags": []} | ({"entities": []} if self.entities else {})
        text, places, known = self._split(line)
        tagged = {word: pair for window in found for word, pair in window.items()}
        tags, sure = zip(*(tagged[n] for n in range(len(places))), strict=True)
        row: Row = {"words": list(example.words), "tags": list(tags)}
        if self.entities:
            row["entities"] = [
                {
                    "type": kind,
                    "text": text[places[first][0] : places[after - 1][1]],
                    **({"start": places[first][0], "end": places[after - 1][1]} if known else {}),
                    "probability": round(min(sure[first:after]), 6),
                }
                for kind, first, after in spans(tags)
            ]
        return row

    def show(self, row: Row) -> str:
        """A line for each entity, or for each word."""
        if not self.entities:
            return "\n".join(f"  {tag:8}{word}" for word, tag in zip(row["words"], row["tags"], strict=True))
        lines = [
            f"  {e['probability']:6.1%}  {e['type']:8}{e['text']}  ({e['start']} to {e['end']})"
            for e in row["entities"]
        ]
        return "\n".join(lines) or "  no entities"


def _places(words: list[str], text: str) -> list[tuple[int, int]] | None:
    """Where words stand in a text, one after another; null where one does not."""
    places: list[tuple[int, int]] = []
    for word in words:
        start = text.find(word, places[-1][1] if places else 0)
        if start < 0:
            return None
        places.append((start, start + len(word)))
    return places


class Answer(Application):
    """`lm answer`."""

    def example(self, line: Line) -> Any:
        """A question and its text."""
        from lm.data.examples.records import QuestionExample

        question, context = line.text("question"), line.text("context")
        if not question.strip() or not context.strip():
            return None
        return QuestionExample(str(line.fields.get("id", line.where)), question, context)

    def look(self, batch: Row, logits: "Tensor") -> list[Any]:
        """The best span of each window."""
        return self.task.spans(batch, logits)

    def result(self, line: Line, example: Any, found: list[Any]) -> Row:
        """`answer`, the character of the text where it starts, and its score against that of none."""
        if example is None:
            return {"answer": "", "start": None, "score": None}
        return self.task.answer(example, dict(enumerate(found)))

    def show(self, row: Row) -> str:
        """The answer and where it is."""
        if row["start"] is None:
            return "no answer in the text" + ("" if row["score"] is None else f" (score {row['score']})")
        end = row["start"] + len(row["answer"])
        return f"{row['answer']}\n  characters {row['start']} to {end}, score {row['score']}"


def apply(application: Application, lines: Iterable[Line]) -> Iterator[list[Row]]:
    """The results of lines, in their order: groups of rows, a line's fields with the result.

    Windows of like length share a batch; what is found does not depend on who shares it.
    """
    for pool in pools(lines, _POOL):
        examples = [application.example(line) for line in pool]
        windows = [
            (number, window)
            for number, (line, example) in enumerate(zip(pool, examples, strict=True))
            for window in _encoded(application.task, example, line)
        ]
        missing = Counter(number for number, _ in windows)
        found: list[dict[int, Any]] = [{} for _ in pool]
        order = sorted(range(len(windows)), key=lambda i: len(windows[i][1]["tokens"]))
        done = 0
        for chosen in [*pools(order), []]:  # with the empty one come the last of the pool
            for i, part in zip(chosen, _looked(application, [windows[i][1] for i in chosen]), strict=True):
                number = windows[i][0]
                found[number][i] = part
                missing[number] -= 1
            rows = []
            while done < len(pool) and not missing[done]:
                parts = [found[done][i] for i in sorted(found[done])]
                example = examples[done] if parts else None
                rows.append({**pool[done].fields, **application.result(pool[done], example, parts)})
                done += 1
            yield rows


def _encoded(task: "FineTuning", example: Any, line: Line) -> list[Row]:
    """An example's windows that have anything in them."""
    if example is None:
        return []
    try:
        windows = task.encode(example, training=False)
    except UserError as error:
        raise UserError(f"{line.where}: {error}") from error
    return [
        {k: v for k, v in window.items() if k not in ("cut", "several")}
        for window in windows
        if window["tokens"]
    ]


def _looked(application: Application, windows: list[Row]) -> list[Any]:
    import torch

    if not windows:
        return []
    task = application.task
    device = next(task.net.parameters()).device
    batch = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in task.batch(windows).items()}
    with torch.inference_mode():
        logits = task.logits(batch).float()
        if bool(logits.isnan().any()):
            raise UserError("the model's outputs are not finite: its training has diverged")
        return application.look(batch, logits)


def load_task(path: str, device: str, command: str) -> "FineTuning":
    """The task of a checkpoint that `command` can use.

    Raises:
        UserError: it is another command's, or damaged, or there is no such device.
    """
    check_device(device)
    from lm.checkpoint import read, read_record

    module, _, name = expect(path, read_record(read(path), path), command).rpartition(".")
    try:
        return getattr(import_module(module), name).load(path, device)
    except (KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged: its description is not whole ({error!r})") from error


def _parser(command: str, description: str, run: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"lm {command}", description=description)
    parser.add_argument("checkpoint", help=f"such as checkpoints/{run}/best.ckpt; nothing else is needed")
    parser.add_argument("--json", action="store_true", help="JSON Lines for what is given here, too")
    add_device(parser)
    return parser


def _run(
    kind: type[Application], args: argparse.Namespace, given: list[Line], column: str | None, example: str
) -> None:
    """Work on what is given, or else on standard input.

    Args:
        column, example: see `read_lines`.
    """
    for line in given:
        if not all(well_formed(str(text), line.where).strip() for text in line.fields.values()):
            raise UserError(f"{line.where} is empty", status=2)
    if not given and sys.stdin is not None and sys.stdin.isatty():
        what = "--question and --context" if kind is Answer else "a text"
        raise UserError(f"give {what}, or lines on standard input such as {example}", status=2)
    application = kind(load_task(args.checkpoint, args.device, kind.__name__.lower()), args)
    groups = apply(application, given or read_lines(column, example))
    if not given or args.json:
        write_rows(groups)
        return
    rows = [row for group in groups for row in group]
    for number, row in enumerate(rows):
        if len(rows) > 1:
            print("\n" * (number > 0) + " ".join(row["text"].split()))
        print(application.show(row))


def _arguments(texts: list[str], column: str) -> list[Line]:
    return [Line(f"text {number}", {column: text}) for number, text in enumerate(texts, start=1)]


def classify(argv: list[str]) -> None:
    """The command `lm classify`."""
    example = '{"text": "…"}'
    parser = _parser(
        "classify",
        "Put labels on texts, or rate them. Texts are arguments, or lines of standard input: plain, or JSON "
        f"Lines such as {example}, perhaps with `pair`. Then JSON Lines come out: each line's fields with "
        "`prediction` and `probabilities`.",
        "sst2",
    )
    parser.add_argument("texts", metavar="TEXT", nargs="*", help="texts; standard input where there is none")
    parser.add_argument(
        "--text",
        dest="column",
        default="text",
        metavar="NAME",
        help="the field with the text (default: text)",
    )
    parser.add_argument(
        "--pair", metavar="NAME", help="the field with the second text of a pair (default: pair, if there is)"
    )
    parser.add_argument("--best", type=int, default=5, help="labels to show for an argument (default: 5)")
    args = parser.parse_intermixed_args(argv)
    if args.best < 1:
        raise UserError(f"--best {args.best}: it must be at least 1", status=2)
    if args.texts and (args.pair is not None or args.column != "text"):
        raise UserError("--text and --pair name fields of JSON Lines on standard input", status=2)
    _run(Classify, args, _arguments(args.texts, "text"), args.column, example)


def tag(argv: list[str]) -> None:
    """The command `lm tag`."""
    example = '{"text": "…"} or {"words": ["…"]}'
    parser = _parser(
        "tag",
        "Find the entities of sentences, or tag their words. Sentences are arguments, or lines of standard "
        f"input: plain, or JSON Lines such as {example}. Then JSON Lines come out: each line's fields with "
        "`words`, `tags` and `entities`, whose `start` and `end` count the text's characters, or without one "
        "those of the words with spaces between. Words are what white space separates (of a model that was "
        "trained on Chinese characters: the characters): give punctuation apart if it was so in training.",
        "msra-ner",
    )
    parser.add_argument(
        "texts", metavar="TEXT", nargs="*", help="sentences; standard input where there is none"
    )
    args = parser.parse_intermixed_args(argv)
    _run(Tag, args, _arguments(args.texts, "text"), "text", example)


def answer(argv: list[str]) -> None:
    """The command `lm answer`."""
    example = '{"question": "…", "context": "…"}'
    parser = _parser(
        "answer",
        f"Find the answer to a question in a text. Without options: JSON Lines on standard input such as "
        f"{example}; out come each line's fields with `answer`, `start` (its first character in the context) "
        "and `score` (above 0: likelier than that there is none).",
        "xquad-en",
    )
    parser.add_argument("--question", metavar="TEXT")
    parser.add_argument("--context", metavar="TEXT", help="the text that may hold the answer, however long")
    parser.add_argument("--context_file", metavar="FILE", help="the same from a file")
    args = parser.parse_intermixed_args(argv)
    given = []
    contexts = [c for c in (args.context, args.context_file) if c is not None]
    if args.question is not None or contexts:
        if args.question is None or len(contexts) != 1:
            raise UserError("give --question, and --context or --context_file", status=2)
        context = args.context if args.context is not None else _file(args.context_file)
        given = [Line("the question or the context", {"question": args.question, "context": context})]
    _run(Answer, args, given, None, example)


def _file(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"--context_file {path}: {error.strerror}", status=2) from error
    except UnicodeDecodeError as error:
        raise UserError(f"--context_file {path} is not UTF-8 text (byte {error.start + 1})") from error
