"""`lm export`: a checkpoint as a folder or file that other programs read."""

import argparse
from pathlib import Path

from lm.commands.shared import MODEL
from lm.errors import UserError, spelling
from lm.options import OptionParser

DTYPES = ("float32", "float16", "bfloat16")
ROUNDED = ("q8_0", "q4_0")
ENDINGS = {".onnx": "onnx", ".gguf": "gguf"}


def main(argv: list[str]) -> None:
    """The command `lm export`."""
    parser = OptionParser(
        "export",
        "Write a checkpoint as a folder that Hugging Face's transformers reads; or a classifier or a BERT as "
        "an ONNX file, which onnxruntime runs, and lm; or a SwiGLU model that writes as a GGUF file, which "
        "llama.cpp runs.",
    )
    add = parser.add_argument
    add("model", help=MODEL.format("gpt-nano"))
    add("out", metavar="DIR|FILE", help="what to write, FILE.onnx or FILE.gguf; it appears when it is whole")
    add(
        "--to",
        choices=("hf", *ENDINGS.values()),
        help="a Hugging Face folder, or a file (default: by its name)",
    )
    add(
        "--dtype",
        choices=(*DTYPES, *ROUNDED),
        help="of a folder's weights (default: float32), or of a GGUF file's matrices (default: float16), the "
        "last two there alone: integers of 8 and 4 bits",
    )
    add("--bits", type=int, choices=(32, 8), help="of an ONNX file's weights (default: 32)")
    add("--merge", action="store_true", help=argparse.SUPPRESS)  # an adapter always is
    add("--base", metavar="MODEL", help="the adapter's base, where it is no longer where it was")
    add("--force", action="store_true", help="replace the model that is in DIR, or FILE")
    args = parser.parse(argv)
    args.to = args.to or ENDINGS.get(Path(args.out).suffix, "hf")
    if args.to != "onnx" and args.bits:
        raise UserError("--bits is for --to onnx: a folder and a GGUF file have --dtype", status=2)
    if args.to == "onnx" and args.dtype:
        raise UserError("--dtype is for --to hf and gguf: an ONNX file has --bits", status=2)
    if args.to == "hf" and args.dtype in ROUNDED:
        raise UserError(f"--dtype {args.dtype} is for --to gguf: a folder has floats", status=2)
    write = {"hf": _folder, "onnx": _onnx, "gguf": _gguf}[args.to]
    with spelling(lambda: vars(args)):
        write(args)


def _folder(args: argparse.Namespace) -> None:
    import torch

    from lm.convert import export_folder, open_model

    dtype = args.dtype or DTYPES[0]
    model = open_model(args.model, base=args.base)
    exported = export_folder(model, args.out, getattr(torch, dtype), args.force)
    print(
        f"{args.out}: {exported.architecture}, {exported.parameters:,} parameters, {dtype}, "
        f"{exported.nbytes / 1e6:.1f} MB"
    )
    for note in exported.notes:
        print(f"note: {note}")
    print("README.md there is its model card: name the licence before you publish it")


def _gguf(args: argparse.Namespace) -> None:
    from lm.convert import export_gguf, open_model

    dtype = args.dtype or "float16"
    exported = export_gguf(open_model(args.model, base=args.base), args.out, dtype, args.force)
    print(
        f"{args.out}: {exported.architecture}, {exported.parameters:,} parameters, {dtype}, "
        f"{Path(args.out).stat().st_size / 1e6:.1f} MB"
    )
    for note in exported.notes:
        print(f"note: {note}")


def _onnx(args: argparse.Namespace) -> None:
    from lm.convert import export_onnx, open_model

    model = open_model(args.model, base=args.base)
    made = export_onnx(model, args.out, args.bits or 32, args.force)
    print(
        f"{args.out}: {', '.join(made['inputs'])} → {made['output']}, {made['parameters']:,} parameters, "
        f"{made['bits']} bits, {Path(args.out).stat().st_size / 1e6:.1f} MB"
    )
    for note in model.notes:
        print(f"note: {note}")
