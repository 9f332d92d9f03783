"""Tiny models with random weights, and a server of them in a thread."""

import threading
from contextlib import contextmanager

import httpx
import openai
import pytest
import torch

import lm
from lm import checkpoint as checkpoints
from lm.backbone import BackboneConfig
from lm.serving.app import make_app
from lm.serving.house import House, Served
from lm.serving.limits import Limits
from lm.serving.security import Keys
from lm.serving.server import Server, open_port, take

LANGUAGE = {"kind": "language"}
POOLED = {"kind": "pooled", "outputs": 2, "pooling": "mean", "pooler": False}
TOKENS = {"kind": "tokens", "outputs": 2, "pooling": None, "pooler": False}
SPAN = {"kind": "span", "outputs": 2, "pooling": None, "pooler": False}
WINDOWS = {"overlap": 8, "max_question": 16, "max_answer": 10}
# Name, task, causal, positions, head, what else its record says.
KINDS = (
    ("gpt", "causal.CausalPretraining", True, 512, LANGUAGE, {}),
    ("chat", "instruction.InstructionTuning", True, 64, LANGUAGE, {}),
    ("bert", "masked.MaskedPretraining", False, 64, LANGUAGE, {}),
    (
        "classifier",
        "sequence_classification.SequenceClassification",
        False,
        64,
        POOLED,
        {"labels": ["bad", "good"], "kind": "single", "cut": "end"},
    ),
    (
        "tagger",
        "token_classification.TokenClassification",
        False,
        64,
        TOKENS,
        {"labels": ["O", "B-PER"], "joiner": " "},
    ),
    (
        "finder",
        "question_answering.QuestionAnswering",
        False,
        64,
        SPAN,
        {"windows": WINDOWS, "unanswerable": False},
    ),
)


def made(folder, tokenizer, name, task, causal, length, head, more):
    """A model's checkpoint, opened."""
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "max_seq_len": length, "causal": causal}
    config = BackboneConfig(vocab_size=tokenizer.vocab_size, **shape)
    net = checkpoints.make_network(config, head)
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.ndim == 2:
                parameter.mul_(6)
    record = {**checkpoints.make_record(f"lm.tasks.{task}", config, tokenizer), "head": head, "labels": []}
    state = {f"net.{key}": value for key, value in net.state_dict().items()}
    content = {"lm": {**record, "init_from": None, **more}, "state_dict": state, "global_step": 1}
    checkpoints.write(content, folder / f"{name}.ckpt")
    return lm.load(folder / f"{name}.ckpt")


@pytest.fixture(scope="session")
def models(tmp_path_factory, tokenizer):
    """Models by name, see `KINDS`."""
    folder = tmp_path_factory.mktemp("served")
    return {kind[0]: made(folder, tokenizer, *kind) for kind in KINDS}


@pytest.fixture(scope="session")
def serving():
    """Serves models in a thread: `with serving({"gpt": model}) as url`. What is said in `options` is for
    `Served`, the rest for the app; `url.server` is the server."""

    class Address(str):
        __slots__ = ("house", "server")

    @contextmanager
    def serve(models, keys=(), limits=None, grace=5, log=False, **options):
        house = House([Served(name, model, **options) for name, model in models.items()])
        guard = make_app(house, limits or Limits(), Keys(keys), local=True, log=log)
        port = take("127.0.0.1", 0)
        open_port(port)
        address = Address(f"http://127.0.0.1:{port.getsockname()[1]}")
        address.server, address.house = Server(guard, house, grace), house
        for served in house.models.values():
            served.start()
        thread = threading.Thread(target=address.server.run, args=([port],))
        thread.start()
        try:
            yield address
        finally:
            address.server.handle_exit(15, None)
            thread.join()

    return serve


@pytest.fixture(scope="module")
def url(models, serving):
    """A server of all models."""
    with serving(models) as address:
        yield address


@pytest.fixture(scope="module")
def http(url):
    """Asks that server."""
    with httpx.Client(base_url=url, timeout=60) as made:
        yield made


@pytest.fixture(scope="module")
def client(url):
    """Asks it as OpenAI's own client does."""
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as made:
        yield made
