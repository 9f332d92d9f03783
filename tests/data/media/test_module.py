"""Files by their groups and parts: who is learned from and who is not, and what is said of the rest."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lm.data.images.module import ImageData
from lm.errors import UserError

NAMES = ("ann", "bob", "cat", "dan", "eve", "fay")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Six people with six pictures each, of which one in a class of its own: `pics`, and a table `t.csv`."""
    rows, rng = ["path,label,part,who"], np.random.default_rng(0)
    for name in NAMES:
        for number in range(6):
            label = "xy"[number % 2] if number or name not in "bob dan" else f"only {name}"
            path = tmp_path / "pics" / label / f"{name}_{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(path)
            rows.append(f"{label}/{path.name},{label},{('train', 'test')[number % 2]},{name}")
    (tmp_path / "t.csv").write_text("\n".join(rows))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def groups(data, split):
    return {example.group for example in data.examples(split)}


def test_a_rare_label_moves_its_whole_group(folder):
    moved = 0
    for fraction in (0.3, 0.4, 0.5, 0.6):
        data = ImageData("pics", size=8, group_from=r"(\w+)_\d", val_fraction=fraction)
        data.examples("val")
        before = groups(data, "val")
        data.give_back_rare(lambda example: (example.label,))
        assert groups(data, "train").isdisjoint(groups(data, "val"))
        assert groups(data, "train") | groups(data, "val") == {*NAMES}
        moved += groups(data, "val") != before
    assert moved


def test_groups_for_the_test_that_nobody_is_of(folder):
    with pytest.raises(UserError, match="pics has no anne, but ann, bob, cat"):
        ImageData("pics", size=8, group_from=r"(\w+)_\d", test_groups=["anne", "bob"]).examples("train")
    with pytest.raises(UserError, match="neither `group` nor `group_from`"):
        ImageData("pics", size=8, test_groups=["ann"])
    data = ImageData("pics", size=8, group_from=r"(\w+)_\d", test_groups=["ann"])
    assert groups(data, "test") == {"ann"} and "ann" not in groups(data, "train") | groups(data, "val")


def test_parts_that_share_their_groups_or_are_the_same_are_said(folder, capsys):
    data = ImageData("t.csv", test="t.csv", files="pics", part="part", group="who", size=8)
    data.compare_splits()
    said = capsys.readouterr().err
    shared = groups(data, "train") & groups(data, "test")
    assert len(shared) > 1 and f"warning: {len(shared)} groups stand in train and test, such as " in said
    assert "groups stand in train and val" not in said and "examples" not in said
    twice = ImageData("pics", val="pics", size=8)
    twice.compare_splits()
    said = capsys.readouterr().err
    assert "36 examples of pics stand in pics too" in said and "groups" not in said


def test_damaged_members_of_an_archive_are_counted_and_left_out(folder, capsys):
    files = sorted((folder / "pics").rglob("*.png"))
    with zipfile.ZipFile("pics.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for file in files:
            archive.write(file, file.relative_to(folder / "pics"))
        damaged = archive.infolist()[3:5]
    raw = bytearray(Path("pics.zip").read_bytes())
    for member in damaged:
        start = member.header_offset + 30 + len(member.filename)
        raw[start : start + 20] = b"\xff" * 20
    Path("pics.zip").write_bytes(raw)
    data = ImageData("pics.zip", size=8, val_fraction=0.5)
    assert len(data.examples("train")) + len(data.examples("val")) == len(files) - 2
    assert "2 skipped: cannot read: Error -3 while decompressing" in capsys.readouterr().err


def test_rows_of_other_parts_are_counted(folder, capsys):
    table = (folder / "t.csv").read_text().replace(",train,", ",training,", 3).replace(",test,", ",dev,", 2)
    (folder / "t.csv").write_text(table)
    data = ImageData("t.csv", files="pics", part="part", size=8)
    assert len(data.examples("train")) + len(data.examples("val")) == 15
    said = capsys.readouterr().err
    words = "rows whose `part` is not train, val or test but 'training' (3), 'dev' (2)"
    assert f"5 skipped: {words}" in said
