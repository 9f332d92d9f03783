"""Patches: their order, positions of other sizes, overlapping ones, stems."""

import pytest
import torch
import torch.nn.functional as F

from lm.backbone import BackboneConfig, Patches, read_input
from lm.backbone.inputs.patches import sine_positions
from lm.errors import UserError

CONFIG = BackboneConfig(hidden_size=24, num_layers=1, num_heads=4, causal=False, positions="none")


def made(**fields):
    torch.manual_seed(0)
    return Patches(**{"patch_size": 4, "size": (8, 12), **fields}).make(CONFIG).eval()


@torch.no_grad()
def test_each_position_is_a_patch_by_the_weights():
    """Written out patch by patch."""
    net, picture = made(prefix=1, registers=2), torch.randn(1, 3, 8, 12)
    weight, bias = net.patches.weight.flatten(1), net.patches.bias
    hidden = net(picture)[0]
    assert len(hidden) == 1 + 2 + 6 and net.prefix == 3
    for row in range(2):
        for column in range(3):
            patch = picture[0, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
            place = net.positions.weight[1 + 3 * row + column]
            wanted = weight @ patch.flatten() + bias + place
            torch.testing.assert_close(hidden[3 + 3 * row + column], wanted, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(hidden[0], net.first.weight[0] + net.positions.weight[0])
    torch.testing.assert_close(hidden[1:3], net.first.weight[1:])


@torch.no_grad()
def test_a_part_of_a_patch_is_filled_with_zeros():
    net, picture = made(), torch.randn(2, 3, 7, 10)
    assert torch.equal(net(picture), net(F.pad(picture, (0, 2, 0, 1))))
    assert net.shape.grid(7, 10) == (2, 3)


@torch.no_grad()
@pytest.mark.parametrize("size", [(16, 64), (17, 75), (19, 80)])
def test_overlapping_patches_leave_a_rest_out(size):
    net = made(patch_size=8, stride=5, size=size, channels=1, prefix=2)
    rows, columns = net.shape.grid(*size)
    hidden = net(torch.randn(2, *size))
    assert hidden.shape == (2, 2 + rows * columns, 24)
    assert (rows, columns) == tuple(len(range(0, n - 7, 5)) for n in size)


@torch.no_grad()
def test_positions_of_a_larger_picture_lie_between_those_learned():
    net = made()
    net.positions.weight.copy_(torch.arange(6.0)[:, None].expand(-1, 24))
    places, first = net.places(4, 6)
    table = places[:, 0].view(4, 6)
    assert len(first) == 0 and (table.diff(dim=0) > 0).all() and (table.diff(dim=1) > 0).all()
    assert net.places(2, 3)[0].tolist() == net.positions.weight.tolist()


def test_sine_positions_differ_by_place():
    places = sine_positions(5, 7, 24, torch.device("cpu"))
    assert torch.cdist(places, places).fill_diagonal_(9).min() > 0.5
    torch.testing.assert_close(places.view(5, 7, 24)[:, 0, :12], places.view(5, 7, 24)[:, 6, :12])


def test_sine_positions_of_a_larger_picture_lie_between_those_that_were_learned_from():
    places, known = (made(positions="sine", size=(20, 28)).places(*grid)[0] for grid in ((15, 21), (5, 7)))
    assert torch.equal(known, sine_positions(5, 7, 24, torch.device("cpu")))
    torch.testing.assert_close(places.view(15, 21, 24)[1::3, 1::3].flatten(0, 1), known)  # the middle of each
    nearest = torch.cdist(places, known).argmin(1).view(15, 21)
    wanted = torch.arange(35).view(5, 7).repeat_interleave(3, 0).repeat_interleave(3, 1)
    assert torch.equal(nearest, wanted)


@torch.no_grad()
@pytest.mark.parametrize("fields", [{"stem_width": 8}, {"positions": "sine", "size": None}], ids=str)
def test_a_stem_of_convolutions_gives_as_many_positions(fields):
    net = made(stem="convolutions", **fields)
    assert net(torch.randn(2, 3, 8, 12)).shape == (2, 6, 24)


def test_wrong_values_are_refused_and_a_description_makes_it_again():
    for fields, words in (
        ({"patch_size": 0}, "patch_size"),
        ({"patch_size": 16}, r"pictures are \(8, 12\)"),
        ({"patch_size": 6, "stem": "convolutions"}, "powers of 2"),
        ({"stride": 5}, "stride"),
        ({"stride": 2, "stem": "convolutions"}, "linear stem"),
    ):
        with pytest.raises(UserError, match=words):
            Patches(**{"patch_size": 4, "size": (8, 12), **fields})
    shape = Patches(size=[32, 32], prefix=1)
    assert read_input(shape.described()) == shape
    with pytest.raises(UserError, match="kind 'smells' is not known here"):
        read_input({"kind": "smells"})


@torch.no_grad()
@pytest.mark.parametrize("stem", ["linear", "convolutions"])
def test_weights_in_bf16_take_pictures_as_they_are(stem):
    shape = Patches(4, size=(16, 16), stem=stem, prefix=1)
    net, picture = shape.make(CONFIG).to(torch.bfloat16), torch.randn(2, 3, 16, 16)
    assert torch.equal(net(picture), net(picture.bfloat16())) and net(picture).dtype == torch.bfloat16
