"""`lm info PATH`: what a checkpoint, a run, a corpus, a Hugging Face folder or an ONNX file is."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lm.errors import UserError, some
from lm.options import OptionParser
from lm.tasks.table import entry_of


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"


def corpus_facts(folder: Path) -> dict[str, Any]:
    """What a corpus's manifest says, after a look at whether its files are whole."""
    from lm.data.corpus.canaries import told
    from lm.data.corpus.shards import Corpus

    corpus = Corpus.open(folder)
    manifest = corpus.manifest
    facts: dict[str, Any] = {"kind": "corpus", "folder": str(folder)}
    for split, part in manifest["splits"].items():
        facts[split] = (
            f"{part['documents']:,} documents, {part['tokens']:,} tokens, {_size(part['bytes'])} of text, "
            f"{part['bytes'] / max(1, part['tokens']):.2f} bytes a token, {len(part['shards'])} shard(s)"
        )
    facts["tokenizer"] = f"{corpus.vocab_size:,} tokens, {corpus.tokenizer.fingerprint[:12]}"
    facts["checksums"] = "as they should be"
    facts["sources"] = [
        f"{s['name']} ({s['files']:,} files, {_size(s['bytes_on_disk'])}, {s['documents']:,} documents)"
        for s in manifest["sources"][:10]
    ]
    if len(manifest["sources"]) > 10:
        facts["sources"].append(f"and {len(manifest['sources']) - 10} more")
    if planted := told(manifest):
        facts["canaries"] = planted
    facts["settings"] = manifest["settings"]
    return facts


def _head_fact(head: dict[str, Any]) -> str:
    """A fine-tuned model's head in a few words."""
    if head["kind"] == "language":
        return "of a language model"
    outputs = f"{head['outputs']:,} output" + "s" * (head["outputs"] != 1)
    if head["pooling"] is None:
        return f"{outputs} at each position"
    pooler = ", through BERT's pooler" if head.get("pooler") else ""
    over = {"mean": "the mean of all positions", "first": "the first position", "last": "the last position"}
    over["attention"] = "a learned mean of positions"
    beside = {None: "", "mean": " and the mean of what follows"}.get(head.get("also"), " and the second")
    return f"{outputs} on {over[head['pooling']]}{beside}{pooler}"


def finetuning_facts(path: Path, record: dict[str, Any]) -> dict[str, Any]:
    """What a fine-tuned checkpoint says beyond its shape; nothing of a pretrained one."""
    facts: dict[str, Any] = {}
    if "head" in record:
        facts["head"] = _head_fact(record["head"])
    if labels := record.get("labels"):
        facts["labels"] = f"{len(labels):,}: {some(labels, 12)}"
    if record.get("init_from"):
        facts["started from"] = record["init_from"]
    if adapter := record.get("adapter"):
        layers = ", ".join(adapter["layers"])
        facts["adapter"] = (
            f"{adapter['kind']}, rank {adapter['rank']}, alpha {adapter['alpha']:g}, on {layers}"
        )
    if base := record.get("base"):
        facts["base"] = f"{base['source']}, backbone {base['fingerprint'][:12]}: not in this file"
    entry = entry_of(record)
    if entry and not base:
        facts["what for"] = f"{entry.what}: lm {entry.command} {path}"
    return facts


def _processor_fact(record: dict[str, Any]) -> dict[str, str]:
    """What a checkpoint carries beside the weights."""
    from lm.checkpoint import processor_of
    from lm.tokenizer import Tokenizer

    if "processor" not in record:
        return {"tokenizer": "the base's"}
    kind, size = record["processor"]["kind"], len(record["processor"]["bytes"])
    if kind != Tokenizer.kind:  # its module may not be imported
        return {"processor": f"{kind}, {_size(size)}"}
    tokenizer: Any = processor_of(record)
    return {"tokenizer": f"{tokenizer.vocab_size:,} tokens, {tokenizer.fingerprint[:12]}"}


def checkpoint_facts(path: Path) -> dict[str, Any]:
    """What a checkpoint says of itself. Its task's class is not imported."""
    from lm import checkpoint as checkpoints
    from lm.backbone.lowrank import is_adapter
    from lm.backbone.quantised import dequantised

    content = checkpoints.read(path)
    record = checkpoints.read_record(content, path)
    alone = record.get("base") is not None
    weights = checkpoints.network_weights(content["state_dict"])
    if alone:
        here = sum(value.numel() for value in weights.values())
        network: Any = checkpoints.outline(checkpoints.config_of(record), record["head"])
        whole = network.num_parameters()
        parameters = f"{here:,} of the adapter and the head; {whole:,} with its base"
    else:  # a tied matrix, which lies there once, counts once
        weights = dequantised(weights, made["layers"] if (made := record.get("quantised")) else ())
        places = {value.data_ptr(): value.numel() for name, value in weights.items() if not is_adapter(name)}
        parameters = f"{sum(places.values()):,}"
    smaller = record.get("quantised") or record.get("pruned")
    start = "begun from, by model.init_from" if smaller else "to train on take last.ckpt"
    trainable = "trained on" if "optimizer_states" in content else f"used; {start}"
    return {
        "kind": "adapter" if alone else "checkpoint",
        "file": f"{path} ({_size(path.stat().st_size)})",
        "task": record["task"],
        **finetuning_facts(path, record),
        "parameters": parameters,
        **({"quantised": f"{record['quantised']['bits']} bits"} if record.get("quantised") else {}),
        **({"pruned": _pruned(record["pruned"])} if record.get("pruned") else {}),
        **({} if alone else {"steps": content.get("global_step", 0)}),
        "can be": f"merged: lm export {path} DIR" if alone else trainable,
        **({"figures": {k: round(v, 4) for k, v in record["figures"].items()}} if record["figures"] else {}),
        **_processor_fact(record),
        **({"input": record["input"]} if record.get("input") else {}),
        "backbone": {k: v for k, v in record["backbone"].items() if v is not None},
        "written by": f"lm {record['version']}",
    }


def _pruned(made: dict[str, Any]) -> str:
    """What `lm compress` left of a shape, and how many zeros it made."""
    words = [
        f"{name} {some(kept, 12) if name == 'layers' else kept} left"
        for name, kept in made.items()
        if name in ("layers", "heads", "mlp")
    ]
    if "method" in made:
        pattern = f", {made['pattern']}" if "pattern" in made else ""
        words.append(f"{made['sparsity']:.0%} zeros by {made['method']}{pattern}")
    return "; ".join(words)


def onnx_facts(path: Path) -> dict[str, Any]:
    """What an ONNX file of lm says of itself."""
    from lm.convert import open_model

    model = open_model(path, integers=True)
    record, made = model.record, model.record["onnx"]
    facts = finetuning_facts(path, record)
    if record["task"] == "lm.tasks.MaskedPretraining" and not model.has_head:
        facts["what for"] = "hidden states, for other programs"
    return {
        "kind": "ONNX file",
        "file": f"{path} ({_size(path.stat().st_size)})",
        "task": record["task"],
        **facts,
        "parameters": f"{made['parameters']:,}, {made['bits']} bits",
        "takes": f"{', '.join(made['inputs'])}; gives {made['output']}",
        "can be": "used",
        "figures": {k: round(v, 4) for k, v in record["figures"].items()},
        "tokenizer": f"{model.tokenizer.vocab_size:,} tokens, {model.tokenizer.fingerprint[:12]}",
        "backbone": {k: v for k, v in record["backbone"].items() if v is not None},
        "written by": f"lm {record['version']}",
    }


def folder_facts(folder: Path) -> dict[str, Any]:
    """What a Hugging Face folder holds, once it has been opened as any command opens it."""
    from lm.convert import open_model

    model = open_model(folder)
    language = {"head": {"kind": "language"}} if model.has_head else {}
    facts = finetuning_facts(folder, {**language, **model.record}) or {"head": "none"}
    if not model.record and model.has_head:
        facts["what for"] = f"lm {'generate' if model.config.causal else 'fill'} {folder}"
    return {
        "kind": "Hugging Face folder",
        "folder": str(folder),
        **facts,
        "parameters": f"{sum(value.numel() for value in model.weights.values()):,}",
        **_input_facts(model),
        "backbone": {k: v for k, v in vars(model.config).items() if v is not None},
        **({"notes": model.notes} if model.notes else {}),
    }


def _input_facts(model: Any) -> dict[str, Any]:
    """What a model takes: a tokenizer's texts, or what stands before its blocks and the processor for it."""
    made = model.processor
    if "input" not in model.record:
        return {"tokenizer": f"{made.vocab_size:,} tokens, {made.fingerprint[:12]}"}
    shape = {name: value for name, value in model.record["input"].items() if value not in (None, [], {})}
    return {"input": shape, "processor": {"kind": made.kind, **asdict(made)}}


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}") from error


def run_facts(folder: Path) -> dict[str, Any]:
    """What lies in a run's folder."""
    facts: dict[str, Any] = {"kind": "run", "folder": str(folder)}
    summary = folder / "summary.json"
    if summary.exists():
        facts["state"] = "finished"
        facts["figures"] = _read_json(summary)
    else:
        facts["state"] = "not finished: the command that began it goes on from last.ckpt"
    for name in ("best.ckpt", "last.ckpt"):
        if (folder / name).exists():
            facts[name] = checkpoint_facts(folder / name)
    return facts


def seeds_facts(folder: Path) -> dict[str, Any]:
    """What the runs of several seeds came to."""
    return {
        "kind": "runs of several seeds",
        "folder": str(folder),
        "runs": sorted(str(path.parent) for path in folder.glob("seed-*/summary.json")),
        "figures": _read_json(folder / "seeds.json"),
    }


# What tells of a folder, by a file that it has.
_FOLDERS = {
    "manifest.json": corpus_facts,
    **dict.fromkeys(("last.ckpt", "best.ckpt", "summary.json"), run_facts),
    "seeds.json": seeds_facts,
    "config.json": folder_facts,
}


def facts_of(path: Path) -> dict[str, Any]:
    """What a path is, as a tree of plain values.

    Raises:
        UserError: there is nothing, or it is none of them, or it is damaged.
    """
    if not path.exists():
        raise UserError(f"no such file or folder: {path}")
    if path.suffix == ".onnx":
        return onnx_facts(path)
    if path.is_file():
        return corpus_facts(path.parent) if path.name == "manifest.json" else checkpoint_facts(path)
    for name, facts in _FOLDERS.items():
        if (path / name).exists():
            return facts(path)
    raise UserError(
        f"{path} is neither a run (no last.ckpt), nor a corpus (no manifest.json), nor a Hugging Face folder "
        "(no config.json)"
    )


def _in_short(value: Any) -> Any:
    """A figure of several runs on one line; any other value as it is."""
    if not isinstance(value, dict) or "standard_error" not in value:
        return value
    spread = f"{value['mean']:.4f} ± {value['standard_error']:.4f}"
    return f"{spread} (mean ± standard error of {len(value['values'])} runs)"


def show(tree: Any, indent: int = 0) -> str:
    """A tree of values as indented lines."""
    space = "  " * indent
    if not isinstance(tree, dict):
        return "\n".join(f"{space}{item}" for item in tree)
    width, lines = max(map(len, tree), default=0), []
    for key, whole in tree.items():
        value = _in_short(whole)
        if isinstance(value, dict | list) and value:
            lines += [f"{space}{key}", show(value, indent + 1)]
        else:
            lines.append(f"{space}{key:{width}}  {value}")
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    """The command `lm info`."""
    parser = OptionParser(
        "info", "Say what a checkpoint, a run, a corpus, a Hugging Face folder or an ONNX file is."
    )
    parser.add_argument("path", type=Path, help="such as checkpoints/gpt-nano, its best.ckpt, or data/CORPUS")
    parser.add_argument("--json", action="store_true", help="as JSON, for scripts")
    args = parser.parse(argv)
    facts = facts_of(args.path)
    print(json.dumps(facts, indent=2, ensure_ascii=False) if args.json else show(facts))
