"""Each text's next token, as the model itself says it, among texts of other lengths."""

import random

import pytest
import torch

from lm.backbone import BackboneConfig, LanguageModel
from lm.backbone.quantised import QuantisedLinear, put_quantised
from lm.serving import slots as module
from lm.serving.slots import Slots

KINDS = {
    "plain": {"num_kv_heads": 2, "qk_norm": True},
    "many heads": {"num_heads": 8},
    "learned": {"positions": "learned", "norm": "layer", "bias": True},
    "window": {"window": 6, "global_every": 2, "local_rope_theta": 50.0},
}


def model(**changes) -> LanguageModel:
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "num_layers": 3, "num_heads": 4, "vocab_size": 61, "max_seq_len": 80}
    found = LanguageModel(BackboneConfig(**{**shape, **changes})).eval()
    with torch.no_grad():
        for p in found.parameters():
            p.mul_(5) if p.ndim == 2 else p.add_(torch.randn_like(p) / 3)
    return found


@pytest.mark.parametrize("spread", [0, 1 << 14, 1 << 30])
@pytest.mark.parametrize("changes", KINDS.values(), ids=KINDS)
@torch.no_grad()
def test_texts_that_come_and_go(changes, spread, monkeypatch):
    monkeypatch.setattr(module, "SPREAD", spread)
    network, draw = model(**changes), random.Random(spread)
    slots = Slots(network, 7)
    texts: list[list[int]] = []
    for _ in range(60):
        if len(texts) < 7 and draw.random() < 0.5:
            ids = [draw.randrange(61) for _ in range(draw.randint(1, 30))]
            cache = slots.cache(len(ids))
            network.backbone(torch.tensor([ids]), None, cache)
            slots.join(cache, 80)
            texts.append(ids)
        if texts and (draw.random() < 0.2 or max(map(len, texts)) == 80):
            longest = max(range(len(texts)), key=lambda place: len(texts[place]))
            slots.leave(longest, broken=draw.random() < 0.5)
            texts[longest] = texts[-1]
            texts.pop()
        assert slots.lengths == [len(ids) for ids in texts]
        if not texts:
            continue
        for ids in texts:
            ids.append(draw.randrange(61))
        logits = slots([ids[-1] for ids in texts])
        for ids, row in zip(texts, logits, strict=True):
            torch.testing.assert_close(row, network(torch.tensor([ids]))[0, -1], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_what_a_broken_text_left_harms_nobody():
    network = model()
    slots = Slots(network, 2)
    for ids in ([1, 2, 3], [4, 5, 6, 7]):
        cache = slots.cache(len(ids))
        network.backbone(torch.tensor([ids]), None, cache)
        slots.join(cache, 20)
    slots.entries[:, :, 0] = torch.nan
    slots.leave(0, broken=True)  # the other one takes its slot
    longer = [*range(9, 19)]
    cache = slots.cache(10)
    network.backbone(torch.tensor([longer]), None, cache)
    slots.join(cache, 20)
    logits = slots([8, 30])
    for ids, row in (([4, 5, 6, 7, 8], logits[0]), ([*longer, 30], logits[1])):
        torch.testing.assert_close(row, network(torch.tensor([ids]))[0, -1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["bf16", "int8", "int4"])
@torch.no_grad()
def test_where_rounding_is_coarse_a_text_is_looked_at_as_alone(kind):
    """A last bit would become a thousandth; of integers, whose products are the same for one and many, only
    the head's rounding is left."""
    network = model(hidden_size=64)
    if kind == "bf16":
        network.to(torch.bfloat16)
    else:
        bits = int(kind[-1])
        names = [
            name
            for name, each in network.backbone.blocks.named_modules(prefix="backbone.blocks")
            if isinstance(each, torch.nn.Linear)
        ]
        put_quantised(network, names, bits, 0 if bits == 8 else 32)
        for each in network.modules():
            if isinstance(each, QuantisedLinear):
                each.values.random_(*((-127, 128) if bits == 8 else (0, 256)))
                each.scales.fill_(0.003 if bits == 8 else 0.04)
                if bits == 4:
                    each.zeros.zero_()
    together, prompts = Slots(network, 4), [[1, 2, 3], [4, 5, 6, 7, 8, 9], [7], [3, 3]]
    apart = []
    for ids in prompts:
        apart.append(Slots(network, 4))
        for slots in (together, apart[-1]):
            cache = slots.cache(len(ids))
            network.backbone(torch.tensor([ids]), None, cache)
            slots.join(cache, 40)
    near = 1e-2 if kind == "bf16" else 1e-5
    for step in range(30):
        tokens = [5 + step, 6, 9 + step, 8]
        logits = together(tokens)
        for token, slots, row in zip(tokens, apart, logits, strict=True):
            torch.testing.assert_close(slots([token])[0], row, rtol=near, atol=near)
