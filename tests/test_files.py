"""Files and folders appear whole or not at all."""

import pytest

from lm.files import atomic, atomic_folder, make_once, write_atomically


def test_a_file_is_replaced_when_it_is_whole_and_not_before(tmp_path):
    path = tmp_path / "a"
    write_atomically(path, "é")
    with pytest.raises(KeyError), atomic(path) as file:
        file.write(b"half")
        assert path.read_bytes() == "é".encode()
        raise KeyError
    assert path.read_bytes() == "é".encode() and list(tmp_path.iterdir()) == [path]
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new" and list(tmp_path.iterdir()) == [path]


def test_a_folder_gets_its_name_when_it_is_whole(tmp_path):
    folder = tmp_path / "deep" / "a"
    (tmp_path / "deep" / "a.partial").mkdir(parents=True)
    (tmp_path / "deep" / "a.partial" / "left").touch()  # by a process that was killed
    with pytest.raises(KeyError), atomic_folder(folder) as partial:
        (partial / "x").touch()
        raise KeyError
    assert not list(folder.parent.iterdir())
    with atomic_folder(folder) as partial:
        (partial / "x").touch()
        assert not folder.exists()
    assert [path.name for path in folder.iterdir()] == ["x"] and list(folder.parent.iterdir()) == [folder]


def test_a_folder_is_filled_once_and_an_empty_one_is_no_obstacle(tmp_path):
    folder = tmp_path / "a"
    folder.mkdir()
    assert make_once(folder, lambda partial: (partial / "x").touch(), "x")
    assert not make_once(folder, lambda partial: (partial / "y").touch(), "x")
    assert [path.name for path in folder.iterdir()] == ["x"]
    with pytest.raises(OSError, match="not empty"):  # a person's own
        make_once(folder, lambda partial: (partial / "y").touch(), "y")
    assert [path.name for path in folder.iterdir()] == ["x"]
    assert make_once(folder, lambda partial: (partial / "y").touch(), "y", renew=True)
    assert [path.name for path in folder.iterdir()] == ["y"]
