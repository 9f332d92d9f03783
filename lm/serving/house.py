"""The models that a server has: under which name, what each can be asked, who works for it."""

import asyncio
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from lm.errors import UserError
from lm.predictor import Predictor
from lm.serving.embeddings import body_of
from lm.serving.engine import Engine
from lm.serving.errors import APIError
from lm.serving.structure import Structure
from lm.tasks.table import entry_of, writes_text
from lm.tokenizer.template import chat_format_of

T = TypeVar("T")
_LOOKING = ("classify", "tag", "answer", "detect", "segment", "transcribe")
BUSY = "the model has as many requests as it can keep waiting: ask again in a moment"


class Served:
    """A model under its name. Its weights are held in memory: what becomes of the file is nothing to it.

    Args:
        slots, queue: texts that are written at once, and requests that wait.

    Attributes:
        engine: writes, where the model does that.
        structure: what answers may be held to, where it writes.
        chat: how it writes chats; None where it has not learned that.
        abilities: what stands behind /v1/ in the addresses that it answers.
        files: it works on pictures or sounds, not on texts.
    """

    def __init__(self, name: str, model: Predictor, slots: int = 16, queue: int = 64) -> None:
        self.name, self.model, self.queue = name, model, queue
        model.model.weights = {key: value.clone() for key, value in model.model.weights.items()}
        record, causal = model.model.record, model.config.causal
        entry = entry_of(record)
        self.what = entry.what if entry else "a model"
        self.engine: Engine | None = None
        self.chat: Any = None
        self.abilities: list[str] = []
        if writes_text(record) and causal:
            model.writer()  # its weights are looked at now, not at the first request
            self.engine = Engine(model, slots=slots, queue=queue)
            self.structure = Structure(model.tokenizer, self.engine.vocab_size)
            if model.model.chats:
                self.chat = chat_format_of(model.tokenizer, model.model.chat_template)
            self.abilities = ["chat/completions"] * (self.chat is not None) + ["completions"]
        elif writes_text(record):
            if model.model.has_head and model.tokenizer.mask_id is not None:
                model.writer("fill")
                self.abilities = ["fill"]
        elif entry and entry.command in _LOOKING:
            model.task(entry.command)
            self.abilities = [entry.command, *["audio/transcriptions"] * (entry.command == "transcribe")]
        self.files = record.get("input") is not None  # which requests bring along
        self.abilities += ["embeddings"] * (not record.get("onnx") and not self.files)
        self.created = int(time.time())
        self.context = self.engine.context if self.engine else model.config.max_seq_len
        self._waiting = 0
        self._worker = ThreadPoolExecutor(1, thread_name_prefix=f"lm-{name}")

    async def work(self, function: Callable[..., T], *given: Any) -> T:
        """What a function says in the thread that this model's tasks have, one after the other.

        Raises:
            APIError: too many wait already.
        """
        if self._waiting >= self.queue:
            raise APIError(429, BUSY, code="queue_full")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._worker, function, *given)
        finally:
            self._waiting -= 1

    @cached_property
    def body(self) -> Any:
        """What embeddings are made by."""
        return body_of(self.model.model)

    def start(self) -> None:
        if self.engine:
            self.engine.start()

    def stop(self, grace: float = 0) -> None:
        if self.engine:
            self.engine.stop(grace)
            self.structure.stop()
        self._worker.shutdown(wait=False, cancel_futures=True)

    @property
    def card(self) -> dict[str, Any]:
        """What `/v1/models` says of it."""
        found = {"id": self.name, "object": "model", "created": self.created, "owned_by": "lm"}
        sees = {"files": True} if self.files else {"context": self.context}
        return {**found, "what": self.what, **sees, "abilities": self.abilities}


class House:
    """All of a server's models, by name."""

    def __init__(self, models: list[Served]) -> None:
        self.models = {each.name: each for each in models}

    def start(self) -> None:
        for served in self.models.values():
            served.start()

    def stop(self) -> None:
        """What still runs is cut off, and told so."""
        for served in self.models.values():
            served.stop()

    def find(self, name: str, ability: str | None) -> Served:
        """The model that a request names, for what it asks of it.

        Raises:
            APIError: there is none of that name, or it can't do that.
        """
        if name not in self.models:
            names = ", ".join(self.models)
            words = f"there is no model {name[:100]!r} here, only {names}"
            raise APIError(404, words, "model", "model_not_found")
        found = self.models[name]
        if ability and ability not in found.abilities:
            can = " and ".join(f"/v1/{each}" for each in found.abilities)
            words = f"{name} is {found.what}: ask {can}"
            raise APIError(400, words, "model", "model_not_supported")
        return found


def named(words: list[str]) -> dict[str, str]:
    """Paths of models by the names that they are served under: NAME=PATH, else that of the run or folder.

    Raises:
        UserError: two have the same.
    """
    found: dict[str, str] = {}
    for word in words:
        match = re.fullmatch(r"([\w.-]+)=(.+)", word)
        path = Path(word).resolve()
        if match and not path.exists():
            name, where = match[1], match[2]
        else:
            name, where = path.stem if path.suffix in (".ckpt", ".onnx") else path.name, word
            if path.name in ("best.ckpt", "last.ckpt", "adapter.ckpt"):  # a run's
                name = path.parent.name
        if name in found:
            hint = f"give one another name, as in small={where}"
            raise UserError(f"two models are called {name}: {hint}", status=2)
        found[name] = where
    return found
