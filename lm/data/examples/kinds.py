"""The datamodules of fine-tuning, one for each kind of example: they say where the readers look."""

from abc import abstractmethod
from collections.abc import Callable, Iterable
from inspect import signature
from pathlib import Path
from typing import Any

from lm.data.examples.batches import Encoded, Packed
from lm.data.examples.chats import Format, read_chats
from lm.data.examples.files import Known, Skipped
from lm.data.examples.module import ExampleData
from lm.data.examples.preferences import read_preferences
from lm.data.examples.questions import read_questions
from lm.data.examples.records import (
    ChatExample,
    Example,
    PreferenceExample,
    QuestionExample,
    TagExample,
    TextExample,
)
from lm.data.examples.stdlib import stdlib_chats, stdlib_texts
from lm.data.examples.tags import read_tags
from lm.data.examples.texts import read_texts
from lm.data.loading import at_least
from lm.data.tokenizers import open_tokenizer
from lm.errors import UserError
from lm.processes import say
from lm.tokenizer import Tokenizer, train_tokenizer
from lm.tokenizer.chat import with_chat

Found = Iterable[Example | Skipped | Known]


def options_of(reader: Callable[..., Found], given: dict[str, Any]) -> dict[str, Any]:
    """Those of the arguments given that the reader has too."""
    return {name: given[name] for name in signature(reader).parameters if name in given}


class TextExampleData(ExampleData):
    """Examples that a tokenizer encodes.

    Args:
        train: the file to learn from; see `ExampleData`.
        seq_len: longest sequence, in tokens; longer ones are cut or read in several windows, and it is said
            how many.
        vocab_size: tokens of the tokenizer that is trained on the examples where the model brings none.
        tokenizer: a tokenizer to use instead, where the model brings none.
    """

    processor: Tokenizer | None = None
    chats = False  # whether the examples are such
    for_encoding = frozenset({"seq_len", "vocab_size", "tokenizer_path", "too_long", "too_short"})

    def __init__(
        self,
        train: str,
        seq_len: int = 256,
        vocab_size: int = 8000,
        tokenizer: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(train, **kwargs)
        at_least(seq_len=(seq_len, 8))
        self.seq_len, self.tokenizer_path = seq_len, tokenizer
        self.too_long = f"longer than {seq_len} tokens"
        self.too_short = f" at a seq_len of {seq_len}"
        self.vocab_size = self.open_tokenizer().vocab_size if tokenizer else vocab_size

    @abstractmethod
    def texts(self, example: Any) -> Iterable[str]:
        """The texts of an example that a tokenizer should know."""

    def shape(self) -> dict[str, int]:
        return {"vocab_size": self.vocab_size, "max_seq_len": self.seq_len}

    @property
    def tokenizer(self) -> Tokenizer | None:
        return self.processor

    def open_tokenizer(self) -> Tokenizer:
        """The tokenizer that was asked for, for chats with their tokens."""
        found = open_tokenizer(self.tokenizer_path)
        return with_chat(found)[0] if self.chats else found

    def make_tokenizer(self) -> Tokenizer:
        """The tokenizer that was asked for, or one trained on the examples to learn from."""
        if self.tokenizer_path:
            return self.open_tokenizer()
        texts = (text for example in self.examples("train") for text in self.texts(example))
        try:
            return train_tokenizer(texts, self.vocab_size)
        except UserError as error:
            hint = "or start from a model, which brings a tokenizer: give `init_from` PATH"
            raise UserError(f"{error}; {hint}") from error


class TextData(TextExampleData):
    """Texts, or pairs of texts, with labels.

    Files are CSV, TSV, JSON Lines, JSON or Parquet, or folders whose subfolders are the labels (as IMDB's,
    also inside its tar). "stdlib" is the standard library in parts, each labelled with its package.

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

    record = TextExample

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
        self.options = options_of(read_texts, locals())

    def read(self, path: str, split: str) -> Found:
        # Of a file to be labelled, those without a label too.
        if path == "stdlib":
            return stdlib_texts(split)
        return read_texts(path, labelled=split == "train", **self.options)

    def texts(self, example: TextExample) -> Iterable[str]:
        return (example.text,) if example.pair is None else (example.text, example.pair)


class TagData(TextExampleData):
    """Sentences with a tag for each word: CoNLL columns or JSON Lines with lists of words and tags.

    Args:
        word_column: number of the column that holds the word; -1 is the last.
        tag_column: number of the column that holds the tag; null where there is none, to predict.
        joiner: what stands between words; null: nothing where most are single Chinese characters, else a
            space.
    """

    record = TagExample

    def __init__(
        self,
        train: str,
        word_column: int = 0,
        tag_column: int | None = -1,
        joiner: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(train, **kwargs)
        self.options = options_of(read_tags, locals())

    def read(self, path: str, split: str) -> Found:
        return read_tags(path, **self.options)

    def texts(self, example: TagExample) -> Iterable[str]:
        return (example.joiner.join(example.words),)


class QuestionData(TextExampleData):
    """Questions on texts: SQuAD's JSON, versions 1.1 and 2, or JSON Lines. What is held out of one file is
    whole documents."""

    record = QuestionExample

    def read(self, path: str, split: str) -> Found:
        if split == "test":
            # Of a file to be answered, those without an answer too.
            answered = any(isinstance(found, QuestionExample) for found in read_questions(path))
            return read_questions(path, labelled=answered and not self.predicting)
        return read_questions(path)

    def texts(self, example: QuestionExample) -> Iterable[str]:
        return (example.question, example.context)

    def group(self, example: QuestionExample) -> str:
        return example.document


class ChatData(TextExampleData):
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

    record, chats = ChatExample, True

    def __init__(
        self,
        train: str,
        format: Format = "auto",
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
            raise UserError(f"`data.prompt` {prompt!r} has no {{source}} in it", status=2)
        self.options = options_of(read_chats, locals())
        self.parallel, self.packing = parallel, packing

    def located(self, path: str) -> str:
        """The file with the first suffix, of parallel ones."""
        return super().located(f"{path}.{self.parallel[0]}" if self.parallel else path)

    def read(self, path: str, split: str) -> Found:
        if path == "stdlib":
            return stdlib_chats(split)
        return read_chats(path, target_path=self._answers(path), **self.options)

    def _answers(self, path: str) -> str | None:
        return path.removesuffix(self.parallel[0]) + self.parallel[1] if self.parallel else None

    def files(self, path: str) -> list[Path]:
        answers = self._answers(path)
        return super().files(path) + (super().files(answers) if answers else [])

    def texts(self, example: ChatExample) -> Iterable[str]:
        return (message.content for message in example.messages)

    def arrange(self, features: Encoded) -> Encoded:
        if not self.packing:
            return features
        packed = Packed(features, self.seq_len, self.seed)
        say(f"{len(features):,} chats are packed into {len(packed):,} rows of {self.seq_len} tokens")
        return Encoded(packed, packed.lengths)


class PreferenceData(TextExampleData):
    """Pairs of answers, the better one known: Anthropic's hh-rlhf, LLaMA-Factory's JSON, or columns `prompt`,
    `chosen` and `rejected`."""

    record, chats = PreferenceExample, True

    def read(self, path: str, split: str) -> Found:
        return read_preferences(path)

    def texts(self, example: PreferenceExample) -> Iterable[str]:
        return (*(m.content for m in example.messages), example.chosen, example.rejected)
