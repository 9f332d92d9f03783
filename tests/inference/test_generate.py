"""Writing: cached equals uncached, sampling by hand, stops and ends, streamed text."""

import itertools
import random
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from lm.backbone import BackboneConfig, LanguageModel
from lm.errors import UserError
from lm.inference.generate import (
    Sampling,
    context_start,
    generate,
    generate_text,
    prompt_ids,
    stream_text,
)
from lm.tokenizer import Tokenizer

GREEDY = Sampling(temperature=0)


def make(**changes) -> LanguageModel:
    """A model with weights so large that what it writes hangs on every detail."""
    torch.manual_seed(0)
    small = {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "vocab_size": 420, "max_seq_len": 32}
    model = LanguageModel(BackboneConfig(**{**small, **changes}))
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim == 2:
                p.mul_(10)
    return model


MODELS = {
    "plain": {},
    "grouped, qk-norm": {"num_kv_heads": 2, "qk_norm": True},
    "one kv head, window": {"num_kv_heads": 1, "window": 5},
    "learned": {"positions": "learned", "norm": "layer", "bias": True, "mlp": "gelu"},
    "learned, window, after": {"positions": "learned", "window": 7, "norm_position": "after"},
    "untied": {"tie_embeddings": False, "mlp": "relu2"},
    "odd limit": {"max_seq_len": 11},
}


@pytest.mark.parametrize(
    "sampling",
    [GREEDY, Sampling(), Sampling(0.8, top_k=40, top_p=0.9, min_p=0.01, repetition_penalty=1.3)],
    ids=["greedy", "sampled", "all options"],
)
@pytest.mark.parametrize("changes", MODELS.values(), ids=MODELS)
def test_cached_equals_uncached_token_for_token(changes, sampling):
    """Far beyond what the model sees at once: the context is cut several times."""
    model = make(**changes)
    for prompt in ([7], list(range(10, 60))):
        written = [
            list(generate(model, prompt, 90, sampling, samples=2, seed=3, use_cache=use_cache))
            for use_cache in (True, False)
        ]
        assert written[0] == written[1]
        assert len(written[0]) == 90
        assert len({step[0] for step in written[0]}) > 3, "a single token would say nothing"


def test_greedy_takes_the_likeliest_each_time():
    model = make().eval()
    text = [7, 8, 9]
    for step in generate(model, text, 20, GREEDY):
        expected = model(torch.tensor([text]))[0, -1].argmax().item()
        assert step == [expected]
        text.append(expected)


@pytest.mark.parametrize("limit", [1, 2, 7, 32])
def test_context_is_cut_to_half_and_grows_again(limit):
    previous = 0
    for length in range(1, 5 * limit + 3):
        start = context_start(length, limit)
        assert 1 <= length - start <= limit
        if length <= limit:
            assert start == 0
        elif start != previous:
            assert length - start == limit // 2 + 1, "cut further than to half, or less"
            assert (length - 1) - previous == limit, "cut before it was full"
        previous = start


def test_seeds_and_samples():
    model = make()

    def texts(seed: int) -> list[tuple[int, ...]]:
        return list(zip(*generate(model, [7], 30, Sampling(), samples=3, seed=seed), strict=True))

    assert texts(1) == texts(1)
    assert texts(1) != texts(2)
    assert len(set(texts(1))) == 3
    torch.manual_seed(5)
    before = torch.get_rng_state()
    texts(1)
    assert torch.equal(torch.get_rng_state(), before), "sampling took from the global generator"


@pytest.mark.parametrize("training", [True, False])
def test_dropout_is_off_and_the_mode_comes_back(training):
    model = make(dropout=0.5).train(training)
    one, two = (list(generate(model, [7], 20, GREEDY)) for _ in range(2))
    assert one == two
    assert model.training is training
    for _ in generate(model, [7], 20, GREEDY):
        break
    assert model.training is training


# --- choosing from given logits


def frequencies(
    sampling: Sampling, probabilities: list[float], context: list[int] | None = None
) -> list[float]:
    """Shares of 20,000 choices from logits that are the logarithms of `probabilities`."""
    n = 20_000
    logits = torch.tensor(probabilities).log().expand(n, -1)
    context = torch.tensor(context or [0]).expand(n, -1)
    chosen = sampling.choose(logits, context, torch.Generator().manual_seed(0))
    assert chosen.shape == (n,)
    return (torch.bincount(chosen, minlength=len(probabilities)) / n).tolist()


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (Sampling(), [0.1, 0.4, 0.2, 0.05, 0.25]),
        (Sampling(temperature=0), [0, 1, 0, 0, 0]),
        (Sampling(top_k=1), [0, 1, 0, 0, 0]),
        (Sampling(top_k=2), [0, 0.4 / 0.65, 0, 0, 0.25 / 0.65]),
        (Sampling(top_k=99), [0.1, 0.4, 0.2, 0.05, 0.25]),
        # 0.4 and 0.25 make 0.65: 0.7 needs a third token, 0.6 does not.
        (Sampling(top_p=0.6), [0, 0.4 / 0.65, 0, 0, 0.25 / 0.65]),
        (Sampling(top_p=0.7), [0, 0.4 / 0.85, 0.2 / 0.85, 0, 0.25 / 0.85]),
        (Sampling(top_p=0.01), [0, 1, 0, 0, 0]),
        # 0.45 of 0.4 is 0.18, 0.55 of it 0.22.
        (Sampling(min_p=0.45), [0, 0.4 / 0.85, 0.2 / 0.85, 0, 0.25 / 0.85]),
        (Sampling(min_p=0.55), [0, 0.4 / 0.65, 0, 0, 0.25 / 0.65]),
        (Sampling(min_p=1.0), [0, 1, 0, 0, 0]),
        # Probabilities to the power of 1 / temperature.
        (Sampling(temperature=0.5), [p * p / 0.275 for p in (0.1, 0.4, 0.2, 0.05, 0.25)]),
        (Sampling(temperature=2.0), [p**0.5 / 2.1194 for p in (0.1, 0.4, 0.2, 0.05, 0.25)]),
        # Squared, 0.4 and 0.25 make 0.81: the temperature comes first.
        (Sampling(temperature=0.5, top_p=0.8), [0, 0.16 / 0.2225, 0, 0, 0.0625 / 0.2225]),
        # Of the best three, 0.4 makes 0.47 and 0.4 and 0.25 make 0.76.
        (Sampling(top_k=3, top_p=0.75), [0, 0.4 / 0.65, 0, 0, 0.25 / 0.65]),
    ],
    ids=str,
)
def test_choices_have_the_distribution_by_hand(sampling, expected):
    assert sum(expected) == pytest.approx(1, abs=1e-3)
    for share, wanted in zip(frequencies(sampling, [0.1, 0.4, 0.2, 0.05, 0.25]), expected, strict=True):
        if wanted in (0, 1):
            assert share == wanted
        assert share == pytest.approx(wanted, abs=5 * 0.5 / 20_000**0.5)


def test_repetition_penalty_by_hand():
    """Positive logits are divided, negative ones multiplied, once however often a token stands there."""
    logits = torch.tensor([[2.0, -1.0, 1.0, -2.0]])
    penalised = torch.tensor([1.0, -2.0, 1.0, -2.0]).softmax(0)
    n = 20_000
    context = torch.tensor([[0, 1, 0, 0]]).expand(n, -1)
    chosen = Sampling(repetition_penalty=2.0).choose(
        logits.expand(n, -1), context, torch.Generator().manual_seed(0)
    )
    shares = torch.bincount(chosen, minlength=4) / n
    torch.testing.assert_close(shares, penalised, atol=5 * 0.5 / n**0.5, rtol=0)
    greedy = Sampling(temperature=0, repetition_penalty=3.0)
    assert greedy.choose(logits, torch.tensor([[0, 3]])).item() == 2
    assert greedy.choose(logits, torch.tensor([[2, 3]])).item() == 0


def test_rows_are_chosen_apart():
    logits = torch.tensor([[5.0, 0.0, 0.0], [0.0, 0.0, 5.0], [0.0, 3.0, 2.9]])
    context = torch.tensor([[1], [1], [1]])
    assert GREEDY.choose(logits, context).tolist() == [0, 2, 1]
    assert Sampling(0, repetition_penalty=2.0).choose(logits, context).tolist() == [0, 2, 2]
    assert Sampling(top_k=1).choose(logits, context).tolist() == [0, 2, 1]
    assert Sampling(top_p=0.1).choose(logits, context).tolist() == [0, 2, 1]


def test_bf16_logits_are_weighed_in_fp32():
    """1,000 equal tokens: cumulated in bf16 the probability would stand still."""
    logits = torch.zeros(4000, 1000, dtype=torch.bfloat16)
    context = torch.zeros(4000, 1, dtype=torch.long)
    chosen = Sampling(top_p=0.9).choose(logits, context, torch.Generator().manual_seed(0))
    assert 850 < len(chosen.unique()) <= 901


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("top_k", -1),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("min_p", -0.1),
        ("min_p", 1.5),
        ("repetition_penalty", 0.0),
        ("repetition_penalty", -2.0),
    ],
)
def test_bad_values_name_their_option(name, value):
    with pytest.raises(UserError, match=f"`{name}` {value}: it must be") as caught:
        Sampling(**{name: value})
    assert caught.value.status == 2


# --- text


class Script(nn.Module):
    """A model that wants to write the given tokens, one row for each sample."""

    def __init__(self, *rows: list[int], prompt: int, vocab_size: int) -> None:
        super().__init__()
        self.rows, self.prompt, self.vocab_size = rows, prompt, vocab_size
        self.config = SimpleNamespace(max_seq_len=10_000)
        self.head = nn.Linear(1, 1)

    def forward(self, tokens: Tensor) -> Tensor:
        logits = torch.zeros(*tokens.shape, self.vocab_size)
        for row, script in enumerate(self.rows):
            logits[row, -1, script[tokens.shape[1] - self.prompt]] = 9.0
        return logits


def stream(
    tokenizer: Tokenizer, *rows: list[int], stops: tuple[str, ...] = (), more: int = 0
) -> list[tuple[int, str]]:
    """What is streamed while a model writes `rows`."""
    prompt = "def "
    model = Script(*rows, prompt=len(prompt_ids(tokenizer, prompt)), vocab_size=len(tokenizer) + more)
    tokens, samples = len(rows[0]), len(rows)
    return list(stream_text(model, tokenizer, prompt, tokens, GREEDY, samples, 0, stops, use_cache=False))


def spelled(tokenizer: Tokenizer, text: str) -> list[int]:
    """A text by the shortest tokens there are, bytes where a character has no token."""
    ids = []
    for char in text:
        single = tokenizer.id(char.replace(" ", "\u2581"))
        ids += [tokenizer.id(f"<0x{b:02X}>") for b in char.encode()] if single is None else [single]
    assert tokenizer.decode(ids) == text
    return ids


def test_a_prompt_starts_a_document(tokenizer):
    assert prompt_ids(tokenizer, "def f") == [tokenizer.bos_id, *tokenizer.encode("def f")]
    assert prompt_ids(tokenizer, "") == [tokenizer.bos_id]


def test_a_character_of_several_pieces_waits_until_it_is_whole(tokenizer):
    text = "孙 é😀!"
    ids = spelled(tokenizer, text)
    assert len(ids) > len(text) + 4
    parts = [part for _, part in stream(tokenizer, ids)]
    assert "".join(parts) == text
    assert "\ufffd" not in "".join(parts[:-1])
    broken = [part for _, part in stream(tokenizer, spelled(tokenizer, "é")[:1])]
    assert broken == ["\ufffd"], "what is left at the end is shown"


def test_streamed_text_is_the_decoded_text(tokenizer):
    model = make()
    prompt = prompt_ids(tokenizer, "import")
    sampling = Sampling(temperature=1.5)
    steps = list(generate(model, prompt, 80, sampling, 3, 5, tokenizer.eos_id))
    texts = [""] * 3
    for sample, part in stream_text(model, tokenizer, "import", 80, sampling, 3, 5):
        texts[sample] += part
    for text, ids in zip(texts, zip(*steps, strict=True), strict=True):
        written = list(itertools.takewhile(lambda id: id != tokenizer.eos_id, ids))
        assert text == tokenizer.decode(written)
        assert len(text) > 20
    whole = generate_text(model, tokenizer, "import", 40, sampling, seed=9)
    parts = [part for _, part in stream_text(model, tokenizer, "import", 40, sampling, seed=9)]
    assert whole == "import" + "".join(parts)


def test_the_end_piece_ends_each_sample_by_itself(tokenizer):
    end = tokenizer.eos_id
    one, two = spelled(tokenizer, "ab"), spelled(tokenizer, "uvwxyz")
    rows = [*one, end, *spelled(tokenizer, "lost")], [*two, end]
    texts = ["", ""]
    for sample, part in stream(tokenizer, *rows):
        texts[sample] += part
    assert texts == ["ab", "uvwxyz"]
    model = Script(*(row + [9] * 9 for row in rows), prompt=1, vocab_size=len(tokenizer))
    steps = list(generate(model, [2], 16, GREEDY, samples=2, end=end, use_cache=False))
    assert [s[0] for s in steps] == [*one, end, end, end, end, end]
    assert [s[1] for s in steps] == [*two, end], "it goes on until every sample has ended, and no longer"


def test_the_prompts_own_end_piece_is_no_end(tokenizer):
    model = Script(spelled(tokenizer, "abc"), prompt=2, vocab_size=len(tokenizer))
    steps = list(generate(model, [2, tokenizer.eos_id], 3, GREEDY, end=tokenizer.eos_id, use_cache=False))
    assert len(steps) == 3


@pytest.mark.parametrize(
    ("text", "stops", "expected"),
    [
        ("one\n\ntwo", ("\n\n",), "one"),
        ("one\ntwo", ("\n\n",), "one\ntwo"),
        ("one END two", ("END",), "one "),
        ("one EN", ("END",), "one EN"),
        ("EEEND", ("END",), "EE"),
        ("aab", ("ab",), "a"),
        ("ENEND", ("END",), "EN"),
        ("stop", ("stop",), ""),
        ("a, b; c", (";", ","), "a"),
        ("xyz", ("xyzw", "y"), "x"),
        ("say 孙悟空!", ("悟空",), "say 孙"),
        ("nothing", (), "nothing"),
    ],
)
def test_stops_by_hand(tokenizer, text, stops, expected):
    for ids in (spelled(tokenizer, text), tokenizer.encode(text)):
        assert "".join(part for _, part in stream(tokenizer, ids, stops=stops)) == expected


def test_stops_hold_back_as_little_as_can_be(tokenizer):
    """Random texts and stops: after each token exactly what no stop can reach any more has been shown."""
    chooser = random.Random(0)
    stopped = 0
    for _ in range(150):
        text = "".join(chooser.choices("ab\n", k=14))
        stops = tuple("".join(chooser.choices("ab\n", k=chooser.randint(1, 4))) for _ in range(2))
        shown, expected = "", ""
        for end in range(1, len(text) + 1):
            so_far = text[:end]
            found = [so_far.find(s) for s in stops if s in so_far]
            if found:
                expected = so_far[: min(found)]
                stopped += 1
                break
            waits = max(n for n in range(4) if any(s.startswith(so_far[end - n :]) for s in stops))
            expected = so_far[: end - waits]
            prefix = "".join(
                part for _, part in stream(tokenizer, spelled(tokenizer, so_far + "c"), stops=stops)
            )
            assert prefix.startswith(expected)
        else:
            expected = text
        parts = [part for _, part in stream(tokenizer, spelled(tokenizer, text), stops=stops)]
        shown = "".join(parts)
        assert shown == expected, (text, stops)
    assert 20 < stopped < 150


def test_a_stop_ends_one_sample_only(tokenizer):
    texts = ["", ""]
    for sample, part in stream(
        tokenizer, spelled(tokenizer, "ab.cdef"), spelled(tokenizer, "uvwxyz."), stops=(".",)
    ):
        texts[sample] += part
    assert texts == ["ab", "uvwxyz"]


def test_a_stop_string_is_not_looked_for_in_the_prompt(tokenizer):
    assert "".join(part for _, part in stream(tokenizer, spelled(tokenizer, "abc"), stops=("def",))) == "abc"


def test_pieces_the_tokenizer_does_not_have_are_not_written(tokenizer):
    """Models of other projects have more rows than tokens."""
    ids = [len(tokenizer) + 1, *spelled(tokenizer, "bc")]
    text = "".join(part for _, part in stream(tokenizer, ids, more=5))
    assert text.endswith("bc")
    model = Script(ids, prompt=1, vocab_size=len(tokenizer) + 5)
    steps = list(generate(model, [2], 1, GREEDY, use_cache=False, vocab_size=len(tokenizer)))
    assert steps[0][0] < len(tokenizer)
