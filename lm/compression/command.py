"""`lm compress`: a model with smaller weights."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from lm.errors import UserError
from lm.files import read_text
from lm.options import OptionParser
from lm.processes import say


def main(argv: Sequence[str] | None = None) -> None:
    """The command `lm compress`."""
    parser = OptionParser(
        "compress",
        "Round the weights of a model's layers to 8 or 4 bits: a checkpoint comes out that every command "
        "takes. --report measures what that brings and costs, on this machine.",
    )
    add = parser.add_argument
    add("model", help="a checkpoint, a run's folder, an adapter.ckpt, or a Hugging Face folder")
    add("--bits", type=int, nargs="+", default=[8], metavar="N", help="8 or 4, or both (8)")
    add("--group", type=int, metavar="N", help="weights that share a scale, with 4 bits: 32 to 256 (32)")
    add("--out", metavar="FOLDER", help="for the checkpoints (default: the run's, or here)")
    add("--report", metavar="TEXT", help="measure size, speed and perplexity on this held-out file")
    add("--json", action="store_true", help="the report as JSON")
    add("--force", action="store_true", help="replace checkpoints that are there")
    args = parser.parse(argv)
    from lm.compression.report import measurable, report, table
    from lm.compression.rounding import quantise, quantised_bytes
    from lm.compression.saving import save
    from lm.convert import open_model
    from lm.predictor import Predictor

    text = read_text(args.report) if args.report else None
    model = open_model(args.model, integers=True)
    paths = {bits: _place(Path(model.source), args.out, bits) for bits in args.bits}
    for path in paths.values():
        if path.exists() and not args.force:
            raise UserError(f"{path} is there already: --force replaces it, --out FOLDER puts it elsewhere")
    models = {"as it is": Predictor(model)}
    if text is not None:
        measurable(models["as it is"], text)
    made = {bits: quantise(model, bits, args.group if bits == 4 else None) for bits in paths}
    for bits, path in paths.items():
        small, whole = quantised_bytes(made[bits].network)
        save(made[bits], path)
        what = f"{len(made[bits].record['quantised']['layers'])} layers from {whole / 1e6:,.1f}"
        what += f" to {small / 1e6:,.1f} MB (1/{whole / small:.2f})"
        say(f"{bits} bits: {what}; {path}: {path.stat().st_size / 1e6:,.1f} MB")
    if text is None:
        return
    found = report(models | {f"int{bits}": Predictor(each) for bits, each in made.items()}, text)
    if args.json:
        print(json.dumps([asdict(each) for each in found], ensure_ascii=False, indent=1))
        return
    import torch

    print(table(found))
    threads = torch.get_num_threads()
    say(f"in brackets: of the first; {threads} threads; perplexity on {args.report}, paired by windows")


def _place(source: Path, out: str | None, bits: int) -> Path:
    """Beside a run's checkpoint; elsewhere with the name of the run or folder."""
    if out is None and source.is_file():
        return source.parent / f"int{bits}.ckpt"
    name = (source.parent if source.is_file() else source.resolve()).name
    return Path(out or "") / f"{name}-int{bits}.ckpt"
