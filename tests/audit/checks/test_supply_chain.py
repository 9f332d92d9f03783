"""What lies in a model's files, and what could run, is named; so is what it was made from."""

import gzip
import hashlib
import json
import os
import pickle
import zipfile
from collections import OrderedDict
from types import SimpleNamespace

import pytest
import torch

import lm as package
from lm import checkpoint as checkpoints
from lm.audit.checks.pickles import allowed, asked_for, inside
from lm.audit.checks.supply_chain import SupplyChain
from lm.audit.subject import Subject
from lm.backbone import BackboneConfig, LanguageModel
from lm.convert.export import export_folder
from lm.convert.models import fingerprint
from lm.errors import UserError
from lm.predictor import load

CONFIG = {"hidden_size": 32, "num_layers": 1, "num_heads": 2, "max_seq_len": 32}


class Evil:
    """Runs a command where it is unpickled."""

    def __reduce__(self):
        return os.system, ("true",)


@pytest.fixture
def run(tokenizer, tmp_path):
    """Writes a checkpoint of a GPT: `run("name", init_from=…)`."""

    def write(name: str, weight: float | None = None, **more):
        torch.manual_seed(0)
        config = BackboneConfig(vocab_size=tokenizer.vocab_size, **CONFIG)
        state = LanguageModel(config).state_dict()
        state = {f"net.{key}": value for key, value in state.items()}
        if weight is not None:
            state["net.backbone.embeddings.tokens.weight"][3, 5:7] = weight
        record = checkpoints.make_record("lm.tasks.CausalPretraining", config, tokenizer)
        path = tmp_path / name / "best.ckpt"
        checkpoints.write({"state_dict": state, "global_step": 1, "lm": {**record, **more}}, path)
        return path

    return write


def audited(path, corpus=None):
    return SupplyChain().run(Subject(load(path), corpus))


def rows(found, title):
    return next(table.rows for table in found.tables if table.title.startswith(title))


def values(found):
    return {name: figure.value for name, figure in found.figures.items()}


def test_a_checkpoint_of_lm(run, tokenizer):
    path = run("clean")
    found = audited(path)
    assert values(found) == dict.fromkeys(
        ("pickled_globals", "foreign_code_files", "non_finite_weights", "damaged_files", "lost_ancestors"), 0
    )
    (file,) = rows(found, "Files")
    assert file["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (file["file"], file["what"], file["remarks"]) == ("best.ckpt", "torch's archive", "")
    facts = {row["what"]: row["which"] for row in rows(found, "Where it comes from")}
    assert facts["tokenizer"] == tokenizer.fingerprint
    assert facts["written by"] == f"lm {package.__version__}"
    assert facts["weights, shape and tokenizer"] == checkpoints.identity(load(path).model)
    assert any("is not known" in note for note in found.notes)


def test_weights_that_are_not_finite_are_counted(run):
    found = audited(run("bad", weight=float("nan")))
    assert found.figures["non_finite_weights"].value == 2
    assert "backbone.embeddings.tokens.weight" in found.figures["non_finite_weights"].what
    assert audited(run("bad", weight=float("inf"))).figures["non_finite_weights"].value == 2


def test_a_tensor_that_is_not_what_was_written(run):
    path = run("damaged")
    with zipfile.ZipFile(path) as archive:
        largest = max(archive.infolist(), key=lambda member: member.file_size)
    data = bytearray(path.read_bytes())
    data[largest.header_offset + largest.file_size // 2] ^= 1
    subject = Subject(load(run("damaged")))  # opened while it was whole
    path.write_bytes(data)
    found = SupplyChain().run(subject)
    assert found.figures["damaged_files"].value == 1
    assert any("another checksum" in note for note in found.notes)


def test_what_is_planted_into_a_folder_is_named(run, tmp_path):
    folder = tmp_path / "hf"
    export_folder(load(run("clean")).model, folder)
    clean = audited(folder)
    assert values(clean)["pickled_globals"] == values(clean)["foreign_code_files"] == 0

    (folder / "training_args.bin").write_bytes(pickle.dumps(Evil()))
    (folder / "old.bin").write_bytes(pickle.dumps(Evil(), protocol=0))
    torch.save({"weight": torch.ones(2), "other": Evil()}, folder / "optimizer.pt")
    torch.save(OrderedDict(weight=torch.ones(2, dtype=torch.bfloat16)), folder / "pytorch_model.bin")
    (folder / "modeling.py").write_text("import os\n")
    (folder / "notes.bin").write_text("nothing but words\n")
    described = json.loads((folder / "tokenizer_config.json").read_text())
    described["auto_map"] = {"AutoTokenizer": ["modeling.Mine", None]}
    (folder / "tokenizer_config.json").write_text(json.dumps(described))
    (folder / "deep").mkdir()
    (folder / "deep/readme.txt").write_bytes(b"\x80\x04" + pickle.dumps(Evil(), protocol=4)[2:])
    found = audited(folder)
    what = {row["file"]: row for row in rows(found, "Files")}
    system = f"{os.system.__module__}.system"
    for name in ("training_args.bin", "old.bin", "optimizer.pt", "deep/readme.txt"):
        assert system in what[name]["remarks"] and "could run code" in what[name]["remarks"], name
    assert found.figures["pickled_globals"].value == 4
    assert what["pytorch_model.bin"]["remarks"] == what["notes.bin"]["remarks"] == ""
    assert "auto_map" in what["tokenizer_config.json"]["what"]
    wrong = {"training_args.bin", "old.bin", "optimizer.pt", "deep/readme.txt", "modeling.py"}
    wrong |= {"tokenizer_config.json"}
    assert {row["file"] for row in found.examples} == wrong
    assert found.figures["foreign_code_files"].value == len(wrong)
    for name in ("pytorch_model.bin", "optimizer.pt"):  # torch itself says the same
        theirs = torch.serialization.get_unsafe_globals_in_checkpoint(folder / name)
        assert [each.partition(" ")[0] for each in inside(folder / name).globals] == theirs


def test_pickles_that_hide_what_they_ask_for():
    assert asked_for(b"cos\nsystem\n.") == ["os.system"]
    assert asked_for(b"(ios\nsystem\n.") == ["os.system"]
    stacked = b"\x80\x04\x8c\x02os\x94\x8c\x06system\x94\x93."
    assert asked_for(stacked) == ["os.system (from the stack)"]
    again = b"\x80\x04\x8c\x02os\x94\x8c\x06system\x94N00h\x00h\x01\x93."  # by the memo, others in between
    assert asked_for(again) == ["os.system (from the stack)"]
    numbered = b"\x80\x04\x8c\x02osq\x05\x8c\x06systemq\x07N\x8c\x01xh\x05h\x07\x93."
    assert asked_for(numbered) == ["os.system (from the stack)"]
    named = b"\x80\x04\x8c\x05torch\x94\x8c\x0cFloatStorage\x94\x93."  # an allowed name does not help
    assert not set(asked_for(named)) & allowed()
    assert asked_for(b"cos\nsystem\nthis is no pickle") == ["os.system", "(unreadable)"]
    assert asked_for(b"\x82\x01.") == ["copyreg extension 1"]
    plain = pickle.dumps({"a": [1, 2.0, "os system", None], "b": (b"c",)}, protocol=2)
    assert set(asked_for(plain)) <= allowed()


def test_what_else_lies_in_an_archive_is_named(run):
    path = run("clean")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("archive/code/__torch__.py", "import os")
    found = inside(path)
    assert found.code and found.kind.startswith("TorchScript")
    (path.parent / "model.npy").write_bytes(b"\x93NUMPY\x01\x00v\x00{'descr': '|O', 'fortran_order': False}")
    assert inside(path.parent / "model.npy").code
    (path.parent / "start").write_bytes(b"#!/bin/sh\n")
    assert inside(path.parent / "start").code


def test_where_a_model_comes_from(run, tmp_path):
    first = run("first")
    second = run("second", init_from=str(first.parent))
    known = fingerprint(load(first).model.weights)
    teacher = {"source": str(first), "fingerprint": known}
    told = "data: {init_args: {train: reviews.tsv}}"
    third = run("third", init_from=str(second), teacher=teacher, configuration=told)
    for age, path in enumerate((third, second, first)):
        os.utime(path, (1e9 - age, 1e9 - age))
    told = {row["what"]: (row["which"], row["state"]) for row in rows(audited(third), "Where it comes from")}
    assert told[f"start of {third}"] == (str(second), "there, and older than what was made from it")
    assert told[f"teacher of {third}"] == (str(first), "there, the same weights")
    assert told[f"start of {second}"][0] == str(first.parent)
    assert told[f"data of {third}"][0] == "reviews.tsv"
    assert audited(third).figures["lost_ancestors"].value == 0

    run("first", weight=0.5)  # another model under its name
    found = audited(third)
    told = {row["what"]: row["state"] for row in rows(found, "Where it comes from")}
    assert told[f"teacher of {third}"] == "there, with other weights than then"
    assert told[f"start of {second}"].startswith("there, and written anew since")
    first.unlink()
    found = audited(third)
    assert found.figures["lost_ancestors"].value == 2
    told = {row["what"]: row["state"] for row in rows(found, "Where it comes from")}
    assert told[f"start of {second}"] == told[f"teacher of {third}"] == "no longer there"


def test_sources_and_their_licences(run, tmp_path):
    origins = {
        "train": [{"id": "a", "source": "books", "licence": "CC0"}] * 3 + [{"id": "b", "source": "web"}] * 2,
        "val": [{"id": "c", "source": "books", "licence": "CC BY"}],
    }
    for split, own in origins.items():
        lines = "".join(json.dumps(row) + "\n" for row in own)
        (tmp_path / f"{split}-documents.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    corpus = SimpleNamespace(folder=tmp_path, manifest={})
    found = audited(run("clean"), corpus)
    assert found.figures["sources"].value == 2
    assert found.figures["documents_without_licence"].value == pytest.approx(2 / 6)
    assert [tuple(row.values()) for row in rows(found, "Sources")] == [
        ("books", "CC BY", "1"), ("books", "CC0", "3"), ("web", "none", "2")
    ]  # fmt: skip
    for path in tmp_path.glob("*.gz"):  # a corpus from before there was such a list
        path.unlink()
    corpus.manifest = {
        "sources": [{"name": "web", "documents": 5}, {"name": "a", "documents": 5, "licence": "MIT"}]
    }
    assert audited(run("clean"), corpus).figures["documents_without_licence"].value == 0.5


def test_onnx_files(tmp_path):
    onnx = pytest.importorskip("onnx")
    from lm.audit.checks.pickles import in_onnx

    tensor = onnx.helper.make_tensor("w", onnx.TensorProto.FLOAT, [1], [1.0])
    away = onnx.TensorProto(name="v", data_type=1, dims=[1], data_location=onnx.TensorProto.EXTERNAL)
    away.external_data.add(key="location", value="../elsewhere.bin")
    nodes = [
        onnx.helper.make_node("Add", ["w", "v"], ["x"]),
        onnx.helper.make_node("Run", ["x"], ["y"], domain="evil"),
    ]
    graph = onnx.helper.make_graph(nodes, "g", [], [], [tensor, away])
    onnx.save(onnx.helper.make_model(graph), tmp_path / "m.onnx")
    assert in_onnx(tmp_path / "m.onnx")[:2] == (["../elsewhere.bin"], ["evil.Run"])


def test_the_report_has_the_tables(run, tmp_path, lm):
    folder = tmp_path / "hf"
    export_folder(load(run("clean")).model, folder)
    (folder / "helper.py").write_text("")
    result = lm("audit", folder, "--only", "supply_chain", "--out", "out")
    assert result.status == 0 and "supply_chain.foreign_code_files" in result.out
    report = json.loads((tmp_path / "out/audit.json").read_text())
    assert [table["title"] for table in report["checks"][0]["tables"]] == ["Files", "Where it comes from"]
    page = (tmp_path / "out/audit.html").read_text()
    assert "<summary>Files</summary>" in page and "helper.py" in page and "could run code" in page


def test_what_can_t_be_read_ends_in_a_line(run):
    path = run("clean")
    subject = Subject(load(path))
    path.unlink()
    with pytest.raises(UserError, match="no such checkpoint"):
        SupplyChain().run(subject)
