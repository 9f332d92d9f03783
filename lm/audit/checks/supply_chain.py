"""What a model is made of: its files and what they could run, what it was trained from, whose texts."""

import hashlib
from collections import Counter
from pathlib import Path
from typing import Any

import torch

import lm
from lm import checkpoint as checkpoints
from lm.audit.check import Check
from lm.audit.checks.pickles import in_onnx, inside
from lm.audit.findings import Figure, Findings, Table
from lm.audit.subject import Subject
from lm.checkpoint.format import Damaged, check_whole
from lm.convert import located, open_model
from lm.convert.models import fingerprint
from lm.data.corpus.provenance import origins
from lm.data.corpus.shards import SPLITS, Corpus
from lm.errors import UserError, some

_GENERATIONS = 8  # of models that were trained from one another
_CLOSED = "none"


class SupplyChain(Check):
    """What is in its files, which of them could run code, what it was made from, and under which licences.

    Files are read as bytes and never opened by what they are made for. Pickles are looked through for the
    Python objects that they ask for, beside those of tensors and plain values that
    `torch.load(weights_only=True)` takes. What a model was trained from is what its checkpoint says; whose
    texts, what the corpus's manifest and its list of documents say.
    """

    def run(self, subject: Subject) -> Findings:
        found = Findings()
        path = located(subject.source)
        self._files(path, found)
        self._weights(subject, path, found)
        ancestors = self._origin(subject, path, found)
        self._sources(subject, ancestors, found)
        return found

    def _files(self, path: Path, found: Findings) -> None:
        files = sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]
        rows, named, code = [], dict[str, None](), list[str]()
        for each in files:
            name = each.relative_to(path).as_posix() if path.is_dir() else each.name
            remarks = []
            try:
                with each.open("rb") as file:
                    digest = hashlib.file_digest(file, "sha256").hexdigest()
                content = inside(each)
                if each.suffix == ".onnx":
                    outside, custom, _ = in_onnx(each)
                    remarks += [f"reads {some(outside)}"] if outside else []
                    remarks += [f"operators of its own: {some(custom)}"] if custom else []
            except OSError as error:
                raise UserError(f"cannot read {each}: {error.strerror}") from error
            except ImportError:
                remarks.append("not looked into: onnx is not installed")
            if content.globals:
                remarks.append(f"pickled: {some(content.globals, 5)}")
            named |= dict.fromkeys(f"{name}: {each}" for each in content.globals)
            if content.code or any(not remark.startswith("not looked") for remark in remarks):
                code.append(name)
                remarks.append("could run code")
            own = {"file": name, "bytes": f"{each.stat().st_size:,}", "what": content.kind}
            rows.append({**own, "sha256": digest, "remarks": "; ".join(remarks)})
        found.tables.append(Table("Files", rows))
        what = "Python objects that its pickles ask for, beside tensors and plain values"
        found.figures["pickled_globals"] = Figure(len(named), what, n=len(files))
        what = "files that could run code, if a program opens them as they are meant"
        found.figures["foreign_code_files"] = Figure(len(code), what, n=len(files))
        for row in rows:
            if row["file"] in code:
                found.examples.append({"file": row["file"], "what": row["what"], "why": row["remarks"]})
        if code:
            found.notes.append(f"lm runs none of these; other programs might: {some(code, 6)}")

    def _weights(self, subject: Subject, path: Path, found: Findings) -> None:
        model = subject.model.model
        tensors = dict(model.weights)
        if path.suffix == ".onnx":
            tensors = _initializers(path)
        numbers = {name: value for name, value in tensors.items() if value.is_floating_point()}
        bad = {name: n for name, value in numbers.items() if (n := int((~value.isfinite()).sum()))}
        total = sum(value.numel() for value in numbers.values())
        what = "weights that are not finite" + (f": in {some(bad)}" if bad else "")
        found.figures["non_finite_weights"] = Figure(sum(bad.values()), what, n=total)
        if path.is_file() and path.suffix != ".onnx":
            try:
                check_whole(path)
                damaged = 0
            except Damaged as error:
                damaged = 1
                found.notes.append(str(error))
            what = "files whose tensors are not what was written, by their checksums"
            found.figures["damaged_files"] = Figure(damaged, what, n=1)

    def _origin(self, subject: Subject, path: Path, found: Findings) -> list[Path]:
        """Say what it was made by and from; those of its ancestors that are still there."""
        model = subject.model.model
        rows = [
            _row("weights, shape and tokenizer", checkpoints.identity(model), "SHA-256 of their content"),
            _row("tokenizer", model.processor.fingerprint, "SHA-256"),
            _row("written by", f"lm {model.record['version']}" if "version" in model.record else _CLOSED,
                 f"this is lm {lm.__version__}" if "version" in model.record else "it does not say so"),
        ]  # fmt: skip
        ancestors, at = [], path
        missing = 0
        for _ in range(_GENERATIONS):
            record, settings = _said(at)
            if data := _data(settings):
                rows.append(_row(f"data of {at}", data, "as its run was told"))
            first = None
            for role, source, known in _parents(record, settings):
                where, state = _state(source, known, at)
                missing += where is None
                rows.append(_row(f"{role} of {at}", source, state))
                first = first or where
                ancestors += [where] if where else []
            if first is None:
                break
            at = first
        found.tables.append(Table("Where it comes from", rows))
        what = "models that it was made from and that are no longer there, or not the same"
        found.figures["lost_ancestors"] = Figure(missing, what)
        return ancestors

    def _sources(self, subject: Subject, ancestors: list[Path], found: Findings) -> None:
        corpus = _corpus(subject, ancestors)
        if corpus is None:
            found.notes.append("the corpus that it learned from is not known: its sources were not looked at")
            return
        documents = _documents(corpus)
        total = sum(documents.values())
        without = sum(n for (_, licence), n in documents.items() if not licence)
        names = {source for source, _ in documents}
        what = f"sources that {corpus.folder} is made of"
        found.figures["sources"] = Figure(len(names), what, n=total)
        if total:
            what = "of its documents, under no licence that was named"
            found.figures["documents_without_licence"] = Figure(without / total, what, n=total, unit="%")
        rows = [
            {"source": source, "licence": licence or _CLOSED, "documents": f"{n:,}"}
            for (source, licence), n in sorted(documents.items())
        ]
        found.tables.append(Table(f"Sources of {corpus.folder}", rows))


def _row(what: str, which: str, state: str) -> dict[str, str]:
    return {"what": what, "which": which, "state": state}


def _initializers(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of an ONNX file, whose model has no weights."""
    from onnx import numpy_helper

    tensors = in_onnx(path)[2].graph.initializer
    return {each.name: torch.tensor(numpy_helper.to_array(each)) for each in tensors}


def _said(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a checkpoint says of itself, and the configuration of its run; nothing of other files."""
    if path.is_dir() or path.suffix == ".onnx":
        return {}, {}
    record = checkpoints.read_record(checkpoints.read(path, whole=False), path)
    return record, checkpoints.configuration_of(record)


def _parents(record: dict[str, Any], settings: dict[str, Any]) -> list[tuple[str, str, str | None]]:
    """What a model was made from: role, source, and the hash of its backbone where that was noted."""
    noted = {
        role: [(role, str(own.get("source")), own.get("fingerprint"))] if (own := record.get(role)) else []
        for role in ("base", "teacher")
    }
    found, model = noted["base"], settings.get("model") or {}
    for source in (record.get("init_from"), (model.get("init_args") or model).get("init_from")):
        if source and str(source) not in [each for _, each, _ in found]:
            known = record.get("reference")  # of preference tuning, which compares with what it started from
            found.append(("start", str(source), known if isinstance(known, str) else None))
    return found + noted["teacher"]


def _data(settings: dict[str, Any]) -> str:
    """The files that a run has learned from, as it was told."""
    own = (settings.get("data") or {}).get("init_args") or {}
    return str(own.get("corpus") or own.get("train") or "")


def _state(source: str, known: str | None, child: Path) -> tuple[Path | None, str]:
    """Where an ancestor is, if it is there and the same, and what is to be said of it."""
    try:
        path = located(source)
    except UserError:
        return None, "no longer there"
    if known is not None:
        try:
            same = fingerprint(open_model(path, integers=True).weights) == known
        except UserError as error:
            return None, str(error)
        return (path, "there, the same weights") if same else (None, "there, with other weights than then")
    files = [path] if path.is_file() else [each for each in path.iterdir() if each.is_file()]
    if any(each.stat().st_mtime > child.stat().st_mtime for each in files):
        return path, "there, and written anew since: whether it is the same is not known"
    return path, "there, and older than what was made from it"


def _corpus(subject: Subject, ancestors: list[Path]) -> Corpus | None:
    """The corpus of the model, or of the nearest model that it was made from."""
    from lm.audit.history import corpus_of

    try:
        return subject.corpus
    except UserError:
        pass
    for path in ancestors:
        try:
            return corpus_of(path)
        except UserError:
            continue
    return None


def _documents(corpus: Corpus) -> Counter[tuple[str, str]]:
    """How many documents each source gave under each licence; by the manifest, where the corpus is older than
    its list of documents."""
    found = Counter[tuple[str, str]]()
    try:
        for split in SPLITS:
            for origin in origins(corpus.folder, split):
                found[origin["source"], origin.get("licence", "")] += 1
    except UserError:
        found.clear()
        for source in corpus.manifest.get("sources") or ():
            found[source["name"], source.get("licence") or ""] += source.get("documents", 0)
    return found
