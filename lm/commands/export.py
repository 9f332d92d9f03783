"""`lm export`: a checkpoint as a folder that other programs read."""

import argparse

from lm.errors import UserError, spelling

DTYPES = ("float32", "float16", "bfloat16")


def main(argv: list[str]) -> None:
    """The command `lm export`."""
    parser = argparse.ArgumentParser(
        prog="lm export", description="Write a checkpoint as a folder that Hugging Face's transformers reads."
    )
    parser.add_argument("checkpoint", help="such as checkpoints/gpt-nano/best.ckpt; nothing else is needed")
    parser.add_argument("folder", metavar="DIR", help="the folder to write; it appears when it is whole")
    parser.add_argument("--to", choices=("hf",), default="hf", help="hf: a Hugging Face folder (default)")
    parser.add_argument(
        "--dtype", choices=DTYPES, default="float32", help="of the weights (default: float32)"
    )
    parser.add_argument(
        "--merge",
        action="store_true",
        help="put an adapter.ckpt into the weights of its base (that of a best.ckpt always is)",
    )
    parser.add_argument(
        "--base", metavar="MODEL", help="the adapter's base, where it is no longer where it was"
    )
    parser.add_argument("--force", action="store_true", help="replace the model that is in DIR")
    args = parser.parse_intermixed_args(argv)
    if args.base is not None and not args.merge:
        raise UserError("--base is for an adapter that is put into it: give --merge too", status=2)

    import torch

    from lm.checkpoint import open_checkpoint
    from lm.convert import export_folder, open_adapter

    with spelling(lambda: vars(args)):
        model = open_adapter(args.checkpoint, args.base) if args.merge else open_checkpoint(args.checkpoint)
        exported = export_folder(model, args.folder, getattr(torch, args.dtype), args.force)
    print(
        f"{args.folder}: {exported.architecture}, {exported.parameters:,} parameters, {args.dtype}, "
        f"{exported.nbytes / 1e6:.1f} MB"
    )
    for note in exported.notes:
        print(f"note: {note}")
    print("README.md there is its model card: name the licence before you publish it")
