"""A recipe: what a corpus is made of and how, as a YAML file says it."""

import difflib
import json
import math
import re
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from lm.data.corpus import readers, steps  # their classes go by their last names
from lm.data.corpus.documents import AnyStep, PassageReduction, Reduction, Source, Step
from lm.data.corpus.engine import Engine, Local
from lm.data.corpus.files import plain_name
from lm.data.tokenizers import open_tokenizer
from lm.errors import UserError

RECIPES = (".yaml", ".yml")


def is_recipe(corpus: Any) -> bool:
    """Whether a corpus is given by a recipe, be it a broken one; other YAML files are text, and have no
    `sources`."""
    path = Path(corpus) if isinstance(corpus, str) else None
    if path is None or path.suffix.lower() not in RECIPES or not path.is_file():
        return False
    looks_so = rb"^[\"']?sources[\"']?\s*:|^\s*-\s+[{]?class_path:"
    return re.search(looks_so, path.read_bytes(), re.MULTILINE) is not None


@dataclass
class Recipe:
    """From sources through steps to token shards.

    Args:
        name: of the corpus's folder.
        sources: where the documents come from, in the order of the corpus.
        steps: what each document goes through, in this order.
        vocab_size: tokens of the tokenizer that is trained on the result.
        tokenizer: a model to use instead.
        tokenizer_weights: how often the texts of a source count where the tokenizer is trained, by its name:
            2 as if they were there twice, 0.5 half of them; 1 for those that are not named.
        val_fraction: the share held out; by default 5% of the documents, or, of fewer than 20, the last 10%
            of the text.
        canaries: made-up secrets to plant into the training part, after all steps: so many for each of 0, 1,
            4, 16, 64 and 256 repetitions. A model trained on them is for auditing.
        shard_tokens: a shard is closed after the document that reaches so many tokens.
        task_bytes: of source files that a task reads, whole files as they are.
        strict: end at the first file that can't be read; by default it is passed over, counted and listed.
        engine: what the work is done by. The corpus does not depend on it.
    """

    name: str
    sources: list[Source]
    steps: list[AnyStep] = field(default_factory=list)
    vocab_size: int = 4096
    tokenizer: str | None = None
    tokenizer_weights: dict[str, float] = field(default_factory=dict)
    val_fraction: float | None = None
    canaries: int = 0
    shard_tokens: int = 100_000_000
    task_bytes: int = 8_000_000
    strict: bool = False
    engine: Engine = field(default_factory=Local)

    def __post_init__(self) -> None:
        if not self.sources:
            raise UserError("the recipe has no `sources`", status=2)
        if plain_name(Path(self.name)) != self.name:
            raise UserError(f"`name` {self.name!r} is to be a folder's: letters, digits, _ and -", status=2)
        names = [source.name for source in self.sources]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise UserError(f"two sources are called {twice!r}: give one of them another `name`", status=2)
        named = {name for step in self.steps for name in step.names()}
        if strange := named.difference(names):
            what = f"a step speaks of the source {min(strange)!r}, which is not there"
            raise UserError(f"{what}: only {', '.join(names)}", status=2)
        if strange := self.tokenizer_weights.keys() - set(names):
            what = f"`tokenizer_weights` names the source {min(strange)!r}, which is not there"
            raise UserError(f"{what}: only {', '.join(names)}", status=2)
        if wrong := [name for name, weight in self.tokenizer_weights.items() if not 0 <= weight < math.inf]:
            raise UserError(f"`tokenizer_weights` of {wrong[0]} is to be 0 or more", status=2)
        if self.tokenizer_weights and not any(self.tokenizer_weights.get(name, 1) for name in names):
            raise UserError("`tokenizer_weights` are all 0: there is nothing to learn from", status=2)

    def stages(self) -> list[tuple[list[Step], Reduction | PassageReduction | None]]:
        """The steps that go document by document, each time up to a reduction, which needs them all."""
        stages: list[tuple[list[Step], Reduction | PassageReduction | None]] = []
        own: list[Step] = []
        for step in self.steps:
            if isinstance(step, Reduction | PassageReduction):
                stages.append((own, step))
                own = []
            elif isinstance(step, Step):
                own.append(step)
            else:
                raise UserError(f"{step.title()} is neither a Step nor a reduction", status=2)
        return [*stages, (own, None)]


class RecipeFile:
    """A recipe as it was written: what a worker process builds its own steps from.

    Args:
        path: of the YAML file.
        options: more of it, as on a command line: `--vocab_size 8192`.

    Raises:
        UserError: there is no such class or option, or a value can't be.
    """

    def __init__(self, path: str | Path, options: list[str] | None = None) -> None:
        self.path = str(path)
        parser = _parser()
        try:
            config = parser.parse_args(["--config", self.path, *(options or [])])
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"{self.path}: {_in_a_line(error)}", status=2) from error
        self.content = parser.dump(config, format="json", skip_none=False)

    def build(self) -> Recipe:
        """The sources and steps themselves."""
        parser = _parser()
        made = parser.instantiate_classes(parser.parse_string(self.content))
        return Recipe(**{name: made[name] for name in Recipe.__dataclass_fields__})

    @property
    def vocab_size(self) -> int:
        """Of the corpus's tokenizer."""
        asked = json.loads(self.content)
        tokenizer = asked["tokenizer"]
        return open_tokenizer(tokenizer).vocab_size if tokenizer else asked["vocab_size"]

    @property
    def cleaning(self) -> dict[str, Any]:
        """What of it the cleaned documents depend on."""
        return {key: self.meaning[key] for key in ("sources", "steps", "task_bytes", "strict")}

    @property
    def meaning(self) -> dict[str, Any]:
        """All of it on which the corpus depends."""
        content = json.loads(self.content)
        beside = {"engine"} if content["canaries"] else {"engine", "canaries"}
        return {key: value for key, value in content.items() if key not in beside}


def _parser() -> Any:
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(prog="lm prepare RECIPE", exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_class_arguments(Recipe)
    return parser


def _in_a_line(error: Exception) -> str:
    """What jsonargparse and YAML say, without what is theirs alone, and with what was probably meant."""
    text = " ".join(str(error).split()).replace('in "<unicode string>", ', "")
    text = text.replace("Problems parsing config: ", "").replace("Parser key ", "")
    if found := re.search(r"import path string: (\w+)(?![\w.])", text):
        known = [*readers.__all__, *steps.__all__, "Local", "Ray", "Slurm"]
        near = difflib.get_close_matches(found[1], known, n=1)
        hint = f"did you mean {near[0]}?" if near else "a class of one's own goes by its path, mine.Step"
        return f"there is no class {found[1]}: {hint}"
    if found := re.search(r"Option '([\w.]+)' is not accepted|unrecognized arguments: --([\w.]+)", text):
        name = found[1] or found[2]
        near = difflib.get_close_matches(name, [each.name for each in fields(Recipe)], n=1)
        return f"there is no option {name!r}" + (
            f": did you mean {near[0]!r}?" if near else f": {text}"[:300]
        )
    return text[:400]
