"""The tokenizer at a path: a file of its own, or what a checkpoint carries."""

from pathlib import Path

from lm.errors import UserError
from lm.tokenizer import Tokenizer, load_tokenizer


def open_tokenizer(path: str | Path) -> Tokenizer:
    """What `load_tokenizer` opens, and the tokenizer of a checkpoint or a run's folder.

    Raises:
        UserError: it is missing, damaged or none of these.
    """
    found = [place for name in ("best.ckpt", "last.ckpt") if (place := Path(path, name)).is_file()]
    place = found[0] if found else Path(path)
    if place.suffix == ".onnx":
        raise UserError(f"{path} is an ONNX file, for use alone: give the model that it was made of")
    if place.suffix != ".ckpt":
        return load_tokenizer(path)
    from lm import checkpoint as checkpoints  # torch, which preparing a corpus does without

    record = checkpoints.read_record(checkpoints.read(place, whole=False), place)
    if "processor" not in record and record.get("base"):
        return open_tokenizer(record["base"]["source"])  # an adapter's, which has none of its own
    processor = checkpoints.processor_of(record)
    if not isinstance(processor, Tokenizer):
        raise UserError(f"{path} reads no text, so it has no tokenizer")
    return processor
