"""What files may do that are opened: which Python objects a pickle asks for, and which files are programs.
Nothing is opened by what it is made for: bytes are read."""

import json
import pickletools
import re
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

_PICKLES = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".dill", ".p", ".npy", ".npz"}
_CODE = {
    **dict.fromkeys((".py", ".pyc", ".pyd", ".ipynb"), "Python"),
    **dict.fromkeys((".so", ".dll", ".dylib", ".exe"), "a program"),
    **dict.fromkeys((".sh", ".bat", ".ps1", ".js"), "a script"),
    **dict.fromkeys((".h5", ".keras"), "Keras, whose layers may hold code"),
}
_REMOTE = ("auto_map", "custom_pipelines", "trust_remote_code")
_LARGEST = 200_000_000  # bytes of a pickle that are looked through: tensors lie beside it
_TENSORS = re.compile(
    r"[^/]+/(data/\d+|version|byteorder|\.format_version|\.storage_alignment|\.data/serialization_id)"
)


class Inside(NamedTuple):
    """What was found in a file.

    Args:
        kind: what it is, for people.
        globals: Python objects that its pickles ask for, beside those of tensors and plain values.
        code: whether it could run something, if another program opens it as it is meant.
    """

    kind: str
    globals: list[str]
    code: bool


def allowed() -> set[str]:
    """What a pickle may ask for and `torch.load(weights_only=True)` gives it: tensors and plain values."""
    from torch import _weights_only_unpickler as unpickler  # there is no public name; a test compares

    return set(unpickler._get_allowed_globals())


def asked_for(content: bytes) -> list[str]:
    """The globals that a pickle names, `module.name`, in order; of one that is cut short or is none, those
    before the place where that shows, and `(unreadable)`."""
    found: dict[str, None] = {}
    words: list[str] = []  # strings, as they come onto the stack
    memo: dict[int, str] = {}
    last: str | None = None
    try:
        for opcode, argument, _ in pickletools.genops(content):
            name = opcode.name
            if name in ("GLOBAL", "INST"):
                found[str(argument).replace(" ", ".", 1)] = None
            elif name == "STACK_GLOBAL":  # never allowed: which it is can be hidden, the name is a guess
                found[f"{'.'.join(words[-2:])} (from the stack)"] = None
            elif name in ("EXT1", "EXT2", "EXT4"):
                found[f"copyreg extension {argument}"] = None
            if isinstance(argument, str) and name not in ("GLOBAL", "INST"):
                words.append(last := argument)
            elif name == "MEMOIZE":
                memo[len(memo)] = last or ""
            elif "PUT" in name:
                memo[int(str(argument))] = last or ""
            elif "GET" in name:
                words.append(memo.get(int(str(argument)), "(hidden)"))
            else:
                last = None
    except Exception:  # of any kind: a pickle that means no good need not be whole
        found["(unreadable)"] = None
    return list(found)


def inside(path: Path) -> Inside:
    """What a file is by its content, whatever its name says.

    Raises:
        OSError: it can't be read.
    """
    with path.open("rb") as file:
        start = file.read(16)
    suffix = path.suffix.lower()
    if zipfile.is_zipfile(path) and start[:2] == b"PK":
        return _archive(path)
    if start[:2] in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
        return _pickle(path)
    if start[:6] == b"\x93NUMPY":
        with path.open("rb") as file:
            objects = b"'|O'" in file.read(512)
        return Inside("NumPy" + (", pickled objects" if objects else ""), [], objects)
    if suffix in _CODE:
        return Inside(_CODE[suffix], [], True)
    if start[:4] == b"\x7fELF" or start[:2] in (b"MZ", b"#!"):
        return Inside("a program", [], True)
    if suffix == ".json" and (asks := _asks_for_code(path)):
        return Inside(f"json, asks for code of its own: {asks}", [], True)
    if suffix in _PICKLES and not _is_text(path):
        return _pickle(path)
    return Inside(suffix.lstrip(".") or "file", [], False)


def _asks_for_code(path: Path) -> str:
    """What a JSON file of Hugging Face's says of code that is to be run; empty of others."""
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return ""
    return ", ".join(name for name in _REMOTE if isinstance(content, dict) and content.get(name))


def _is_text(path: Path) -> bool:
    """Whether a file begins with text; pickles of protocol 0 are, too, and begin with an opcode."""
    with path.open("rb") as file:
        start = file.read(4096)
    try:
        start.decode()
    except UnicodeDecodeError as error:
        return error.start > len(start) - 4
    return re.match(rb"[c(lpdIFSVL]", start) is None


def _pickle(path: Path) -> Inside:
    with path.open("rb") as file:
        named = asked_for(file.read(_LARGEST))
    return Inside("a bare pickle", [name for name in named if name not in allowed()], True)


def _archive(path: Path) -> Inside:
    """A zip archive: torch's has a pickle of plain values and its tensors."""
    named: list[str] = []
    others: list[str] = []
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if not any(member.filename.endswith(".pkl") for member in members):
            compiled = any(member.filename.endswith((".pyc", ".py")) for member in members)
            return Inside("zip", [], compiled)
        for member in members:
            if member.filename.endswith(".pkl"):
                with archive.open(member) as file:
                    named += asked_for(file.read(_LARGEST))
            elif not _TENSORS.fullmatch(member.filename):
                others.append(member.filename)
    foreign = [name for name in dict.fromkeys(named) if name not in allowed()]
    scripted = any("/code/" in name or name.endswith(".py") for name in others)
    kind = "TorchScript, a program" if scripted else "torch's archive"
    if others and not scripted:
        kind += f", with {len(others)} members that torch does not write"
    return Inside(kind, foreign, bool(foreign) or bool(others))


def in_onnx(path: Path) -> tuple[list[str], list[str], Any]:
    """Of an ONNX file: the files outside of it that it reads, operators that are not the standard's or
    ONNX Runtime's own, and the model.

    Raises:
        ImportError: onnx is not installed.
    """
    import onnx

    model = onnx.load(path, load_external_data=False)
    known = {"", "ai.onnx", "ai.onnx.ml", "com.microsoft", *(each.domain for each in model.functions)}
    custom: dict[str, None] = {}
    outside: dict[str, None] = {}

    def look(graph: Any) -> None:
        for tensor in graph.initializer:
            for entry in tensor.external_data:
                if entry.key == "location":
                    outside[entry.value] = None
        for node in graph.node:
            if node.domain not in known:
                custom[f"{node.domain}.{node.op_type}"] = None
            for attribute in node.attribute:
                for inner in (attribute.g, *attribute.graphs):
                    look(inner)

    look(model.graph)
    for function in model.functions:
        for node in function.node:
            if node.domain not in known:
                custom[f"{node.domain}.{node.op_type}"] = None
    return list(outside), list(custom), model
