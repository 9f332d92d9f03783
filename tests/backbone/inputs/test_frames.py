"""Frames: Whisper's input; a sound among others is what it is alone."""

import pytest
import torch

from lm.backbone import Backbone, BackboneConfig, Frames, read_input
from lm.backbone.inputs.frames import sinusoids
from lm.errors import UserError

CONFIG = BackboneConfig(
    **{"hidden_size": 32, "num_layers": 2, "num_heads": 4, "causal": False, "positions": "none"},
    **{"norm": "layer", "mlp": "gelu", "bias": True},
)


def network(**fields) -> Backbone:
    torch.manual_seed(0)
    shape = Frames(**{"bins": 12, "max_frames": 60, **fields})
    net = Backbone(CONFIG, shape.make(CONFIG)).eval()
    net.initialize()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.2)
    return net


@torch.no_grad()
@pytest.mark.parametrize("fields", [{}, {"positions": "sine"}, {"strides": (2, 2), "kernel": 5}], ids=str)
def test_a_sound_does_not_depend_on_its_batch(fields):
    net = network(**fields)
    shape, sounds = net.embeddings.shape, [torch.randn(12, n) for n in (60, 41, 40, 3)]
    batch, documents = torch.zeros(4, 12, 60), torch.full((4, shape.length(60)), -1)
    for row, sound in enumerate(sounds):
        batch[row, :, : sound.shape[1]] = sound
        documents[row, : shape.length(sound.shape[1])] = 0
    together = net(batch, documents)
    for row, sound in enumerate(sounds):
        alone = net(sound[None])[0]
        assert len(alone) == shape.length(sound.shape[1])
        torch.testing.assert_close(together[row, : len(alone)], alone, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_what_lies_in_the_padding_does_not_matter():
    net, raw = network(), torch.randn(1, 12, 60)
    documents = torch.zeros(1, 30, dtype=torch.long)
    documents[:, 20:] = -1
    other = raw.clone()
    other[:, :, 40:] = 7
    torch.testing.assert_close(net(raw, documents)[:, :20], net(other, documents)[:, :20])


def test_the_fixed_positions_are_whispers():
    from transformers.models.whisper.modeling_whisper import sinusoids as theirs

    torch.testing.assert_close(sinusoids(50, 32, torch.device("cpu")), theirs(50, 32), atol=1e-5, rtol=0)


def test_too_long_a_sound_and_wrong_values_are_refused():
    with pytest.raises(ValueError, match="31 positions, but only 30 were learned"):
        network()(torch.zeros(1, 12, 61))
    for fields, words in (({"bins": 0}, "bins"), ({"strides": (1, 0)}, "strides"), ({"kernel": 4}, "odd")):
        with pytest.raises(UserError, match=words):
            Frames(**fields)


def test_a_description_makes_it_again():
    shape = Frames(bins=20, strides=[2, 2])
    assert read_input(shape.described()) == shape
    assert [shape.length(n) for n in (1, 4, 5)] == [1, 1, 2]


@torch.no_grad()
def test_weights_in_bf16_take_sounds_as_they_are():
    net, sound = network().embeddings.to(torch.bfloat16), torch.randn(2, 12, 40)
    assert torch.equal(net(sound), net(sound.bfloat16())) and net(sound).dtype == torch.bfloat16
