"""ONNX: a classifier or a BERT as one file that onnxruntime and many others run, written and read.

The graph takes what BERTs of Hugging Face take, int64: `input_ids` (B, T), `attention_mask` (B, T; 1 for
text, 0 for padding) and, where the model has segments, `token_type_ids` (B, T). It gives fp32: `logits`, of
texts (B, outputs), of positions (B, T, outputs), of a BERT that fills gaps (B, T, vocabulary); or, of an
encoder without a head, `last_hidden_state` (B, T, hidden_size). B is free, T up to what the model sees.

Behind the graph stands, under `lm` in the file's metadata, what a checkpoint says of its model, as JSON: so
the file is a model to lm, too. In protobuf two messages one after the other are one.
"""

import base64
import hashlib
import json
import logging
import math
import tempfile
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lm import checkpoint as checkpoints
from lm.backbone import Backbone
from lm.backbone import linear as library
from lm.checkpoint import Model
from lm.errors import UserError, not_installed
from lm.files import check_target, write_atomically
from lm.processors import open_processor

_KEY = "lm"
_LARGEST = 2_000_000_000  # bytes that a protobuf message can have, about
_TEXT, _PADDING = 0, -1  # documents
_PRETRAINED = "lm.tasks.MaskedPretraining"


class _Wrapped(nn.Module):
    """A network as others call it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> Tensor:
        documents = torch.where(attention_mask > 0, _TEXT, _PADDING)
        more = {} if token_type_ids is None else {"segments": token_type_ids}
        return self.network(input_ids, documents, **more)


def export_onnx(model: Model, path: str | Path, bits: int = 32, force: bool = False) -> dict[str, Any]:
    """Write a model as an ONNX file; under its final name only when it is whole.

    Args:
        model: with floats for weights.
        bits: 8 rounds the matrices, embeddings too, to integers, and activations while it works, by their
            range in each batch; 32 leaves all as it is.
        force: replace a file that is there.

    Returns:
        `inputs`, `output`, `bits`, `parameters`, `bytes` of the weights: the file's record has it as `onnx`.

    Raises:
        UserError: the model writes, or takes no texts; the file is there; its weights are too many; or a
            library is missing.
    """
    path, head = Path(path), model.record.get("head")
    if model.config.causal and checkpoints.is_language(head):
        raise UserError(
            f"{model.source} writes texts, for which an ONNX file has no cache: use `--to hf`, or make it "
            "smaller by `lm compress`"
        )
    if model.record.get("input"):
        kind = model.record["input"]["kind"]
        raise UserError(f"{model.source} takes {kind}: only models that take texts go into an ONNX file yet")
    check_target(path, "an ONNX file", ".onnx", force)
    for package in ("onnx", "onnxscript", "onnxruntime"):  # torch's exporter asks for the second late
        if find_spec(package) is None:
            raise not_installed("ONNX", package, "onnx")
    import onnx

    network = _encoder(model) if checkpoints.is_language(head) and not model.has_head else model.network
    parameters = network.num_parameters()
    if 4 * parameters > _LARGEST:
        raise UserError(
            f"{model.source} has {parameters:,} parameters: more than the 2 GB that an ONNX file holds"
        )
    output = "last_hidden_state" if isinstance(network, Backbone) else "logits"
    with _quietly():
        graph = _traced(model, network, output)
        graph = _rounded(graph) if bits == 8 else graph
    for part in (*graph.graph.node, *graph.graph.initializer, *graph.graph.value_info, *graph.graph.input):
        part.ClearField("metadata_props")  # where the exporter was in its own code
    facts = {
        "inputs": [each.name for each in graph.graph.input],
        "output": output,
        "bits": bits,
        "parameters": parameters,
        "bytes": sum(len(each.raw_data) for each in graph.graph.initializer),
    }
    content = graph.SerializeToString()
    said = _said(model, {**facts, "length": len(content), "checksum": zlib.crc32(content)})
    end = onnx.ModelProto(metadata_props=[onnx.StringStringEntryProto(key=_KEY, value=said)])
    try:
        write_atomically(path, content + end.SerializeToString())
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error
    return facts


@contextmanager
def _quietly() -> Iterator[None]:
    """Without what libraries say of themselves: names that are not used, packages that nothing here needs."""
    kept = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.disable(kept)


def _encoder(model: Model) -> Backbone:
    """The network of a BERT without a head."""
    with torch.device("meta"):
        network = Backbone(model.config)
    kept = {name.removeprefix("backbone."): value for name, value in model.weights.items()}
    network.load_state_dict({name: kept[name] for name in network.state_dict()}, assign=True)
    for each in (network.rotary, network.local_rotary):
        if each is not None:
            each.fill(model.config.max_seq_len, "cpu")
    return network.eval()


def _traced(model: Model, network: nn.Module, output: str) -> Any:
    """The network's graph for any B and T, as ONNX's ModelProto."""
    from onnxscript import opset18 as op

    def cummax(x: Any, dim: int) -> Any:  # of numbers from 0 on, (B, T) along T; torch's exporter has none
        index = op.Range(0, op.Squeeze(op.Shape(x, start=1, end=2)), 1)
        seen = op.LessOrEqual(op.Unsqueeze(index, [0]), op.Unsqueeze(index, [1]))  # (T, T)
        most = op.ReduceMax(op.Where(seen, op.Unsqueeze(x, [1]), op.Constant(value_int=0)), [2], keepdims=0)
        return most, most

    longest, window = model.config.max_seq_len, model.config.window or math.inf
    # Longer than the window, so that it is in the graph; and below 3 torch makes a graph of its own.
    shortest = int(window) + 1 if window < longest else min(3, longest)
    names = ["input_ids", "attention_mask"] + ["token_type_ids"] * (model.config.segments > 1)
    given = tuple(torch.ones(3, min(shortest + 5, longest), dtype=torch.int64) for _ in names)  # none twice
    free = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence", min=shortest, max=longest)}
    wrapped = _Wrapped(network).requires_grad_(False)
    kept, library.ONEDNN = library.ONEDNN, False  # products that the exporter knows
    try:
        program = torch.export.export(wrapped, given, dynamic_shapes=(free,) * len(names), strict=True)
    finally:
        library.ONEDNN = kept
    made = torch.onnx.export(
        program,
        input_names=names,
        output_names=[output],
        dynamic_shapes=({0: "batch", 1: "sequence"},) * len(names),
        custom_translation_table={torch.ops.aten.cummax.default: cummax},
        external_data=False,
        verbose=False,
    )
    return made.model_proto


def _rounded(graph: Any) -> Any:
    """The same with integers for matrices."""
    import onnx
    from onnxruntime.quantization import quantize_dynamic

    with tempfile.TemporaryDirectory() as folder:
        quantize_dynamic(graph, Path(folder, "rounded.onnx"), per_channel=True)
        return onnx.load(Path(folder, "rounded.onnx"))


def _said(model: Model, facts: dict[str, Any]) -> str:
    """What a checkpoint would say of the model, and what the file is, as JSON."""
    task = model.record.get("task") or _PRETRAINED
    made = checkpoints.make_record(task, model.config, model.processor, model.record.get("figures"))
    content = base64.b64encode(model.processor.to_bytes()).decode()
    processor = {"kind": model.processor.kind, "bytes": content}
    own = {"processor": processor, "step": model.step, "has_head": model.has_head, "onnx": facts}
    return json.dumps({**model.record, **made, **own}, ensure_ascii=False)


@dataclass
class OnnxModel(Model):
    """A model whose network is a session of onnxruntime: for use alone, on the CPU. It has no weights."""

    session: Any = None

    def shape(self, network: nn.Module) -> None:
        """Leave of a network nothing but its call, which goes to the session, and a weight that says where it
        works."""
        for name, _ in list(network.named_children()):
            delattr(network, name)
        network.head = nn.Linear(1, 1, bias=False)
        network.forward = self.run

    def to(self, dtype: torch.dtype) -> None:
        raise UserError(f"`dtype`: {self.source} works in what it was written in", status=2)

    def run(self, tokens: Tensor, documents: Tensor | None = None, segments: Tensor | None = None) -> Tensor:
        """The file's output for tokens (B, T); see `Classifier.forward`. Documents other than padding, which
        packed texts have, don't fit into a mask."""
        mask = torch.ones_like(tokens) if documents is None else (documents >= 0).long()
        given = {
            "input_ids": tokens,
            "attention_mask": mask,
            "token_type_ids": torch.zeros_like(tokens) if segments is None else segments,
        }
        feeds = {name: given[name].numpy() for name in self.record["onnx"]["inputs"]}
        return torch.from_numpy(self.session.run(None, feeds)[0])


def open_onnx(path: Path, device: torch.device | str = "cpu") -> OnnxModel:
    """The model of an ONNX file that lm wrote.

    Raises:
        UserError: it is damaged, another program's, or of a newer lm; it is to work elsewhere than on the
            CPU; or onnxruntime is missing.
    """
    if torch.device(device).type != "cpu":
        raise UserError(f"{path} works on the CPU: `device` {device} is for checkpoints", status=2)
    try:
        import onnxruntime
    except ImportError as error:
        raise not_installed(str(path), "onnxruntime", "onnx") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        content = path.read_bytes()
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except Exception as error:  # of any kind: onnxruntime's own have no base
        raise UserError(f"{path} is damaged, or no ONNX file: {str(error).splitlines()[0][:200]}") from error
    said = session.get_modelmeta().custom_metadata_map.get(_KEY)
    if said is None:
        raise UserError(
            f"{path} is not lm's, and does not say how texts become its input: `lm export --to onnx`"
        )
    try:
        record = checkpoints.read_record({"lm": json.loads(said)}, path)
        facts, processor, step, has_head = (record.pop(n) for n in ("onnx", "processor", "step", "has_head"))
        config = checkpoints.config_of(record)
        config.tie_embeddings = False  # neither is here
        whole = zlib.crc32(content[: facts["length"]]) == facts["checksum"]
        opened = open_processor(processor["kind"], base64.b64decode(processor["bytes"]))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(f"{path} is damaged: its description is not whole ({error!r})") from error
    if not whole:
        raise UserError(f"{path} is damaged: it has another checksum than when it was written")
    facts["sha256"] = hashlib.sha256(content).hexdigest()  # as it is now: its weights are nowhere else
    weights, record = {"head.weight": torch.zeros(1, 1)}, {**record, "onnx": facts}
    return OnnxModel(config, weights, opened, str(path), record, [], step, has_head, session=session)
