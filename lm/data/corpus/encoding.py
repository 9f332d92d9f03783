"""Documents to token ids, in several processes where there is enough text for that to pay."""

import hashlib
import multiprocessing
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from typing import NamedTuple

import numpy as np

from lm.data.corpus.shards import token_dtype
from lm.processes import cores, end_with_parent
from lm.tokenizer import Tokenizer, tokenizer_from_bytes

PARALLEL_BYTES = 20_000_000  # below this, starting processes takes longer than they save
_MOST_PROCESSES = 8
_BATCH = 1_000_000  # characters that a process gets at once


class Part(NamedTuple):
    """A document, or what of it belongs to a split."""

    split: str
    text: str
    origin: dict[str, str] = {}  # that is kept of the document


class Encoded(NamedTuple):
    """A part as it is stored: ids `(n,)`, uint16 or uint32, and the UTF-8 bytes of the text."""

    split: str
    ids: np.ndarray
    size: int
    origin: dict[str, str]


def encoded(
    parts: Iterable[Part], tokenizer: Tokenizer, total_bytes: int, processes: int | None = None
) -> Iterator[Encoded]:
    """Encodes each part as `[bos] tokens [eos]`; the same ids in the same order, however many processes do
    it.

    Args:
        parts: read as they are needed.
        tokenizer: one without bos or eos leaves them out.
        total_bytes: of all texts, to decide whether processes are worth it.
        processes: None for as many as there are cores, at most 8, or 1 below 20 MB.
    """
    if processes is None:
        processes = min(cores(), _MOST_PROCESSES) if total_bytes >= PARALLEL_BYTES else 1
    if processes == 1:
        for part in parts:
            yield _encode(tokenizer, part)
        return
    # Spawned, because a fork of a process that runs torch's threads can hang.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, _start_worker, (tokenizer.to_bytes(),)) as pool:
        # Only a few batches are in flight: an executor's own map would read the whole corpus first.
        batches = _batches(parts)
        pending = deque(pool.submit(_encode_batch, batch) for batch in islice(batches, 2 * processes))
        try:
            while pending:
                done = pending.popleft().result()
                pending.extend(pool.submit(_encode_batch, batch) for batch in islice(batches, 1))
                yield from done
        finally:
            pool.shutdown(cancel_futures=True)


def _batches(parts: Iterable[Part]) -> Iterator[list[Part]]:
    batch, size = [], 0
    for part in parts:
        batch.append(part)
        size += len(part.text)
        if size >= _BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _encode(tokenizer: Tokenizer, part: Part) -> Encoded:
    ids = [tokenizer.bos_id, *tokenizer.encode(part.text), tokenizer.eos_id]
    if tokenizer.bos_id is None or tokenizer.eos_id is None:
        ids = [id for id in ids if id is not None]
    data = part.text.encode()
    origin = part.origin | {"sha256": hashlib.sha256(data).hexdigest()}
    return Encoded(part.split, np.array(ids, dtype=token_dtype(tokenizer.vocab_size)), len(data), origin)


_worker_tokenizer: Tokenizer


def _start_worker(model: bytes) -> None:
    global _worker_tokenizer  # noqa: PLW0603 - a worker process has one tokenizer for its life
    _worker_tokenizer = tokenizer_from_bytes(model)
    end_with_parent()


def _encode_batch(batch: list[Part]) -> list[Encoded]:
    return [_encode(_worker_tokenizer, part) for part in batch]
