"""Sounds out of folders and tables: which there are, whose, how long."""

import io
import tarfile
import tracemalloc

import numpy as np
import pytest

from lm.data.audio.joining import strings
from lm.data.audio.module import AudioData, AudioExample, SpeechData, SpeechExample
from lm.errors import UserError
from lm.processors.speech import SoundProcessor

soundfile = pytest.importorskip("soundfile")


def sound(seconds: float, number: int = 0, kind: str = "FLAC") -> bytes:
    file, rng = io.BytesIO(), np.random.default_rng(number)
    soundfile.write(file, 0.1 * rng.standard_normal(round(8000 * seconds)), 8000, format=kind)
    return file.getvalue()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An archive: two kinds of sounds by four people."""
    with tarfile.open(tmp_path / "sounds.tar", "w") as archive:
        for kind in ("dog", "cat"):
            for number in range(8):
                data = sound(0.5 + number / 10, number + 8 * (kind == "dog"))
                info = tarfile.TarInfo(f"all/{kind}/{'abcd'[number % 4]}{number}.flac")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_folders_by_class_with_groups_that_stay_together(folder):
    data = AudioData(
        "sounds.tar!all", group_from=r"([a-d])\d\.flac$", test_groups=["b"], rate=8000, seconds=1
    )
    parts = {part: data.examples(part) for part in ("train", "val", "test")}
    assert sum(map(len, parts.values())) == 16 and {e.group for e in parts["test"]} == {"b"}
    assert {e.group for e in parts["train"]}.isdisjoint(e.group for e in parts["val"])
    assert {e.label for e in parts["train"]} == {"dog", "cat"}
    lengths = {e.place.name: e.seconds for part in parts.values() for e in part}
    assert lengths["cat/b5.flac"] == 1.0 and lengths["dog/a0.flac"] == 0.5
    # The rate that is asked for changes nothing of how long a sound is.
    assert AudioData("sounds.tar!all", rate=16000).examples("val")[0].seconds in lengths.values()


def test_a_long_sound_is_looked_at_in_pieces():
    file = io.BytesIO()
    soundfile.write(file, np.zeros(8000 * 1200, np.int16), 8000, format="FLAC")
    tracemalloc.start()
    found = AudioData("a", rate=8000, seconds=1).look(file.getvalue(), "a.flac")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found == {"seconds": 1200} and peak < 16 << 20  # of 38 MB


def test_a_table_of_one_part_each_with_names_made_of_columns(folder):
    rows = ["id,kind,who,what is said,part"]
    rows += [
        f"{'abcd'[n % 4]}{n},cat,{'abcd'[n % 4]},word {n},{'train' if n < 5 else 'test'}" for n in range(8)
    ]
    (folder / "t.csv").write_text("\n".join(rows))
    data = SpeechData(
        "t.csv",
        test="t.csv",
        files="sounds.tar!all",
        path="{kind}/{id}.flac",
        part="part",
        text="what is said",
        val="t.csv",
    )
    assert [e.label for e in data.examples("train")] == [f"word {n}" for n in range(5)]
    assert [e.place.name for e in data.examples("test")] == ["cat/b5.flac", "cat/c6.flac", "cat/d7.flac"]
    with pytest.raises(UserError, match=r"nothing can be used in t\.csv"):
        data.examples("val")


def test_the_processor_is_that_of_the_data_or_of_the_start():
    data = AudioData("x", rate=8000, bins=40, seconds=2, norm="utterance")
    made = data.make_processor()
    assert made == SoundProcessor(8000, 40, 200, 80, norm="utterance", seconds=2.0)
    start = SoundProcessor(seconds=30)
    assert data.make_processor(start) == SoundProcessor(seconds=2)
    assert AudioData("x").make_processor(start) == start
    with pytest.raises(UserError, match="`seconds` is 40: the model hears 30 at most"):
        AudioData("x", seconds=40).make_processor(start)
    with pytest.raises(UserError, match="`seconds` is not given"):
        AudioData("x").make_processor()


def test_what_is_measured_by_is_compared_before_it_is_joined(capsys):
    examples = [SpeechExample(("p", f"{n}"), f"{n}", f"{n}", "xyyy"[n % 4], 1.0) for n in range(12)]
    data = SpeechData("x.csv", val="y.csv", test="z.csv", joined=(4, 7))
    for split in ("train", "val", "test"):
        data.put(split, examples)
    data.compare_splits()
    said = capsys.readouterr().err
    assert "12 examples of y.csv stand in x.csv too" in said
    assert "2 groups stand in train and val, such as x" in said
    assert "2 groups stand in train and test" in said
    assert len(data.examples("test")) in {1, 2}
    assert "z.csv: 3 recordings are of groups too small to be joined" in capsys.readouterr().err
    few = SpeechData("x.csv", val="y.csv", joined=(10, 12))
    few.put("val", examples)
    with pytest.raises(UserError, match=r"y\.csv: no group has 10 recordings"):
        few.examples("val")


def test_strings_are_of_one_group_and_use_each_once():
    examples = [AudioExample(("p", str(n)), str(n), label=str(n), group="xyz"[n % 3]) for n in range(40)]
    made = list(strings(examples, (2, 4), np.random.default_rng(0)))
    used = [each.digest for chosen, _ in made for each in chosen]
    assert len(used) == len(set(used)) >= 37
    for chosen, pauses in made:
        assert 2 <= len(chosen) <= 4 and len({each.group for each in chosen}) == 1
        assert len(pauses) == len(chosen) and all(0 < pause < 1 for pause in pauses)
    assert {len(chosen) for chosen, _ in made} == {2, 3, 4}
