"""The datamodules of fine-tuning, one for each kind of example: they say where the readers look."""

from collections.abc import Iterable
from typing import Any, Literal

from lm.data.examples.batches import Features, pack
from lm.data.examples.chats import read_chats
from lm.data.examples.files import Read
from lm.data.examples.module import ExampleData
from lm.data.examples.preferences import read_preferences
from lm.data.examples.questions import read_questions
from lm.data.examples.records import (
    ChatExample,
    PreferenceExample,
    QuestionExample,
    TagExample,
    TextExample,
)
from lm.data.examples.tags import read_tags
from lm.data.examples.texts import read_texts, stdlib_texts
from lm.errors import UserError
from lm.processes import say
from lm.tokenizer import Tokenizer
from lm.tokenizer.chat import with_chat


class TextData(ExampleData):
    """Texts, or pairs of texts, with labels.

    Files are CSV, TSV, JSON Lines, JSON or Parquet, or folders whose subfolders are the labels (as IMDB's,
    also inside its tar). "stdlib" is pieces of the standard library, each labelled with its package.

    Args:
        text: the column that holds the text.
        pair: the column that holds the second text of a pair.
        label: the column that holds the label, or a list of labels, or with `rating` a number; null where
            there is none, to predict.
        columns: names of the columns, where the file has no header.
        separator: what separates several labels in one column.
        rating: the label is a number to be predicted.
        label_names: names for what the file has as labels, such as `{"0": negative, "1": positive}`.
    """

    def __init__(
        self,
        train: str,
        text: str = "text",
        pair: str | None = None,
        label: str | None = "label",
        columns: list[str] | None = None,
        separator: str | None = None,
        rating: bool = False,
        label_names: dict[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(train, **kwargs)
        self.options = {
            "text": text,
            "pair": pair,
            "label": label,
            "columns": columns,
            "separator": separator,
            "rating": rating,
            "label_names": label_names,
        }

    def read(self, path: str, split: str) -> Read:
        """The examples of a file; of a file to be labelled, those without a label too."""
        if path == "stdlib":
            return stdlib_texts(split)
        return read_texts(path, labelled=split == "train", **self.options)

    def texts(self, example: TextExample) -> Iterable[str]:
        """The text and its pair."""
        return (example.text,) if example.pair is None else (example.text, example.pair)


class TagData(ExampleData):
    """Sentences with a tag for each word: CoNLL columns or JSON Lines with lists of words and tags.

    Args:
        word_column: number of the column that holds the word; -1 is the last.
        tag_column: number of the column that holds the tag; null where there is none, to predict.
        joiner: what stands between words; null: nothing where most are single Chinese characters, else a
            space.
    """

    def __init__(
        self,
        train: str,
        word_column: int = 0,
        tag_column: int | None = -1,
        joiner: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(train, **kwargs)
        self.options = {"word_column": word_column, "tag_column": tag_column, "joiner": joiner}

    def read(self, path: str, split: str) -> Read:
        """The sentences of a file."""
        return read_tags(path, **self.options)

    def texts(self, example: TagExample) -> Iterable[str]:
        """The sentence."""
        return (example.joiner.join(example.words),)


class QuestionData(ExampleData):
    """Questions on texts: SQuAD's JSON, versions 1.1 and 2, or JSON Lines. What is held out of one file is
    whole documents."""

    def read(self, path: str, split: str) -> Read:
        """The questions of a file; of one to be answered, those without an answer too."""
        if split == "test" and self.predicting:
            return read_questions(path, labelled=False)
        try:
            return read_questions(path)
        except UserError:
            if split != "test":
                raise
            return read_questions(path, labelled=False)

    def texts(self, example: QuestionExample) -> Iterable[str]:
        """The question and its text."""
        return (example.question, example.context)

    def group(self, example: QuestionExample) -> str:
        """The document."""
        return example.document


class ChatData(ExampleData):
    """Chats and instructions: alpaca, ShareGPT and messages JSON, pairs in named columns, parallel texts.
    "stdlib" is functions of the standard library, each with its docstring's first sentence.

    Args:
        format: of the file: auto looks for itself.
        source: the column with what is asked; of parallel files, see `target`.
        target: the column with the answer; of several the first is learned, the others are references.
        instruction: what the system says first in chats where it says nothing.
        prompt: what the assistant is asked, with `{source}` in it; null: the source alone.
        parallel: suffixes of two text files with a line for each example: with `[en.gz, de.gz]` the file
            `train.en.gz` is asked and `train.de.gz` answers; `train` is then `train`, without the suffix.
        packing: put several short chats into one row, where they don't see each other: less padding.
    """

    def __init__(
        self,
        train: str,
        format: Literal[
            "auto", "messages", "sharegpt", "alpaca", "columns", "parallel", "dialogsum"
        ] = "auto",
        source: str | None = None,
        target: str | list[str] | None = None,
        instruction: str | None = None,
        prompt: str | None = None,
        parallel: tuple[str, str] | None = None,
        packing: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(train, **kwargs)
        if prompt is not None and "{source}" not in prompt:
            raise UserError(f"--data.prompt {prompt!r} has no {{source}} in it", status=2)
        self.options = {
            "format": format,
            "source": source,
            "target": target,
            "instruction": instruction,
            "prompt": prompt,
        }
        self.parallel, self.packing = parallel, packing

    def located(self, path: str) -> str:
        """The file with the first suffix, of parallel ones."""
        return super().located(f"{path}.{self.parallel[0]}" if self.parallel else path)

    def read(self, path: str, split: str) -> Read:
        """The chats of a file."""
        if path == "stdlib":
            from lm.data.examples.stdlib import stdlib_chats

            return stdlib_chats(split)
        answers = path.removesuffix(self.parallel[0]) + self.parallel[1] if self.parallel else None
        return read_chats(path, target_path=answers, **self.options)

    def open_tokenizer(self) -> Tokenizer:
        """With the pieces that a chat needs."""
        return with_chat(super().open_tokenizer())[0]

    def texts(self, example: ChatExample) -> Iterable[str]:
        """What is said."""
        return (message.content for message in example.messages)

    def arrange(self, features: list[Features]) -> list[Features]:
        """Packed, where that was asked for."""
        if not self.packing:
            return features
        packed = pack(features, self.seq_len, self.seed)
        say(f"{len(features):,} chats are packed into {len(packed):,} rows of {self.seq_len} pieces")
        return packed


class PreferenceData(ExampleData):
    """Pairs of answers, the better one known: Anthropic's hh-rlhf, LLaMA-Factory's JSON, or columns `prompt`,
    `chosen` and `rejected`."""

    def read(self, path: str, split: str) -> Read:
        """The pairs of a file."""
        return read_preferences(path)

    def open_tokenizer(self) -> Tokenizer:
        """With the pieces that a chat needs."""
        return with_chat(super().open_tokenizer())[0]

    def texts(self, example: PreferenceExample) -> Iterable[str]:
        """What is said, and both answers."""
        return (*(m.content for m in example.messages), example.chosen, example.rejected)
