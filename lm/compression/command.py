"""`lm compress`: a smaller model."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from lm.errors import UserError, spelling
from lm.files import read_text
from lm.options import OptionParser
from lm.processes import say

_LEFT = "what is left of them: a number, or below 1 a share"
_PRUNING = ("layers", "heads", "mlp", "sparsity", "pattern")
# Name, type, metavar, help.
_OPTIONS: tuple[tuple[str, type, str, str], ...] = (
    ("layers", float, "N", _LEFT),
    ("heads", float, "N", f"of attention, in each layer: {_LEFT}"),
    ("mlp", float, "N", f"inner features of each feed-forward network: {_LEFT}"),
    ("sparsity", float, "SHARE", "of the layers' weights that become zero"),
    ("pattern", str, "N:M", "instead: of each M weights in a row N are left, as 2:4"),
    ("texts", str, "FILE", "a text like those that the model reads: by it is found what it needs least"),
    ("group", int, "N", "weights that share a scale, with 4 bits: 32 to 256 (32)"),
    ("out", str, "FOLDER", "for the checkpoints (default: the run's, or here)"),
    ("report", str, "FILE", "measure size, speed and quality on a held-out text, or a test file"),
    ("picture", str, "FILE", "the report as a picture: PNG, SVG or PDF"),
)


def main(argv: Sequence[str] | None = None) -> None:
    """The command `lm compress`."""
    args = _parser().parse(argv)
    with spelling(lambda: vars(args)):
        _compress(args)


def _compress(args: argparse.Namespace) -> None:
    for name in ("beside", "picture", "json"):
        if getattr(args, name) and args.report is None:
            raise UserError(f"`{name}` is of a report: give `report` FILE", status=2)
    pruning = any(getattr(args, name) is not None for name in _PRUNING)
    args.bits = args.bits or ([] if pruning or args.beside else [8])
    from lm.compression.calibration import calibration
    from lm.compression.picture import drawable, picture
    from lm.compression.report import measurable, report, table
    from lm.compression.saving import save
    from lm.compression.variants import outcome, steps
    from lm.convert import open_model
    from lm.predictor import Predictor, load

    planned = steps(args)
    model = open_model(args.model, integers=True)
    if model.record.get("onnx"):
        raise UserError(f"{model.source} is an ONNX file, for use alone: give the model that it was made of")
    paths = {step.name: _place(Path(model.source), args.out, step.name) for step in planned}
    for path in paths.values():
        if path.exists() and not args.force:
            raise UserError(f"{path} is there already: --force replaces it, --out FOLDER puts it elsewhere")
    models = {"as it is": Predictor(model)}
    twice = len({Path(path).name for path in args.beside}) < len(args.beside)
    others = {path if twice else Path(path).name: load(path) for path in args.beside}
    if args.report:
        measurable([*models.values(), *others.values()], args.report)
    if args.picture:
        drawable(args.picture)
    tokens = None if args.texts is None else calibration(model, read_text(args.texts))
    made = {"": model}
    for name, of, make in planned:
        made[name] = make(made[of], tokens)
        save(made[name], paths[name])
        models[name] = Predictor(made[name])
        for note in made[name].notes:
            say(note)
        say(f"{outcome(made[name], made[of])}; {paths[name]}: {_bytes(paths[name]) / 1e6:,.1f} MB")
    if not args.report:
        return
    models |= others
    files = {name: Path(each.model.source) for name, each in models.items()} | paths
    # An adapter is not all of its model.
    disk = {name: _bytes(path) for name, path in files.items() if path.name != "adapter.ckpt"}
    found = report(models, args.report, disk=disk)
    rows = [asdict(each) for each in found]
    print(json.dumps(rows, ensure_ascii=False, indent=1) if args.json else table(found))
    if args.picture:
        picture(found, args.picture)


def _parser() -> OptionParser:
    parser = OptionParser(
        "compress",
        "Make a model smaller: fewer or narrower layers, zeros for weights, weights of 8 or 4 bits. What "
        "comes out are checkpoints for every command; --report says what that brings and costs, here.",
    )
    add = parser.add_argument
    add("model", help="a checkpoint, a run's folder, an adapter.ckpt, or a Hugging Face folder")
    for name, kind, metavar, words in _OPTIONS:
        add(f"--{name}", type=kind, metavar=metavar, help=words)
    known = ("wanda", "magnitude")
    words = (
        "the least weights by what they are multiplied with, too (default where there are --texts), or alone"
    )
    add("--method", nargs="+", choices=known, help=words)
    add("--bits", type=int, nargs="+", metavar="N", help="of weights: 8 or 4, or both (8 where nothing else)")
    add("--beside", nargs="+", default=[], metavar="MODEL", help="others in the report: students, ONNX files")
    add("--json", action="store_true", help="the report as JSON")
    add("--force", action="store_true", help="replace checkpoints that are there")
    return parser


def _bytes(path: Path) -> int:
    files = path.glob("*.safetensors") if path.is_dir() else [path]
    return sum(each.stat().st_size for each in files)


def _place(source: Path, out: str | None, name: str) -> Path:
    """Beside a run's checkpoint; elsewhere with the name of the run or folder."""
    if source.is_file() and source.stem not in ("best", "last", "adapter"):  # it has a name of its own
        return Path(source.parent if out is None else out) / f"{source.stem}-{name}.ckpt"
    if out is None and source.is_file():
        return source.parent / f"{name}.ckpt"
    of = (source.absolute().parent if source.is_file() else source.resolve()).name
    return Path(out or "") / f"{of}-{name}.ckpt"
