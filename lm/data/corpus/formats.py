"""JSON Lines and Parquet, row by row, whoever reads them."""

import io
import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import PurePosixPath
from typing import Any, BinaryIO

from lm.errors import UserError, not_installed

JSON_LINES = {".jsonl", ".ndjson"}
PARQUET = {".parquet"}
_SURROGATE = re.compile("[\ud800-\udfff]")


def json_lines(
    lines: Iterable[str | bytes], where: str, warn: Callable[[str], object] | None = None
) -> Iterator[tuple[str, Any]]:
    """The value of each line, and where it stands: `F:12`; empty lines are left out.

    Args:
        lines: as they stand in the file, with their ends; bytes are UTF-8.
        warn: is told of a line that is broken, which is passed over then.

    Raises:
        UserError: a line is not JSON, or not UTF-8; names file and line.
    """
    for number, line in enumerate(lines, start=1):
        place = f"{where}:{number}"
        text, problem = "", ""
        try:
            text = line if isinstance(line, str) else line.decode("utf-8-sig" if number == 1 else "utf-8")
            if text and not text.isspace():
                yield place, json.loads(text)
        except UnicodeDecodeError:
            problem = "the line is not UTF-8"
        except (ValueError, RecursionError) as error:
            whole = text.endswith("\n")  # only the last line has no end, and not always that
            cut = "the last line is not whole: was the file cut short?"
            problem = f"the line is not JSON: {getattr(error, 'msg', error)}" if whole else cut
        if problem and warn is None:
            raise UserError(f"{place}: {problem}")
        if problem and warn is not None:
            warn(f"{place}: {problem}")


def parquet_rows(
    file: BinaryIO, where: str, column: str | None = None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of a Parquet file, and where each stands; a row group's batch at a time in memory.

    Args:
        where: the file, for messages; with another ending than .parquet it is compressed.
        column: only this one is read, if there is one of the name.

    Raises:
        UserError: it is no Parquet file, it is damaged, or `pyarrow` is missing.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise not_installed(f"reading {where}", "pyarrow", "parquet") from error
    # Parquet is read from its end: where the whole file is compressed, it has to be in memory.
    plain = PurePosixPath(where).suffix.lower() in PARQUET
    try:
        table = pyarrow.parquet.ParquetFile(file if plain else io.BytesIO(file.read()))
        columns = [column] if column in table.schema_arrow.names else None
        batches = table.iter_batches(batch_size=1024, columns=columns)
        rows = (row for batch in batches for row in batch.to_pylist())
        for number, row in enumerate(rows, start=1):
            yield f"{where}, row {number}", row
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{where} is not a Parquet file, or it is damaged: {error}") from error


def mended(value: Any) -> Any:
    """The same with halves of surrogate pairs, which JSON can spell and no UTF-8 can hold, replaced by
    U+FFFD; looks into lists and objects."""
    if isinstance(value, str):
        if value.isascii() or not _SURROGATE.search(value):
            return value
        return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    if isinstance(value, list):
        return [mended(item) for item in value]
    if isinstance(value, dict):
        return {mended(key): mended(item) for key, item in value.items()}
    return value
