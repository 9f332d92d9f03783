"""COCO's outlines as masks: by hand, and runs compressed by the format's rule."""

import numpy as np
import pytest

from lm.data.images.masks import label_map, thing_mask
from lm.errors import UserError


def compressed(counts: list[int]) -> str:
    """COCO's compressed runs, from its description: from the fourth run on the difference to the one two
    before; five bits a character, the lowest first, a sixth where more follow."""
    text = ""
    for place, count in enumerate(counts):
        value = count - counts[place - 2] if place > 2 else count
        more = True
        while more:
            bits = value & 31
            value >>= 5
            more = value != (-1 if bits & 16 else 0)
            text += chr(48 + (bits | 32 if more else bits))
    return text


def test_runs_go_down_the_columns():
    expected = np.array([[0, 1, 0, 0], [0, 1, 1, 0], [1, 0, 1, 0]], dtype=bool)
    counts = [2, 3, 2, 2, 3]
    for runs in (counts, compressed(counts), compressed(counts).encode()):
        mask = thing_mask({"size": [3, 4], "counts": runs}, 3, 4)
        assert mask.dtype == bool and np.array_equal(mask, expected)
    rng = np.random.default_rng(0)
    for _ in range(20):
        mask = np.kron(rng.random((8, 9)) < 0.5, np.ones((6, 5))).astype(bool)
        flat = mask.T.ravel()
        borders = np.flatnonzero(np.diff(np.concatenate([[False], flat]))).tolist()
        runs = np.diff([0, *borders, flat.size]).tolist()
        for counts in (runs, compressed(runs)):
            assert np.array_equal(thing_mask({"size": [48, 45], "counts": counts}, 48, 45), mask)


def test_polygons_cover_their_area():
    square = [10, 5, 30, 5, 30, 25, 10, 25]
    mask = thing_mask([square], 40, 50)
    assert mask[5:25, 10:30].all() and mask.sum() == 400
    both = thing_mask([square, [0, 30, 10, 30, 10, 40, 0, 40]], 40, 50)
    assert both.sum() == 500 and both[35, 5]
    triangle = thing_mask([[0, 0, 40, 0, 0, 40]], 40, 40)
    assert abs(triangle.sum() - 800) < 45
    assert thing_mask([], 4, 4).sum() == 0
    assert thing_mask([[-10, -10, 100, -10, 100, 100, -10, 100]], 20, 30).all()  # beyond the picture


def test_the_smallest_lies_on_top():
    whole, inner = [0, 0, 20, 0, 20, 10, 0, 10], [5, 2, 9, 2, 9, 6, 5, 6]
    for order in ((0, 1), (1, 0)):
        outlines, labels = ([[whole]], 3), ([[inner]], 300)
        things = [(outlines, labels)[n] for n in order]
        labelled = label_map([o for (o,), _ in things], [c for _, c in things], 12, 20, background=9)
        assert labelled.dtype == np.int32 and (labelled[10:] == 9).all()
        assert (labelled == 300).sum() == 16 and (labelled == 3).sum() == 184
    assert (label_map([], [], 2, 3, background=255) == 255).all()


@pytest.mark.parametrize(
    ("outline", "said"),
    [
        ("words", "an outline is a list of polygons"),
        (None, "an outline is a list of polygons"),
        ([[1, 2, 3, 4]], "three points"),
        ([[1, 2, 3, 4, 5, 6, 7]], "three points"),
        ({"size": [3, 5], "counts": [15]}, r"a mask of \[3, 5\] pixels for a picture of 3 by 4"),
        ({"size": [3, 4], "counts": [5, 2]}, "for a picture of 3 by 4"),
        ({"counts": [12]}, "an outline is"),
        ({"size": [3, 4], "counts": "~~~~"}, "no outline in a picture of 3 by 4"),
        ({"size": [3, 4], "counts": compressed([2, 100])}, "no outline"),
        ({"size": [3, 4], "counts": compressed([2, 3])}, "no outline"),
        ({"size": [3, 4], "counts": "garbage"}, "no outline"),
        ({"size": [3, 4], "counts": [16, -4]}, "no outline"),
        ({"size": [3, 4], "counts": ["a", 4]}, "no outline"),
        ({"size": 3, "counts": [12]}, "no outline"),
        ({"size": [3, 4], "counts": None}, "no outline"),
        ({"size": [3, 4], "counts": 12}, "no outline"),
        ({"size": [3, 4], "counts": [12.5, -0.5]}, "no outline"),
        ([3, 4], "no outline"),
        ([["0", "0", "3", "0", "3", "3"]], "no outline"),
        ([[0, 0, float("nan"), 0, 3, 3]], "three points"),
        ([[0, 0, 1e300, 0, 3, 3]], "three points"),
    ],
)
def test_what_is_no_outline(outline, said):
    with pytest.raises(UserError, match=said):
        thing_mask(outline, 3, 4)
