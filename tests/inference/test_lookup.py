"""Drafts from the text itself change nothing but the number of passes."""

import pytest
import torch

from lm.backbone import LanguageModel
from lm.errors import UserError
from lm.inference import decoder as decoders
from lm.inference import generate as generating
from lm.inference.batch import complete
from lm.inference.generate import Sampling, generate
from lm.inference.lookup import Lookup
from tests.inference.test_decoder import KINDS, make


def written(model: LanguageModel, prompt: list[int], lookup: int, **changes) -> list[int]:
    """What one sample gets: a prompt and 60 tokens are more than the model sees at once."""
    sampling = Sampling(**{"temperature": 0, **changes}, lookup=lookup)
    return [step[0] for step in generate(model, prompt, 60, sampling, seed=3)]


@pytest.mark.parametrize("prepared", [True, False], ids=["prepared", "the model itself"])
@pytest.mark.parametrize("changes", KINDS.values(), ids=KINDS)
def test_the_text_is_the_same(changes, prepared, monkeypatch):
    monkeypatch.setattr(decoders, "MOST", decoders.MOST if prepared else 0)
    model = make(changes)
    prompt = [5, 6, 7, 8] * 4  # a pattern to be found, and left
    for options in ({}, {"temperature": 1.2, "top_p": 0.9}, {"repetition_penalty": 1.3}):
        assert written(model, prompt, 5, **options) == written(model, prompt, 0, **options)


def test_a_text_that_repeats_itself_takes_fewer_passes(monkeypatch):
    model = make(KINDS["llama"])
    passes, read = [], generating._Reader.__call__
    monkeypatch.setattr(
        generating._Reader,
        "__call__",
        lambda self, text, drafted=0: passes.append(drafted) or read(self, text, drafted),
    )
    plain = written(model, [1, 2, 3], 0)
    assert len(passes) == 60
    passes.clear()
    # The text that was written, as a prompt that holds it twice: what comes is what came.
    monkeypatch.setattr(
        Sampling,
        "choose",
        lambda self, logits, context, generator: torch.tensor([plain[context.shape[1] % 9]]),
    )
    again = written(model, [1, 2, 3], 8)
    assert again[9:18] == again[:9] and len(passes) < 25 and max(passes) <= 8


def test_several_texts_are_read_without_drafts():
    model = make(KINDS["qwen3"])
    prompts = [[1, 2, 1, 2], [3, 4, 3, 4, 3]]
    drafted = complete(model, prompts, 8, [0], Sampling(temperature=0, lookup=4))
    assert drafted == complete(model, prompts, 8, [0], Sampling(temperature=0))
    assert complete(model, prompts[:1], 8, [0], Sampling(temperature=0, lookup=4)) == drafted[:1]


def test_what_is_found():
    drafts = []

    def read(text: torch.Tensor, drafted: int) -> torch.Tensor:
        drafts.append(text[0, text.shape[1] - drafted :].tolist())
        return torch.zeros(1, 1 + drafted, 9)

    lookup = Lookup(read, lambda known: 20 - known, most=3)
    lookup(torch.tensor([[1, 2, 3, 4, 5, 1, 2]]))
    assert drafts.pop() == [3, 4, 5], "what followed 1 2"
    lookup(torch.tensor([[1, 2, 3, 4, 5, 1, 2, 3]]))
    lookup(torch.tensor([[1, 2, 3, 4, 5, 1, 2, 3, 4]]))
    assert not drafts, "both stand"
    lookup(torch.tensor([[1, 2, 3, 4, 5, 1, 2, 3, 4, 2]]))
    assert drafts.pop() == [], "4 2 is new"
    lookup(torch.tensor([[1, 2, 3, 4, 5, 1, 2, 3, 4, 2, 3]]))
    assert drafts.pop() == [4, 2], "the last time it was 4 2; no longer than the last draft was right"
    lookup(torch.tensor([[1, 2, 3, 4, 5, 1, 2, 3, 4, 2, 3, 3, 1, 2, 3, 4, 2, 3, 3]]))
    assert drafts.pop() == [1], "there is room for one"


def test_a_negative_number_is_refused():
    with pytest.raises(UserError, match="`lookup` -1"):
        Sampling(lookup=-1)
