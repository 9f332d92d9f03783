"""Changes at random: boxes, mask and pixels tell the same, and equal draws give equal pictures."""

import tarfile
from dataclasses import replace

import jsonargparse
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from lm.data.images.augment import (
    Augmentation,
    Flip,
    RandomCrop,
    RandomErasing,
    RandomResizedCrop,
    ScaleJitter,
    Turn,
    moved,
    turned,
)
from lm.data.images.colours import OPERATIONS, ColorJitter, RandAugment
from lm.errors import UserError
from lm.processors.pictures import FILL, VOID, Picture, read_picture

ALL = [
    RandomCrop(8),
    RandomResizedCrop((0.3, 1.0)),
    RandomResizedCrop(size=(32, 40)),
    Flip(0.5, 0.5),
    Turn(20),
    ScaleJitter(),
    ScaleJitter((0.1, 2.0), (90, 50)),
    ColorJitter(),
    RandAugment(),
    RandAugment(3, 10),
    RandomErasing(1.0),
]
MOVES = ALL[:7]


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("change", ALL, ids=lambda change: type(change).__name__)
def test_a_pure_function(change, marked):
    before = marked.pixels.copy(), marked.boxes.copy(), marked.mask.copy()
    once, again, other = (change(marked, rng(seed)) for seed in (3, 3, 4))
    for name in ("pixels", "boxes", "labels", "mask"):
        assert np.array_equal(getattr(once, name), getattr(again, name))
        assert getattr(once, name).dtype == getattr(marked, name).dtype
    assert once.pixels.shape == other.pixels.shape and once.mask.shape == once.size
    pairs = zip(before, (marked.pixels, marked.boxes, marked.mask), strict=True)
    assert all(np.array_equal(was, now) for was, now in pairs)
    assert len({change(marked, rng(seed)).pixels.tobytes() for seed in range(20)}) > 1
    bare = change(Picture(marked.pixels), rng(3))  # boxes and mask decide nothing
    assert np.array_equal(bare.pixels, once.pixels) and bare.boxes is None and bare.mask is None
    dot = change(Picture(np.zeros((1, 1, 3), np.uint8)), rng(0))
    assert dot.pixels.dtype == np.uint8


@pytest.mark.parametrize("change", MOVES, ids=lambda change: type(change).__name__)
def test_box_and_mask_go_where_the_thing_goes(change, marked):
    seen = 0
    for seed in range(40):
        after = change(marked, rng(seed))
        assert after.boxes.dtype == np.float32 and len(after.boxes) == len(after.labels)
        height, width = after.size
        assert (after.boxes >= 0).all() and (after.boxes <= [width, height] * 2).all()
        thing = after.pixels[..., 0] > 157
        rows, columns = np.nonzero(after.mask == 1)
        if len(rows):  # its edge is smooth, so that a row of pixels may seem to belong to it or not
            edge = np.ptp(rows) + np.ptp(columns) + 4
            assert (thing != (after.mask == 1)).sum() <= edge
        if 1 in after.labels.tolist() and len(rows):
            seen += 1
            x0, y0, x1, y1 = after.boxes[after.labels.tolist().index(1)]
            tight = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert np.allclose([x0, y0, x1, y1], tight, atol=1.6)
        beyond = after.pixels[after.mask == VOID].astype(int)
        assert (np.abs(beyond - FILL) <= 1).sum() >= 0.9 * beyond.size
    assert seen > 20


def test_flips_are_numpys(marked):
    both = Flip(1.0, 1.0)(marked, rng(0))
    assert np.array_equal(both.pixels, marked.pixels[::-1, ::-1])
    assert both.boxes.tolist() == [[45, 20, 70, 40], [0, 0, 100, 60]]
    again = Flip(1.0, 1.0)(both, rng(1))
    assert np.array_equal(again.pixels, marked.pixels) and np.array_equal(again.boxes, marked.boxes)
    assert np.array_equal(Flip(0.0)(marked, rng(0)).pixels, marked.pixels)
    assert 60 < sum(Flip()(marked, rng(seed)).boxes[0, 0] == 45 for seed in range(160)) < 100


def test_a_crop_is_a_window_of_the_padded_picture(marked):
    padded = np.full((68, 108, 3), FILL, np.uint8)
    padded[4:-4, 4:-4] = marked.pixels
    windows = {padded[y : y + 60, x : x + 100].tobytes() for y in range(9) for x in range(9)}
    crops = {RandomCrop(4)(marked, rng(seed)).pixels.tobytes() for seed in range(600)}
    assert crops == windows


def test_boxes_that_are_nearly_gone_are_dropped(marked):
    whole = replace(marked, boxes=np.float32([[0, 0, 8, 8]]), labels=np.array([1]))
    for seed in range(100):
        after = RandomCrop(7)(whole, rng(seed))
        left = [(x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in after.boxes]
        assert all(area >= 16 for area in left)
    assert 0 < sum(len(RandomCrop(7)(whole, rng(seed)).boxes) for seed in range(100)) < 100


def test_areas_and_shapes_are_those_asked_for():
    wide = np.zeros((100, 200), np.int32) + np.arange(200) * 1000  # columns can be read off the mask
    picture = Picture(np.zeros((100, 200, 3), np.uint8), mask=wide + np.arange(100)[:, None])
    shares, shapes = [], []
    for seed in range(300):
        mask = RandomResizedCrop((0.2, 0.5), (0.5, 2.0), (64, 64))(picture, rng(seed)).mask
        rows, columns = mask % 1000, mask // 1000
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        shares.append(height * width / 20000)
        shapes.append(width / height)
    assert 0.18 < min(shares) < 0.23 and 0.47 < max(shares) < 0.53
    assert 0.48 < min(shapes) < 0.6 and 1.7 < max(shapes) < 2.15
    noise = [
        RandomErasing(1.0, (0.1, 0.2))(picture, rng(seed)).pixels.any(axis=2).mean() for seed in range(100)
    ]
    assert 0.08 < min(noise) < 0.12 and 0.18 < max(noise) < 0.22
    plain = [RandomErasing()(picture, rng(seed)).pixels.any() for seed in range(200)]
    assert 70 < sum(plain) < 130


def test_turns_as_pillow_does(marked):
    image = Image.fromarray(marked.pixels)
    theirs = np.asarray(image.rotate(17, Image.Resampling.BILINEAR, fillcolor=FILL)).astype(int)
    assert np.abs(turned(marked, 17.0).pixels - theirs).max() <= 1
    square = marked.cut(0, 20, 60, 60)
    right = turned(square, 90)
    assert np.abs(right.pixels - np.rot90(square.pixels).astype(int)).max() <= 1
    assert np.array_equal(right.mask, np.rot90(square.mask))
    assert np.allclose(right.boxes, [[20, 25, 40, 50], [0, 0, 60, 60]], atol=1e-4)
    shifted = moved(marked, np.eye(2), (10, -5))
    assert np.array_equal(shifted.pixels[:-5, 10:], marked.pixels[5:, :-10])
    assert np.allclose(shifted.boxes[0], [40, 15, 65, 35])


@pytest.mark.parametrize("seed", range(6))
def test_colours_are_pillows(seed):
    pixels = rng(seed).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    for name, kind in (("brightness", "Brightness"), ("contrast", "Contrast"), ("saturation", "Color")):
        only = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0, name: 0.7}
        mine = ColorJitter(**only)(Picture(pixels), rng(seed)).pixels.astype(int)
        place = ("brightness", "contrast", "saturation").index(name)
        factor = 1 + 0.7 * rng(seed).uniform(-1, 1, 4)[place]
        theirs = np.asarray(getattr(ImageEnhance, kind)(image).enhance(factor)).astype(int)
        assert np.array_equal(mine, theirs)
    assert np.array_equal(ColorJitter(0, 0, 0, 0)(Picture(pixels), rng(seed)).pixels, pixels)
    # The hue half round: red is cyan then, grey stays.
    two = Picture(np.uint8([[[255, 0, 0], [90, 90, 90]]]))
    turned_by = [ColorJitter(0, 0, 0, 0.5)(two, rng(n)).pixels for n in range(200)]
    assert any(np.abs(p[0, 0].astype(int) - [0, 255, 255]).max() < 12 for p in turned_by)
    assert all((p[0, 1] == 90).all() for p in turned_by)


def test_the_papers_fourteen(marked):
    """Each alone, at full strength, beside Pillow where it has the operation."""
    assert len(OPERATIONS) == 14
    pixels = rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    expected = {
        0: image,
        1: ImageOps.autocontrast(image),
        2: ImageOps.equalize(image),
        3: image.rotate(30, Image.Resampling.BILINEAR, fillcolor=FILL),
        4: ImageOps.invert(image),
        5: ImageOps.posterize(image, 4),
        **{
            6 + n: getattr(ImageEnhance, kind)(image).enhance(1.9)
            for n, kind in enumerate(("Color", "Contrast", "Brightness", "Sharpness"))
        },
    }
    for number, operation in enumerate(OPERATIONS):
        full = operation(Picture(pixels), 1.0).pixels.astype(int)
        if number in expected:
            assert np.abs(full - np.asarray(expected[number]).astype(int)).max() <= 1, number
        none = operation(Picture(pixels), 0.0).pixels
        assert np.array_equal(none, pixels) or number in {1, 2}, number  # two have no strength
        after = operation(marked, 1.0)
        still = number not in {3, 10, 11, 12, 13}
        assert np.array_equal(after.boxes, marked.boxes) == still, number
        assert np.array_equal(after.mask, marked.mask) == still, number
    for number, kind in ((6, "Color"), (8, "Brightness")):
        weak = getattr(ImageEnhance, kind)(image).enhance(0.1)
        assert np.array_equal(OPERATIONS[number](Picture(pixels), -1.0).pixels, np.asarray(weak))
    # A shear by 0.3 of the whole: its box is as much wider, and cut at the borders.
    assert np.allclose(OPERATIONS[10](marked, 1.0).boxes[0], [27, 20, 58, 40])
    assert np.allclose(OPERATIONS[12](marked, -1.0).boxes[0], [0, 20, 10, 40])


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: RandomResizedCrop((0.5, 0.1)), "`scale`"),
        (lambda: RandomResizedCrop(ratio=(0, 1)), "`ratio`"),
        (lambda: ScaleJitter((0, 2)), "`scale`"),
        (lambda: RandomErasing(ratio=3.0), "`ratio`"),
        (lambda: RandAugment(magnitude=11), "`magnitude`"),
        (lambda: ColorJitter(hue=0.7), "`hue`"),
    ],
)
def test_what_can_not_be(make, word):
    with pytest.raises(UserError, match=word):
        make()


def test_in_yaml_by_class_path(marked):
    parser = jsonargparse.ArgumentParser()
    parser.add_argument("--augment", type=list[Augmentation])
    given = """[{class_path: lm.data.images.augment.RandomCrop, init_args: {padding: 2}},
                {class_path: lm.data.images.augment.Flip},
                {class_path: lm.data.images.colours.RandAugment, init_args: {num_ops: 1}}]"""
    made = parser.instantiate(parser.parse_args([f"--augment={given}"])).augment
    assert made == [RandomCrop(2), Flip(), RandAugment(1)]


@pytest.mark.real_data
def test_real_pictures_stay_pictures(real_data):
    with tarfile.open(real_data / "cifar10/cifar10_subset.tar") as archive:
        members = [member for member in archive.getmembers() if member.isfile()][:40]
        pictures = [read_picture(archive.extractfile(member).read(), member.name) for member in members]
    for number, picture in enumerate(pictures):
        generator = rng(number)
        for change in (RandomCrop(4), Flip(), ColorJitter(), RandAugment(), RandomErasing()):
            changed = change(picture, generator)
            assert changed.pixels.shape == (32, 32, 3) and changed.pixels.dtype == np.uint8
