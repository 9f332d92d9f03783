"""Files of examples in folders, globs and archives."""

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile

import pytest

from lm.data.corpus.formats import mended
from lm.data.examples.files import File, Read, Skipped, read_alike, read_files
from lm.errors import UserError

MEMBERS = {"top/a/x.txt": b"1", "top/b/x.txt": b"2", "top/b/.hidden": b"-", "__MACOSX/x.txt": b"-"}


def make_tar(path, members, mode="w"):
    with tarfile.open(path, mode) as file:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return path


def make_zip(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return path


@pytest.fixture(params=["x.zip", "x.tar", "x.tar.gz", "x.tgz", "x.tar.xz", "x.txz", "x.tar.bz2", "x.tar.zst"])
def archive(request, tmp_path):
    path = tmp_path / request.param
    if path.suffix == ".zip":
        return make_zip(path, MEMBERS)
    plain = make_tar(tmp_path / "plain", MEMBERS).read_bytes()
    (tmp_path / "plain").unlink()
    packers = {"gz": gzip.compress, "xz": lzma.compress, "bz2": bz2.compress, "ar": bytes}
    if path.suffix == ".zst":
        packers["st"] = pytest.importorskip("backports.zstd").compress
    pack = next(pack for ending, pack in packers.items() if path.name.endswith(ending))
    path.write_bytes((gzip.compress if path.suffix == ".tgz" else pack)(plain))
    return path


def test_members_of_every_archive(archive):
    def read(member):
        return [(file.name, file.data) for file in read_files(f"{archive}{member}")]

    assert read("") == [("top/a/x.txt", b"1"), ("top/b/x.txt", b"2")]
    assert read("!a") == read("!top/a") == read("!top/a/") == read("!a/x.txt") == [("x.txt", b"1")]
    assert read("!top") == [("a/x.txt", b"1"), ("b/x.txt", b"2")]
    assert read("!b/*.txt") == [("top/b/x.txt", b"2")]
    (file,) = read_files(f"{archive}!b")
    assert file.where == f"{archive}!top/b/x.txt"
    with pytest.raises(UserError, match=r"there is no c in .*: it holds top/a/x.txt, top/b/x.txt"):
        read("!c")
    with pytest.raises(UserError, match=r"may mean top/a/x.txt or top/b/x.txt"):
        read("!x.txt")
    with pytest.raises(UserError, match=r"several files: name one, such as .*!top/a/x.txt or "):
        list(read_alike(str(archive), lambda name: True))


def test_an_archive_cut_short_or_something_else_is_named(archive):
    data = archive.read_bytes()
    for broken in (data[: len(data) // 4], b"no archive at all" * 100, b""):
        archive.write_bytes(broken)
        with pytest.raises(UserError, match=r"x\.[a-z0-9.]+ is (not|cut short)"):
            list(read_files(str(archive)))


@pytest.mark.parametrize("ending", ["tar", "tar.gz"])
def test_a_tar_cut_anywhere_is_named(tmp_path, ending):
    """tarfile takes a header that is cut short, or none, for the archive's end."""
    members = {f"{i}.txt": b"x" * size for i, size in enumerate((700, 0, 512, 5))}
    plain = make_tar(tmp_path / "plain", members).read_bytes()
    path = tmp_path / f"x.{ending}"
    whole = sum(512 + -(-len(data) // 512) * 512 for data in members.values())

    def names(size):
        path.write_bytes(gzip.compress(plain[:size]) if ending == "tar.gz" else plain[:size])
        return [file.name for file in read_files(str(path))]

    for size in range(0, whole + 512, 128):
        with pytest.raises(UserError, match=r"x\.tar(\.gz)? is not a tar file, or it is cut short"):
            names(size)
    for size in (whole + 512, whole + 1024, len(plain)):  # nothing but zeros is left out
        assert names(size) == list(members)
    plain = plain[:1536] + b"\x07" * 512 + plain[2048:]
    with pytest.raises(UserError, match="or it is cut short or damaged"):
        names(len(plain))


@pytest.mark.parametrize(
    "name, own, real",
    [
        ("imagenet-sample/imagenet_25.tar", 3, 25),
        ("fsdd/recordings.tar.gz", 3, 3000),
        ("cifar10/cifar10_subset.tar", 6, 12_000),
    ],
)
def test_tars_are_whole(sources, origin, name, own, real):
    assert sum(1 for _ in read_files(str(sources / name))) == {"own": own, "real": real}[origin]


def test_folders_globs_and_names_with_exclamation_marks(tmp_path):
    for name in ("b.txt", "a/c!d.txt", ".hidden/e.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    assert [file.name for file in read_files(str(tmp_path))] == ["a/c!d.txt", "b.txt"]
    assert [file.name for file in read_files(str(tmp_path / "*.txt"))] == ["b.txt"]
    assert [file.data for file in read_files(str(tmp_path / "a/c!d.txt"))] == [b"a/c!d.txt"]
    for path, message in (
        ("x.txt", "no such file or folder: .*x.txt"),
        ("x.zip!y", "no such file or folder: .*x.zip$"),
        ("b.txt!y", "b.txt is not a zip or tar archive"),
        ("*.csv", r"\*\.csv"),
    ):
        with pytest.raises(UserError, match=message):
            list(read_files(str(tmp_path / path)))
    with pytest.raises(UserError, match="nothing to read"):
        list(read_files(str(tmp_path), lambda name: False))


def test_halves_of_surrogate_pairs_are_replaced_and_whole_ones_joined():
    assert mended({"a\ud83d": ["\ud83d\ude00", "x\udc00y", 3]}) == {"a\ufffd": ["😀", "x\ufffdy", 3]}


def test_rows_are_counted_with_those_that_were_skipped():
    found = [Skipped("no content") if content == "-" else content for content in "--x-yz"]
    assert list(Read(found, "F")) == [(2, "x"), (4, "y"), (5, "z")]


def test_another_encoding_is_said_and_what_to_do_if_it_is_wrong(capsys):
    assert (
        File("a.csv", "a.csv", io.BytesIO("很不错，下次再来".encode("gb18030"))).text() == "很不错，下次再来"
    )
    said = "a.csv is not UTF-8; it was read as gb18030: convert it to UTF-8 if that is wrong"
    assert capsys.readouterr().err == f"warning: {said}\n"


def test_nothing_usable_says_why():
    read = Read(map(Skipped, "bab"), "F")
    with pytest.raises(UserError, match=r"nothing can be used in F: b \(2\), a \(1\)"):
        list(read)
    assert read.skipped == {"b": 2, "a": 1}
