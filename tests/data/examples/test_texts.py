"""Texts with labels, from tables and from folders of classes."""

import io
import shutil
import tarfile
from collections import Counter

import pytest

from lm.data.examples import texts
from lm.data.examples.files import Read
from lm.data.examples.records import TextExample
from lm.errors import UserError


def read_texts(path, *args, **options):
    read = Read(texts.read_texts(path, *args, **options), path)
    assert read.examples
    return read


@pytest.fixture
def write(tmp_path):
    def write(text, name="f.jsonl"):
        (tmp_path / name).write_text(text, encoding="utf-8")
        return str(tmp_path / name)

    return write


def labels(path, **options):
    return [example.label for example in read_texts(path, **options).examples]


def test_columns_are_chosen_by_name(write):
    path = write("id,q,a,stars\n1,why?,so,4.5\n2,,x,1\n3,y, ,1\n", "f.csv")
    read = read_texts(path, "q", "a", "stars", rating=True)
    assert read.examples == [TextExample("why?", "so", 4.5)]
    assert read.skipped == {"empty text": 1, "empty second text": 1}
    assert read_texts(path, "id", label=None).examples[0] == TextExample("1", None, None)


def test_labels_are_names_whatever_is_in_the_file(write):
    rows = '{"text": "a", "label": %s}\n'
    found = ("1", '"1"', "1.0", "true", '" x "', "0.5")
    assert labels(write("".join(rows % label for label in found))) == ["1", "1", "1", "true", "x", "0.5"]


def test_missing_labels_are_skipped_or_kept(write):
    path = write('{"text": "a"}\n{"text": "b", "label": null}\n{"text": "c", "label": ""}\n'
                 '{"text": "d", "label": NaN}\n{"text": "e", "label": 0}\n')  # fmt: skip
    read = read_texts(path)
    assert (read.examples, read.skipped) == ([TextExample("e", None, "0")], {"no label": 4})
    kept = read_texts(path, labelled=False)
    assert ([example.label for example in kept.examples], kept.skipped) == ([None, None, None, None, "0"], {})
    nothing = write('{"text": "a", "label": ""}\n')
    with pytest.raises(UserError, match=r"nothing can be used in .*f\.jsonl: no label \(1\)"):
        read_texts(nothing)


def test_several_labels(write):
    path = write('{"text": "a", "label": ["x", "y", "x"]}\n{"text": "b", "label": []}\n'
                 '{"text": "c", "label": "z"}\n{"text": "d", "label": null}\n')  # fmt: skip
    assert labels(path, labelled=False) == [("x", "y"), (), ("z",), None]
    path = write("text,label\na,x; y\nb,\nc,z;\n", "f.csv")
    assert labels(path, separator=";") == [("x", "y"), (), ("z",)]


def test_ratings(write):
    assert labels(write("text,label\na,3\nb,-0.5\nc,\n", "f.csv"), rating=True) == [3.0, -0.5]
    for bad in ("good", "nan", "inf", "1,5"):
        path = write(f"text\tlabel\na\t1\nb\t{bad}\n", "f.tsv")
        with pytest.raises(UserError, match=rf"f\.tsv:3: the rating '{bad}' is not a number"):
            read_texts(path, rating=True)
    with pytest.raises(UserError, match="the rating True is not a number"):
        read_texts(write('{"text": "a", "label": true}'), rating=True)


def test_label_names(write):
    names = {0: "bad", "1": "good"}
    path = write('{"text": "a", "label": 0}\n{"text": "b", "label": "1"}\n{"text": "c", "label": [1, 0]}\n')
    assert labels(path, label_names=names) == [("bad",), ("good",), ("good", "bad")]
    with pytest.raises(UserError, match=r"f\.jsonl:1: the label '2' is not in label_names: 0, 1"):
        read_texts(write('{"text": "a", "label": 2}'), label_names=names)


@pytest.mark.parametrize("name", ["f.csv", "f.tsv", "f.jsonl"])
def test_a_missing_column_is_named_with_those_there_are(write, name):
    texts = {"f.csv": "a,b\n1,2\n", "f.tsv": "a\tb\n1\t2\n", "f.jsonl": '{"a": "1", "b": "2"}\n'}
    path = write(texts[name], name)
    for options, missing in (({}, "text"), ({"text": "a"}, "label"), ({"text": "a", "pair": "c"}, "c")):
        with pytest.raises(UserError, match=rf"there is no column '{missing}' in .*{name}.*: it has a, b"):
            read_texts(path, **options)
    assert len(read_texts(path, "a", labelled=False).examples) == 1


def test_what_is_no_text_or_label_is_refused(write):
    for row, message in (
        ('{"text": ["a"], "label": 1}', r"f\.jsonl:1: the column 'text' is not text: \['a'\]"),
        ('{"text": "a", "label": {"b": 1}}', r"f\.jsonl:1: the label \{'b': 1\} is neither"),
        ('{"text": "a", "label": [["b"]]}', r"f\.jsonl:1: the label \['b'\] is neither"),
    ):
        with pytest.raises(UserError, match=message):
            read_texts(write(row))


REVIEWS = {
    "data/set/README": "not a review",
    "data/set/train/urls.txt": "not a review",
    "data/set/train/neg/0_2.txt": "Bad.<br /><br />Really<br/>bad.",
    "data/set/train/neg/10_1.txt": "  \n",
    "data/set/train/pos/1_9.txt": "Gut, sehr schön.",
    "data/set/train/unsup/1_0.txt": "Who knows",
    "data/set/test/pos/2_9.txt": "Fine.",
    "data/set/test/neg/2_1.txt": "Poor.",
}
TRAIN = [TextExample("Bad.\n\nReally\nbad.", None, "neg"), TextExample("Gut, sehr schön.", None, "pos")]


@pytest.fixture(params=["folder", "tar"])
def reviews(request, tmp_path):
    """A set of reviews laid out as IMDB's; the mark that stands before a part of it."""
    files = dict(reversed(REVIEWS.items()))  # an archive's order is none
    if request.param == "folder":
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(text.encode("latin-1"))
        return f"{tmp_path}", "/data/set/"
    with tarfile.open(tmp_path / "r.tar.xz", "w:xz") as file:
        for name, text in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(text.encode("latin-1"))
            file.addfile(info, io.BytesIO(text.encode("latin-1")))
    return f"{tmp_path / 'r.tar.xz'}", "!"


def test_a_folder_for_each_class(reviews, capsys):
    path, mark = reviews
    read = read_texts(f"{path}{mark}train")
    assert read.examples == TRAIN
    assert read.skipped == {"empty text": 1, "no label": 1}
    assert "1_9.txt is not UTF-8" in capsys.readouterr().err
    assert labels(f"{path}{mark}test", label_names={"pos": "+", "neg": "-"}) == ["-", "+"]
    assert labels(f"{path}{mark}train", labelled=False) == ["neg", "pos", None]


def test_which_set_of_classes_has_to_be_said(reviews):
    path, mark = reviews
    with pytest.raises(UserError, match=r"several sets of classes: give one, such as .*[/!]data/set/test"):
        read_texts(path)
    with pytest.raises(UserError, match=r"(no such file or folder: |there is no )\S*trian"):
        read_texts(f"{path}{mark}trian")
    with pytest.raises(UserError, match="neither tables nor a folder of texts for each class"):
        read_texts(f"{path}{mark}train/pos")


def test_a_folder_of_tables_is_no_folder_of_classes(tmp_path):
    (tmp_path / "README.md").write_text("about")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "b.csv").write_text("text,label\nb,1\n")
    (tmp_path / "data" / "a.csv").write_text("text,label\na,0\n")
    assert labels(str(tmp_path)) == ["0", "1"]


def test_an_index_beside_folders_of_classes(tmp_path):
    for name in ("pos", "neg"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.txt").write_text(name)
    (tmp_path / "index.csv").write_text("text,label\na,0\n")
    assert labels(str(tmp_path)) == ["neg", "pos"]
    for name in ("pos", "neg"):  # pictures, of which the table tells
        (tmp_path / name / "1.txt").write_bytes(bytes(range(256)))
    assert labels(str(tmp_path)) == ["0"]


@pytest.mark.parametrize("ending", ["zip", "tar"])
def test_a_folder_in_an_archive_may_have_a_dot_in_its_name(tmp_path, ending):
    for name in (
        "c_v1.0/set/pos/1.txt",
        "c_v1.0/set/neg/2.txt",
        "t_v1.0/a.csv",
        "t_v1.0/about.md",
        "u/b.data",
    ):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_text("text\tlabel\nb\t1\n" if "data" in name else "text,label\na,0\n")
    archive = shutil.make_archive(str(tmp_path / "x"), ending, tmp_path / "in")
    assert labels(f"{archive}!c_v1.0") == ["neg", "pos"]
    assert labels(f"{archive}!t_v1.0") == ["0"]
    assert labels(f"{archive}!b.data") == ["1"]
    with pytest.raises(UserError, match=r"there is no d_v1\.0 in"):
        labels(f"{archive}!d_v1.0")


@pytest.mark.parametrize("part, own, real", [("train", 6, 6920), ("dev", 3, 872), ("test", 2, 1821)])
def test_sst2(sources, origin, part, own, real):
    read = read_texts(str(sources / f"sst2/{part}.tsv"), columns=["label", "text"])
    assert (len(read.examples), read.skipped) == ({"own": own, "real": real}[origin], {})
    assert {example.label for example in read.examples} == {"0", "1"}


@pytest.mark.parametrize(
    "part, own, real", [("train_few_all", 6, 1185), ("dev_few_all", 3, 1098), ("test_public", 3, 2010)]
)
def test_tnews_is_json_lines_in_a_json_file(sources, origin, part, own, real):
    read = read_texts(str(sources / f"fewclue-tnews/{part}.json"), "sentence", label="label_desc")
    assert (len(read.examples), read.skipped) == ({"own": own, "real": real}[origin], {})
    assert len({example.label for example in read.examples}) == {"own": 3, "real": 15}[origin]


def test_crows_pairs(sources, origin):
    path = str(sources / "crows-pairs/crows_pairs_anonymized.csv")
    examples = read_texts(path, "sent_more", "sent_less", "bias_type").examples
    assert len(examples) == {"own": 3, "real": 1508}[origin]


def test_a_part_of_imdb_inside_its_tar(sources, origin):
    read = read_texts(str(sources / "imdb/aclImdb.tar.xz!val"))
    count = {"own": 2, "real": 2500}[origin]
    assert Counter(example.label for example in read.examples) == {"neg": count, "pos": count}
    assert not any("<br" in example.text for example in read.examples)
    first = read.examples[0]
    assert read.skipped == {}
    assert first.label == "neg"
