"""A prepared corpus on disk: checked when opened, then read as one long array of tokens.

The folder holds `manifest.json`, `tokenizer.model` and, for each split and shard, `train-00000.bin` (token
ids, little endian) with `train-00000.idx` (int64: where each document starts in the shard). Each document is
written whole into one shard as `<s> tokens </s>`.
"""

import hashlib
import json
from bisect import bisect_right
from contextlib import ExitStack, suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from lm.errors import UserError
from lm.files import synced, write_atomically
from lm.tokenizer import Tokenizer, load_tokenizer

FORMAT = 2
MANIFEST = "manifest.json"
TOKENIZER = "tokenizer.model"
SPLITS = ("train", "val")
_INDEX = np.dtype("<i8")
_ALWAYS_HASHED = 1 << 30  # bytes: up to here hashing takes about a second, so every opening does it
_VERIFIED = ".verified"


def token_dtype(vocab_size: int) -> np.dtype:
    """The smallest of the two dtypes of a shard that holds every id."""
    return np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")


class Corpus:
    """A prepared corpus; made by `Corpus.open`.

    Attributes:
        folder: where it lies.
        manifest: the content of `manifest.json`: `splits` has tokens, documents and UTF-8 bytes of each
            split.
    """

    def __init__(self, folder: Path, manifest: dict) -> None:
        self.folder = folder
        self.manifest = manifest

    @classmethod
    def open(cls, folder: str | Path, verify: bool = True) -> "Corpus":
        """Reads the manifest and checks the shards against it.

        Sizes are always checked. Checksums are as well, at every opening up to 1 GiB; above that once for
        each state of the files, which is noted in a small file in the folder.

        Args:
            verify: False looks at the manifest only, to report on it.

        Raises:
            UserError: this is no prepared corpus, a newer lm wrote it, or a file is missing, cut short or
                altered.
        """
        corpus = cls(Path(folder), _read_manifest(Path(folder)))
        if verify:
            corpus._check()
        return corpus

    def _check(self) -> None:
        paths = {self.folder / TOKENIZER: (None, self.manifest["tokenizer_sha256"])}
        for split in SPLITS:
            for shard in self.manifest["splits"][split]["shards"]:
                bin_path, idx_path = _shard_paths(self.folder, shard["file"])
                paths[bin_path] = (shard["tokens"] * self.dtype.itemsize, shard["sha256"])
                paths[idx_path] = (shard["documents"] * _INDEX.itemsize, shard["index_sha256"])
        state = {}
        for path, (size, _) in paths.items():
            try:
                found = path.stat()
            except OSError as error:
                raise self._broken(path, "is missing") from error
            if size is not None and found.st_size != size:
                raise self._broken(path, f"has {found.st_size} bytes instead of {size}")
            state[path.name] = [found.st_size, found.st_mtime_ns]
        stamp = self.folder / _VERIFIED
        total = sum(size for size, _ in state.values())
        if total > _ALWAYS_HASHED and _read_json(stamp) == state:
            return
        for path, (_, sha256) in paths.items():
            with path.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                    raise self._broken(path, "is not what was written (its checksum differs)")
        if total > _ALWAYS_HASHED:
            with suppress(OSError):  # a corpus on a read-only disk is hashed each time
                stamp.write_text(json.dumps(state))

    def _broken(self, path: Path, what: str) -> UserError:
        return UserError(f"{path} {what}: delete the folder {self.folder} and prepare the corpus again")

    @cached_property
    def tokenizer(self) -> Tokenizer:
        return load_tokenizer(self.folder / TOKENIZER)

    @property
    def vocab_size(self) -> int:
        return self.manifest["vocab_size"]

    @cached_property
    def identity(self) -> str:
        """A hash of all that a run learns from: equal for equal tokens and tokenizers, wherever they lie."""
        sums = [self.manifest["tokenizer_sha256"]]
        sums += [shard["sha256"] for split in SPLITS for shard in self.manifest["splits"][split]["shards"]]
        return hashlib.sha256("".join(sums).encode()).hexdigest()

    @property
    def dtype(self) -> np.dtype:
        """How a token id is stored in a shard."""
        return np.dtype(self.manifest["dtype"]).newbyteorder("<")

    def split(self, name: str) -> "TokenStream":
        """The tokens of "train" or "val" as one array."""
        record = self.manifest["splits"][name]
        paths = [_shard_paths(self.folder, shard["file"]) for shard in record["shards"]]
        return TokenStream(paths, self.dtype, record["bytes"])


class TokenStream:
    """The shards of a split end to end, as if they were one array; memory-mapped, so it costs no memory.

    Args:
        paths: the `.bin` and `.idx` file of each shard.
        dtype: of a token id.
        bytes: UTF-8 bytes of the text that the tokens stand for.
    """

    def __init__(self, paths: list[tuple[Path, Path]], dtype: np.dtype, bytes: int) -> None:
        self._recipe, self.bytes = (paths, dtype, bytes), bytes
        # Plain views: slicing an np.memmap builds a subclass each time, which costs more than the slice.
        self._shards = [_map(bin_path, dtype) for bin_path, _ in paths]
        self._starts = [_map(idx_path, _INDEX) for _, idx_path in paths]
        self._token_base = [0, *np.cumsum([len(shard) for shard in self._shards]).tolist()]
        self._document_base = [0, *np.cumsum([len(starts) for starts in self._starts]).tolist()]

    def __reduce__(self) -> tuple:
        # A worker process maps the files itself; pickling the arrays would send the corpus through a pipe.
        return TokenStream, self._recipe

    def __len__(self) -> int:
        return self._token_base[-1]

    @property
    def documents(self) -> int:
        return self._document_base[-1]

    def document(self, number: int) -> tuple[int, int]:
        """The first token of a document, and the one behind its last."""
        shard = bisect_right(self._document_base, number) - 1
        starts, own = self._starts[shard], number - self._document_base[shard]
        end = starts[own + 1] if own + 1 < len(starts) else len(self._shards[shard])
        return self._token_base[shard] + int(starts[own]), self._token_base[shard] + int(end)

    def document_of(self, token: int) -> int:
        """The number of the document that a token is from."""
        return int(self.window(token, 1)[1][0])

    def window(self, start: int, length: int) -> tuple[np.ndarray, np.ndarray]:
        """A run of tokens, across documents and shards.

        Returns:
            tokens, int64 `(length,)`, and which document of the split each belongs to, int64 `(length,)`.

        Raises:
            IndexError: the window goes beyond the ends.
        """
        tokens = np.empty(length, dtype=np.int64)
        documents = np.empty(length, dtype=np.int64)
        self.window_into(start, tokens, documents)
        return tokens, documents

    def window_into(self, start: int, tokens: np.ndarray, documents: np.ndarray) -> None:
        """`window` into existing arrays `(length,)` of any integer dtype."""
        length = len(tokens)
        if start < 0 or start + length > len(self):
            raise IndexError(f"tokens {start} to {start + length} of {len(self)}")
        done = 0
        while done < length:
            shard = bisect_right(self._token_base, start + done) - 1
            here = start + done - self._token_base[shard]
            size = min(length - done, len(self._shards[shard]) - here)
            tokens[done : done + size] = self._shards[shard][here : here + size]
            starts = self._starts[shard]
            first, last = starts.searchsorted((here, here + size - 1), side="right") - 1
            documents[done : done + size] = self._document_base[shard] + first
            if last > first:
                begins = np.zeros(size, dtype=np.int64)
                begins[starts[first + 1 : last + 1] - here] = 1
                documents[done : done + size] += begins.cumsum()
            done += size


class ShardWriter:
    """Writes the documents of one split into as many shards as they need.

    Args:
        shard_tokens: a shard is closed after the document that reaches so many tokens.
    """

    def __init__(self, folder: Path, split: str, dtype: np.dtype, shard_tokens: int) -> None:
        self._folder, self._split, self._dtype, self._shard_tokens = folder, split, dtype, shard_tokens
        self._records: list[dict[str, Any]] = []
        self._open = ExitStack()
        self._file: Any = None

    def add(self, ids: np.ndarray, size: int) -> None:
        """Appends one document: its ids `(n,)`, and the UTF-8 bytes of its text."""
        if self._file is None:
            self._begin()
        data = ids.astype(self._dtype, copy=False).tobytes()
        self._file.write(data)
        self._sha256.update(data)
        self._starts.append(self._record["tokens"])
        self._record["tokens"] += len(ids)
        self._record["documents"] += 1
        self._record["bytes"] += size
        if self._record["tokens"] >= self._shard_tokens:
            self._end()

    def close(self) -> dict[str, Any]:
        """Ends the last shard.

        Returns:
            the split's record for the manifest: tokens, documents and bytes, of the split and of each shard.
        """
        if self._file is not None:
            self._end()
        counts = ("tokens", "documents", "bytes")
        sums = {key: sum(record[key] for record in self._records) for key in counts}
        return sums | {"shards": self._records}

    def _begin(self) -> None:
        name = f"{self._split}-{len(self._records):05}.bin"
        self._record: dict[str, Any] = {"file": name, "tokens": 0, "documents": 0, "bytes": 0}
        self._starts: list[int] = []
        self._sha256 = hashlib.sha256()
        path, self._index_path = _shard_paths(self._folder, name)
        self._file = self._open.enter_context(synced(path))

    def _end(self) -> None:
        self._open.close()
        self._file = None
        index = np.array(self._starts, dtype=_INDEX).tobytes()
        write_atomically(self._index_path, index)
        self._record["sha256"] = self._sha256.hexdigest()
        self._record["index_sha256"] = hashlib.sha256(index).hexdigest()
        self._records.append(self._record)


def _shard_paths(folder: Path, file: str) -> tuple[Path, Path]:
    path = folder / file
    return path, path.with_suffix(".idx")


def _map(path: Path, dtype: np.dtype) -> np.ndarray:
    if not path.stat().st_size:
        return np.empty(0, dtype=dtype)  # an empty file cannot be mapped
    return np.asarray(np.memmap(path, dtype=dtype, mode="r"))


def _read_json(path: Path) -> object:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _read_manifest(folder: Path) -> dict:
    path = folder / MANIFEST
    if not path.is_file():
        raise UserError(
            f"{folder} is not a prepared corpus, it has no {MANIFEST}: make one with `lm prepare`"
        )
    manifest = _read_json(path)
    version = manifest.get("format") if isinstance(manifest, dict) else None
    if isinstance(version, int) and version > FORMAT:
        raise UserError(f"{folder} was written by a newer lm (format {version}): update lm to use it")
    fields = {"vocab_size", "dtype", "tokenizer_sha256", "splits"}
    if not isinstance(version, int) or not fields <= manifest.keys():
        raise UserError(f"{path} is broken: delete the folder {folder} and prepare the corpus again")
    return manifest
