"""The datamodule of pretraining: a corpus, as batches of token windows."""

from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader

from lm.data.corpus.prepare import CorpusSettings, locate, prepare
from lm.data.corpus.recipe import RecipeFile, is_recipe
from lm.data.corpus.shards import MANIFEST, Corpus
from lm.data.loading import Data, ResumableLoader, at_least
from lm.data.windows import TrainingWindows, ValidationWindows
from lm.errors import UserError
from lm.tokenizer import Tokenizer, load_tokenizer


class PretrainingData(Data):
    """Windows of tokens from a corpus, which is prepared on first use.

    Batches are dicts: `tokens` int64 and `documents` int32, both `(batch_size, seq_len + 1)`, and `key` int64
    `(batch_size,)`; see `lm.data.windows`.

    Args:
        corpus: what to learn from: "stdlib" (the standard library of the Python that runs), a text, code,
            JSON lines or Parquet file, a folder or a glob of them, a list of these, a corpus that `lm
            prepare` made, or the recipe of one (YAML), whose own vocabulary and held-out share count.
        seq_len: tokens that a window predicts.
        batch_size: windows in a batch, on each device.
        vocab_size: tokens of the tokenizer that is trained on the corpus.
        tokenizer: a SentencePiece model to use instead; vocab_size is then its own.
        text_field: the field or column that holds the text, in JSON lines and Parquet.
        val_fraction: the share held out for validation; by default 5% of the documents, or, of fewer than 20
            documents, the last 10% of the text.
        seed: decides the order of the windows, and what is masked in them.
        num_workers: processes that read ahead; reading is fast enough for none on most machines.
        data_dir: where prepared corpora lie.
    """

    def __init__(
        self,
        corpus: str | list[str] = "stdlib",
        seq_len: int = 256,
        batch_size: int = 16,
        vocab_size: int = 4096,
        tokenizer: str | None = None,
        text_field: str = "text",
        val_fraction: float | None = None,
        seed: int = 0,
        num_workers: int = 0,
        data_dir: str = "data",
    ) -> None:
        super().__init__()
        at_least(seq_len=(seq_len, 1), batch_size=(batch_size, 1), num_workers=(num_workers, 0))
        self.seq_len, self.batch_size, self.seed, self.num_workers = seq_len, batch_size, seed, num_workers
        self.settings = CorpusSettings(corpus, vocab_size, tokenizer, text_field, val_fraction, data_dir)
        self.corpus: Corpus | None = None
        self._folder: Path | None = None
        if isinstance(corpus, str) and (Path(corpus).expanduser() / MANIFEST).is_file():
            self._folder = Path(corpus).expanduser()
            self.vocab_size = Corpus.open(self._folder, verify=False).vocab_size
        elif is_recipe(corpus):
            self.vocab_size = RecipeFile(str(corpus)).vocab_size
        else:
            self.vocab_size = load_tokenizer(tokenizer).vocab_size if tokenizer else vocab_size

    def shape(self) -> dict[str, int]:
        return {"vocab_size": self.vocab_size, "max_seq_len": self.seq_len}

    @property
    def source(self) -> str:
        """The corpus's folder; before it is known, what it is made of."""
        return str(self._folder or self.settings.corpus)

    @property
    def processor(self) -> Tokenizer:
        """The corpus's tokenizer; after `setup`."""
        return self._opened().tokenizer

    tokenizer = processor

    @property
    def train_tokens(self) -> int:
        """Tokens of the training part; after `setup`."""
        return len(self.train_windows.stream)

    def prepare_data(self) -> None:
        """Prepares the corpus, on one process; quick where that is done."""
        if self._folder is None:
            self._folder = prepare(self.settings)

    def setup(self, stage: str | None = None) -> None:
        """Opens and checks the corpus, on every process; a second time does nothing.

        Raises:
            UserError: the corpus is damaged, or smaller than one window.
        """
        if self.corpus is not None:
            return
        folder = self._folder or locate(self.settings)  # another process may have prepared it
        self.corpus = Corpus.open(folder)
        self._folder = folder
        train, val = self.corpus.split("train"), self.corpus.split("val")
        if len(train) < self.seq_len + 1:
            raise UserError(
                f"the corpus has {len(train)} training tokens, too few for one window of {self.seq_len} + 1: "
                f"give more text, or a `seq_len` of {max(len(train) - 1, 1)} or less"
            )
        self.train_windows = TrainingWindows(train, self.seq_len, self.batch_size, self.seed)
        self.val_windows = ValidationWindows(val, self.seq_len, self.batch_size)

    def _opened(self) -> Corpus:
        if self.corpus is None:
            raise RuntimeError("call prepare_data() and setup() first")
        return self.corpus

    def train_dataloader(self) -> ResumableLoader:
        return self.training_loader(self.train_windows)

    def val_dataloader(self) -> DataLoader:
        return self.held_out_loader(self.val_windows)

    # There is one held-out part.
    test_dataloader = predict_dataloader = val_dataloader

    def state_dict(self) -> dict[str, Any]:
        return {"loader": self.loader_state(), "corpus": self._opened().identity}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self.trainer.state.fn == "fit" and state["corpus"] != self._opened().identity:
            raise UserError(
                f"the corpus has changed since the run began ({self.source} holds other tokens): "
                "choose another `name` to begin anew"
            )
        self._state = dict(state["loader"])
