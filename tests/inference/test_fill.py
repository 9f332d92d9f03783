"""Guesses for masks: probabilities by hand, no control tokens, errors that say what to do."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from lm.backbone import BackboneConfig, LanguageModel
from lm.errors import UserError
from lm.inference.fill import fill, show_guesses
from lm.tokenizer import tokenizer_from_bytes


def make(**changes) -> LanguageModel:
    torch.manual_seed(0)
    small = {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "vocab_size": 420, "max_seq_len": 32}
    model = LanguageModel(BackboneConfig(**{**small, "causal": False, **changes}))
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim == 2:
                p.mul_(5)
    return model.eval()


TEXT = "def <mask>(self):\n    return <mask>"


@pytest.mark.parametrize("vocab_size", [420, 450])
@torch.no_grad()
def test_guesses_by_hand(tokenizer, vocab_size):
    """The same from the logits themselves; a model may have more rows than the tokenizer tokens."""
    model = make(vocab_size=vocab_size)
    guesses = fill(model, tokenizer, TEXT, best=7)
    before, between = tokenizer.encode("def "), tokenizer.encode("(self):\n    return ")
    ids = [2, *before, 4, *between, 4, 3]
    logits = model(torch.tensor([ids]))[0]
    for found, position in zip(guesses, (1 + len(before), len(ids) - 2), strict=True):
        probabilities = logits[position, 9:420].softmax(0)  # the first nine are control tokens
        expected = sorted(((p, i) for i, p in enumerate(probabilities.tolist(), 9)), reverse=True)[:7]
        assert [text for text, _ in found] == [tokenizer.decode([i]) for _, i in expected]
        assert [p for _, p in found] == pytest.approx([p for p, _ in expected], rel=1e-4)


def test_all_guesses_make_one(tokenizer):
    for guesses in fill(make(), tokenizer, TEXT, best=10_000):
        probabilities = [p for _, p in guesses]
        assert len(guesses) == 420 - 9
        assert sum(probabilities) == pytest.approx(1, abs=1e-4)
        assert probabilities == sorted(probabilities, reverse=True)
        assert all(text for text, _ in guesses), "a control token stands for no text"


def test_what_stands_around_a_mask_counts(tokenizer):
    model = make()
    one, two = (fill(model, tokenizer, text, best=3) for text in ("return <mask> + 1", "return <mask> + 2"))
    assert one != two


def test_errors(tokenizer):
    with pytest.raises(UserError, match="lm generate"):
        fill(make(causal=True), tokenizer, TEXT)
    with pytest.raises(UserError, match="no <mask> in the text") as caught:
        fill(make(), tokenizer, "nothing to guess")
    assert caught.value.status == 2
    with pytest.raises(UserError, match="tokens, the model sees 32"):
        fill(make(), tokenizer, "<mask>" + 40 * " 1")
    without = tokenizer_from_bytes(tokenizer.to_bytes())
    without.mask_id = None
    with pytest.raises(UserError, match="tokenizer has no <mask> token"):
        fill(make(), without, TEXT)


def test_the_longest_text_fits(tokenizer):
    """<s>, the mask, 29 digits and </s> are 32."""
    assert len(fill(make(), tokenizer, "<mask>" + 29 * "1")) == 1
    with pytest.raises(UserError, match="33 tokens"):
        fill(make(), tokenizer, "<mask>" + 30 * "1")


def test_tokenizers_without_start_and_end(tokenizer):
    bare = tokenizer_from_bytes(tokenizer.to_bytes())
    bare.bos_id = bare.eos_id = None
    assert len(fill(make(), bare, "<mask>" + 31 * "1")) == 1


class Always(nn.Module):
    """A model whose guess is always the same token."""

    def __init__(self, piece: int, vocab_size: int) -> None:
        super().__init__()
        self.piece, self.vocab_size = piece, vocab_size
        self.config = SimpleNamespace(causal=False)
        self.head = nn.Linear(1, 1)
        self.seen: list[int] = []

    def forward(self, tokens: Tensor) -> Tensor:
        self.seen = tokens[0].tolist()
        assert not self.training
        logits = torch.zeros(*tokens.shape, self.vocab_size)
        logits[..., self.piece] = 1
        return logits


def test_shown_guesses_by_hand(tokenizer):
    a, b = (tokenizer.id(char) for char in "ab")
    ids = [a, a, b, a, a, a, b, a, 3, a]
    model = Always(a, 420).train()
    assert show_guesses(model, tokenizer, ids, every=3) == "aa[b→a]aa[a]baa"
    assert model.seen == [a, a, 4, a, a, 4, b, a, 3, a], "the end token is not text, so not masked"
    assert model.training
