"""Whether cleaning matters: the same small GPT on the same sources, as they were found and by a recipe.

    python tests/benchmarks/cleaning.py FOLDER --seeds 0 1

Sources: a Wikipedia dump, Wikipedia articles, C4, Gutenberg's books, two Chinese novels and Tang poems,
without IMDB, of which there would be more than of all others. Two books, 8 articles and 80 documents of C4
are held out of both, and normalised: on these both are measured, in bits per byte, since their tokenizers
differ. "Raw" reads the files as text: the dump with its XML, books with their licences, poems as JSON.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import yaml

from lm.data.corpus.documents import Document
from lm.data.corpus.readers import Gutenberg
from lm.data.corpus.steps import Normalise

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
HELD_OUT = ("persuasion", "thursday")
LM = [sys.executable, "-m", "lm.cli"]


def divide(folder: Path) -> None:
    """Write what is learned from into `src`, and what is measured on into `held.jsonl`."""
    books = folder / "src" / "books"
    books.mkdir(parents=True, exist_ok=True)
    held = []
    for path in sorted((DATA / "gutenberg").glob("*.txt")):
        if any(word in path.name for word in HELD_OUT):
            held += [text for text, _ in Gutenberg(str(path)).read(path, print)]
        else:
            (books / path.name).write_bytes(path.read_bytes())
    articles = [
        line for line in (DATA / "llamafactory-lm/wiki_demo.txt").read_text("utf-8").split("\n") if line
    ]
    (folder / "src" / "articles.txt").write_text("\n".join(articles[:-8]) + "\n", "utf-8")
    pages = (DATA / "llamafactory-lm/c4_demo.jsonl").read_text("utf-8").splitlines()
    (folder / "src" / "c4.jsonl").write_text("\n".join(pages[:-80]) + "\n", "utf-8")
    held += articles[-8:] + [json.loads(row)["text"] for row in pages[-80:]]
    normalise = Normalise()
    with (folder / "held.jsonl").open("w", encoding="utf-8") as file:
        for text in held:
            document = Document(text)
            normalise(document)
            file.write(json.dumps({"text": document.text}, ensure_ascii=False) + "\n")


def recipes(folder: Path) -> None:
    """Write `clean.yaml`, which is mixed.yaml without IMDB, and `raw.yaml`."""
    clean = yaml.safe_load(Path(__file__).with_name("mixed.yaml").read_text("utf-8"))
    kinds = {"MediaWiki": "*.bz2", "Gutenberg": "*.txt", "Json": "**/*.json"}
    ours = {"wikipedia": "src/articles.txt", "c4": "src/c4.jsonl", "gutenberg": "src/books"}
    sources = []
    for source in clean["sources"]:
        options = source["init_args"]
        shared = str(options["path"]).replace("../shared/data", str(DATA))
        options["path"] = ours.get(options["name"], shared)
        if source["class_path"] != "Imdb":
            sources.append(source)
    for step in clean["steps"]:
        if "against" in step.get("init_args", {}):
            step["init_args"]["against"] = step["init_args"]["against"].replace("../shared/data", str(DATA))
    raw = []
    for source in sources:
        options, kind = dict(source["init_args"]), source["class_path"]
        if kind in kinds:
            options, kind = {"path": f"{options['path']}/{kinds[kind]}", "name": options["name"]}, "Texts"
        raw.append({"class_path": kind, "init_args": options})
    rest = {"vocab_size": 8192}
    for name, content in (
        ("clean", {"sources": sources, "steps": clean["steps"]}),
        ("raw", {"sources": raw}),
    ):
        text = yaml.safe_dump({"name": name, **content, **rest}, allow_unicode=True)
        (folder / f"{name}.yaml").write_text(text, "utf-8")


def main() -> None:
    """Prepare, train and measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, default=800)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    os.chdir(args.folder)
    divide(Path())
    recipes(Path())
    for name in ("raw", "clean"):
        made = subprocess.run([*LM, "prepare", f"{name}.yaml"], check=True, stdout=subprocess.PIPE, text=True)
        tokenizer = Path(made.stdout.strip()) / "tokenizer.model"
        for seed in args.seeds:
            run = f"{name}-{seed}"
            words = ["--data.corpus", f"{name}.yaml", "--name", run, "--seed_everything", str(seed)]
            words += ["--trainer.max_steps", str(args.steps), "--trainer.val_check_interval", str(args.steps)]
            subprocess.run([*LM, "fit", "gpt-nano", *words], check=True, capture_output=True)
            words = ["--data.corpus", "held.jsonl", "--data.val_fraction", "0.98"]
            words += ["--data.tokenizer", str(tokenizer)]
            told = subprocess.run(
                [*LM, "validate", f"checkpoints/{run}", *words], check=True, capture_output=True, text=True
            )
            print(told.stdout.strip(), flush=True)


if __name__ == "__main__":
    main()
