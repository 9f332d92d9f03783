"""Token shards onto the disk: what `shards` reads."""

import hashlib
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from lm.data.corpus.shards import INDEX_DTYPE, shard_paths
from lm.files import synced, write_atomically


class ShardWriter:
    """Writes the documents of one split into as many shards as they need.

    Args:
        folder: an existing folder.
        split: "train" or "val", the beginning of the files' names.
        dtype: of a token id on disk.
        shard_tokens: a shard is closed after the document that reaches so many tokens.
    """

    def __init__(self, folder: Path, split: str, dtype: np.dtype, shard_tokens: int) -> None:
        self._folder = folder
        self._split = split
        self._dtype = dtype
        self._shard_tokens = shard_tokens
        self._records: list[dict[str, Any]] = []
        self._open = ExitStack()
        self._file: Any = None

    def add(self, ids: np.ndarray, size: int) -> None:
        """Appends one document.

        Args:
            ids: `(n,)`, of the writer's dtype.
            size: UTF-8 bytes of its text.
        """
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
        return {key: sum(record[key] for record in self._records) for key in counts} | {
            "shards": self._records
        }

    def _begin(self) -> None:
        name = f"{self._split}-{len(self._records):05}.bin"
        self._record: dict[str, Any] = {"file": name, "tokens": 0, "documents": 0, "bytes": 0}
        self._starts: list[int] = []
        self._sha256 = hashlib.sha256()
        bin_path, self._idx_path = shard_paths(self._folder, name)
        self._file = self._open.enter_context(synced(bin_path))

    def _end(self) -> None:
        self._open.close()
        self._file = None
        index = np.array(self._starts, dtype=INDEX_DTYPE).tobytes()
        write_atomically(self._idx_path, index)
        self._record["sha256"] = self._sha256.hexdigest()
        self._record["index_sha256"] = hashlib.sha256(index).hexdigest()
        self._records.append(self._record)
