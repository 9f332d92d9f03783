import gzip
import io
import tarfile
import zipfile

import pytest

from lm.data.media.places import Place, places
from lm.errors import UserError

FILES = {"a/1.bin": b"one", "a/2.bin": b"", "b/3.bin": b"three" * 400, "b/note.txt": b"no"}


def binary(name: str) -> bool:
    return name.endswith(".bin")


def packed(path, mode="w"):
    with tarfile.open(path, mode) as archive:
        for name, data in FILES.items():
            info = tarfile.TarInfo(f"top/{name}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


@pytest.fixture(params=["folder", "tar", "tar.gz", "zip"])
def place(request, tmp_path):
    """The files in a folder or an archive, below a folder `top`."""
    if request.param == "folder":
        for name, data in FILES.items():
            (tmp_path / "top" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "top" / name).write_bytes(data)
        return f"{tmp_path}/top"
    if request.param == "zip":
        with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in FILES.items():
                archive.writestr(f"top/{name}", data)
        return f"{tmp_path}/x.zip!top"
    mode = "w:gz" if request.param.endswith("gz") else "w"
    return f"{packed(tmp_path / f'x.{request.param}', mode)}!top"


def test_every_packing_has_the_same_files_with_the_same_bytes(place, tmp_path):
    found = list(places(place, binary, tmp_path / "plain"))
    assert {each.name: each.read() for each in found} == {k: v for k, v in FILES.items() if binary(k)}
    assert [each.name for each in found] == ["a/1.bin", "a/2.bin", "b/3.bin"]
    assert [Place(*each) for each in map(list, found)] == found  # as rows of JSON have them
    assert "b/3.bin" in found[-1].where


def test_a_compressed_archive_is_copied_once(tmp_path):
    archive = packed(tmp_path / "x.tar.gz", "w:gz")
    first = list(places(f"{archive}!top/b", binary, tmp_path / "plain"))
    (copy,) = (tmp_path / "plain").iterdir()
    written = copy.stat().st_mtime_ns
    assert list(places(f"{archive}!top/b", binary, tmp_path / "plain")) == first
    assert copy.stat().st_mtime_ns == written and [each.read() for each in first] == [FILES["b/3.bin"]]


def test_a_damaged_member_of_an_archive_is_an_error_of_its_own(tmp_path):
    for kind in (zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2):
        path = tmp_path / f"{kind}.zip"
        with zipfile.ZipFile(path, "w", kind) as archive:
            for name in ("a.bin", "b.bin"):
                archive.writestr(name, bytes(range(256)) * 20)
        raw = bytearray(path.read_bytes())
        raw[35:60] = b"\xff" * 25  # a header of 30 bytes and a name of 5 come first
        path.write_bytes(raw)
        damaged, whole = places(str(path), binary, tmp_path)
        with pytest.raises(UserError, match=r"cannot read .*zip!a\.bin"):
            damaged.read()
        assert whole.read() == bytes(range(256)) * 20


def test_what_is_not_there_or_damaged_is_said(tmp_path):
    whole = packed(tmp_path / "x.tar").read_bytes()
    noise = b"".join(n.to_bytes(3) for n in range(1 << 18))
    wrong = gzip.compress(whole[: 512 * 6] + noise)[:100_000] + b"\xff" * 1000  # blocks of no kind
    for name, content, words in (
        ("none", None, "no such file|nothing to read"),
        ("text.tar", b"no archive at all" * 100, "is not a tar file"),
        ("short.zip", b"PK\3\4 cut", "can't be read: is it whole"),
        ("wrong.tar.gz", wrong, "is cut short or damaged"),
        ("short.tar.gz", b"\x1f\x8b\x08\0\0\0", "can't be read: is it whole"),
    ):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=words):
            list(places(str(tmp_path / name), binary, tmp_path / "plain"))
    (gone,) = places(f"{tmp_path}/x.tar!top/a/1.bin", lambda name: True, tmp_path)
    assert gone.read() == b"one"
    (tmp_path / "x.tar").unlink()
    with pytest.raises(UserError, match=r"cannot read .*x.tar!top/a/1.bin|cannot read .*1.bin"):
        gone.read()
    (tmp_path / "cut.tar").write_bytes(whole[: 512 * 5])
    with pytest.raises(UserError, match="can't be read"):
        list(places(str(tmp_path / "cut.tar"), binary, tmp_path))
