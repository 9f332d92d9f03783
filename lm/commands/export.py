"""`lm export`: a checkpoint as a folder that other programs read."""

import argparse

from lm.commands.shared import MODEL
from lm.errors import spelling
from lm.options import OptionParser

DTYPES = ("float32", "float16", "bfloat16")


def main(argv: list[str]) -> None:
    """The command `lm export`."""
    parser = OptionParser("export", "Write a checkpoint as a folder that Hugging Face's transformers reads.")
    parser.add_argument("model", help=MODEL.format("gpt-nano"))
    parser.add_argument("folder", metavar="DIR", help="the folder to write; it appears when it is whole")
    parser.add_argument("--to", choices=("hf",), default="hf", help="hf: a Hugging Face folder (default)")
    parser.add_argument(
        "--dtype", choices=DTYPES, default="float32", help="of the weights (default: float32)"
    )
    parser.add_argument("--merge", action="store_true", help=argparse.SUPPRESS)  # an adapter always is
    parser.add_argument(
        "--base", metavar="MODEL", help="the adapter's base, where it is no longer where it was"
    )
    parser.add_argument("--force", action="store_true", help="replace the model that is in DIR")
    args = parser.parse(argv)

    import torch

    from lm.convert import export_folder, open_model

    with spelling(lambda: vars(args)):
        model = open_model(args.model, base=args.base)
        exported = export_folder(model, args.folder, getattr(torch, args.dtype), args.force)
    print(
        f"{args.folder}: {exported.architecture}, {exported.parameters:,} parameters, {args.dtype}, "
        f"{exported.nbytes / 1e6:.1f} MB"
    )
    for note in exported.notes:
        print(f"note: {note}")
    print("README.md there is its model card: name the licence before you publish it")
