"""`lm info PATH`: what a checkpoint, a run or a corpus is."""

import argparse
import json
from pathlib import Path
from typing import Any

from lm.errors import UserError


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"


def corpus_facts(folder: Path) -> dict[str, Any]:
    """What a corpus's manifest says, after a look at whether its files are whole."""
    from lm.data.corpus.shards import Corpus

    corpus = Corpus.open(folder)
    manifest = corpus.manifest
    facts: dict[str, Any] = {"kind": "corpus", "folder": str(folder)}
    for split, part in manifest["splits"].items():
        facts[split] = (
            f"{part['documents']:,} documents, {part['tokens']:,} tokens, {_size(part['bytes'])} of text, "
            f"{part['bytes'] / max(1, part['tokens']):.2f} bytes a token, {len(part['shards'])} shard(s)"
        )
    facts["tokenizer"] = f"{corpus.vocab_size:,} pieces, {corpus.tokenizer.fingerprint[:12]}"
    facts["checksums"] = "as they should be"
    facts["sources"] = [
        f"{s['name']} ({s['files']:,} files, {_size(s['bytes_on_disk'])}, {s['documents']:,} documents)"
        for s in manifest["sources"][:10]
    ]
    if len(manifest["sources"]) > 10:
        facts["sources"].append(f"and {len(manifest['sources']) - 10} more")
    facts["settings"] = manifest["settings"]
    return facts


def checkpoint_facts(path: Path) -> dict[str, Any]:
    """What a checkpoint says of itself."""
    import torch

    from lm import checkpoint as checkpoints
    from lm.backbone import LanguageModel

    content = checkpoints.read(path)
    record = checkpoints.read_record(content, path)
    tokenizer = checkpoints.load_tokenizer(record)
    with torch.device("meta"):
        model = LanguageModel(checkpoints.config_of(record))
    return {
        "kind": "checkpoint",
        "file": f"{path} ({_size(path.stat().st_size)})",
        "task": record["task"],
        "parameters": f"{model.num_parameters():,}",
        "steps": content.get("global_step", 0),
        "can be": "trained on" if "optimizer_states" in content else "used; to train on take last.ckpt",
        "figures": {k: round(v, 4) for k, v in record["figures"].items()},
        "tokenizer": f"{tokenizer.vocab_size:,} pieces, {tokenizer.fingerprint[:12]}",
        "backbone": {k: v for k, v in record["backbone"].items() if v is not None},
        "written by": f"lm {record['version']}",
    }


def run_facts(folder: Path) -> dict[str, Any]:
    """What lies in a run's folder."""
    facts: dict[str, Any] = {"kind": "run", "folder": str(folder)}
    summary = folder / "summary.json"
    if summary.exists():
        facts["state"] = "finished"
        try:
            facts["figures"] = json.loads(summary.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"{summary} is damaged: {error}") from error
    else:
        facts["state"] = "not finished: the command that began it goes on from last.ckpt"
    for name in ("best.ckpt", "last.ckpt"):
        if (folder / name).exists():
            facts[name] = checkpoint_facts(folder / name)
    return facts


def facts_of(path: Path) -> dict[str, Any]:
    """What a path is, as a tree of plain values.

    Raises:
        UserError: there is nothing, or it is none of the three, or it is damaged.
    """
    if not path.exists():
        raise UserError(f"no such file or folder: {path}")
    if path.is_file():
        return corpus_facts(path.parent) if path.name == "manifest.json" else checkpoint_facts(path)
    if (path / "manifest.json").exists():
        return corpus_facts(path)
    if (path / "last.ckpt").exists() or (path / "best.ckpt").exists() or (path / "summary.json").exists():
        return run_facts(path)
    raise UserError(f"{path} is neither a run (no last.ckpt) nor a corpus (no manifest.json)")


def show(tree: Any, indent: int = 0) -> str:
    """A tree of values as indented lines."""
    space = "  " * indent
    if isinstance(tree, dict):
        width = max((len(str(k)) for k in tree), default=0)
        lines = []
        for key, value in tree.items():
            nested = isinstance(value, dict | list) and value
            lines.append(
                f"{space}{key}\n{show(value, indent + 1)}" if nested else f"{space}{key!s:{width}}  {value}"
            )
        return "\n".join(lines)
    return "\n".join(f"{space}{item}" for item in tree)


def main(argv: list[str]) -> None:
    """The command `lm info`."""
    parser = argparse.ArgumentParser(
        prog="lm info", description="Say what a checkpoint, a run or a corpus is."
    )
    parser.add_argument("path", type=Path, help="such as checkpoints/gpt-nano, its best.ckpt, or data/CORPUS")
    parser.add_argument("--json", action="store_true", help="as JSON, for scripts")
    args = parser.parse_args(argv)
    facts = facts_of(args.path)
    print(json.dumps(facts, indent=2, ensure_ascii=False) if args.json else show(facts))
