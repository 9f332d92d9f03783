"""GGUF: a model that writes texts as one file, which llama.cpp and what is built on it run.

llama.cpp has a graph for each architecture, in which activation and norms are fixed: of our shapes those of
Llama, Qwen 2, Qwen 3 and GPT-2 have theirs, each with the one activation that it is written for. Any other
would load there and say something else, so it is refused here.

Precisions are chosen tensor by tensor as llama.cpp's own converter does (convert_hf_to_gguf.py): vectors and
learned positions stay fp32, a matrix whose rows are no multiple of 32 is F16 in a file of rounded ones. In a
Q4_0 file the matrix that gives the logits is Q8_0: llama-quantize gives it more digits, too.
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import lm
from lm.backbone import BackboneConfig
from lm.backbone.attention import stretched
from lm.checkpoint import Model, is_language
from lm.convert.export import Exported
from lm.convert.families import choose
from lm.convert.family import Family
from lm.convert.gguf_tokenizer import write_vocabulary
from lm.convert.parts import pack
from lm.errors import UserError, not_installed, some
from lm.files import atomic, check_target

# What a file's matrices can be, by our names.
TYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "q8_0": "Q8_0", "q4_0": "Q4_0"}
# The activation that llama.cpp's graph of a family has.
_ACTIVATIONS = {"llama": "swiglu", "qwen2": "swiglu", "qwen3": "swiglu", "gpt2": "gelu_tanh"}


def export_gguf(model: Model, path: str | Path, dtype: str = "float16", force: bool = False) -> Exported:
    """Write a model as a GGUF file; under its final name only when it is whole.

    Args:
        model: a causal language model.
        path: ends in .gguf.
        dtype: of the matrices, one of `TYPES`.
        force: replace a file that is there.

    Raises:
        UserError: the model does not write texts, no graph of llama.cpp computes what it does, its tokenizer
            would make other tokens there, the file is there, a value does not fit, or gguf is missing.
    """
    path = Path(path)
    if not model.config.causal or not is_language(model.record.get("head")):
        raise UserError(
            f"{model.source} does not write texts, and a GGUF file is for models that do: use `--to onnx` or "
            "`--to hf`"
        )
    check_target(path, "a GGUF file", ".gguf", force)
    family = _family(model)
    try:
        import gguf
    except ImportError as error:
        raise not_installed("GGUF", "gguf", "gguf") from error

    writer = gguf.GGUFWriter(None, family.name)
    _describe(writer, model, family, path.stem, dtype)
    notes = model.notes + write_vocabulary(writer, model)
    wanted, nbytes, others = gguf.GGMLQuantizationType[TYPES[dtype]], 0, []
    kinds = {}
    for name, tensor in _tensors(model, family):
        kinds[name] = kind = _kind(name, tensor, wanted, model.config)
        size = _bytes(tensor.shape, kind)
        writer.add_tensor_info(name, tensor.shape, np.dtype(np.float32), size, kind)
        nbytes += size
        if kind == gguf.GGMLQuantizationType.F16 != wanted:
            others.append(name)
    if others:
        notes.append(
            f"F16 in the place of {wanted.name}, which takes rows in multiples of 32: {some(others, 1)}"
        )
    try:
        with atomic(path) as file:
            writer.write_header_to_file(Path(file.name))
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            for name, tensor in _tensors(model, family):
                writer.write_tensor_data(_rounded(name, tensor, kinds[name]))
            writer.close()
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error
    finally:
        with suppress(OSError):
            writer.close()
    return Exported(family.name, family.name, model.network.num_parameters(), nbytes, notes)


def _family(model: Model) -> Family:
    """The family in whose graph llama.cpp computes what a model does."""
    config = model.config
    family = choose(config)
    known = _ACTIVATIONS.get(family.name)
    for wrong, words in (
        (
            config.mlp != known,
            f"{known} for its `mlp`, this model {config.mlp}: the file would load and be wrong. Train one "
            f"with --model.backbone.mlp {known}",
        ),
        (config.window is not None, f"no window, this model one of {config.window} tokens"),
        (
            config.rope_type == "llama3" and family.name != "llama",
            "no rotary positions stretched as Llama 3's, this model such",
        ),
        (
            family.name == "qwen3" and config.has_bias("attention_output"),
            "no bias behind the attention, this model one",
        ),
    ):
        if wrong:
            raise UserError(f"llama.cpp's {family.name} has {words}; or use `--to hf`")
    return family


def _describe(writer: Any, model: Model, family: Family, name: str, dtype: str) -> None:
    """What the file says of the model and its shape."""
    import gguf

    config = model.config
    mostly = "ALL_F32" if dtype == "float32" else f"MOSTLY_{TYPES[dtype]}"
    writer.add_name(name)
    writer.add_license("unknown")  # it depends on the texts that it was trained on
    writer.add_string("lm.version", lm.__version__)
    writer.add_file_type(gguf.LlamaFileType[mostly])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_seq_len)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_layers)
    writer.add_feed_forward_length(config.mlp_width)
    writer.add_head_count(config.num_heads)
    writer.add_head_count_kv(config.kv_heads)
    if config.norm == "layer":
        writer.add_layer_norm_eps(config.norm_eps)
    else:
        writer.add_layer_norm_rms_eps(config.norm_eps)
    if config.positions == "rotary":
        writer.add_key_length(config.dim_per_head)
        writer.add_value_length(config.dim_per_head)
        writer.add_rope_dimension_count(config.dim_per_head)
        writer.add_rope_freq_base(config.rope_theta)
    if config.rope_type == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(config.rope_factor)


def _tensors(model: Model, family: Family) -> Iterator[tuple[str, Tensor]]:
    """Each tensor by its name there. Matrices have a row for each of their outputs."""
    import gguf

    config, weights = model.config, model.network.state_dict()
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[family.name.upper()], config.num_layers)
    body = family.body(config, family.write(config, None))
    for part in (*(replace(part, theirs=family.prefix + part.theirs) for part in body), *family.head(config)):
        tensor = pack(replace(part, transposed=False), weights)
        name = names.get_name(part.theirs, (".weight", ".bias"))
        if family.name == "llama" and ".attn_q." in name:
            tensor = _interleaved(tensor, config.num_heads)
        if family.name == "llama" and ".attn_k." in name:
            tensor = _interleaved(tensor, config.kv_heads)
        yield name, tensor
    if config.rope_type == "llama3":
        periods = config.rope_theta ** (torch.arange(0, config.dim_per_head, 2).float() / config.dim_per_head)
        yield "rope_freqs.weight", stretched(periods, config) / periods


def _interleaved(tensor: Tensor, heads: int) -> Tensor:
    """The rows of a query or key projection in the order in which llama.cpp's Llama rotates them: those that
    are rotated against each other side by side, where here they are half a head apart."""
    return tensor.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)


def _kind(name: str, tensor: Tensor, wanted: Any, config: BackboneConfig) -> Any:
    """The precision of a tensor in a file of matrices that are `wanted`; both gguf's."""
    kinds = type(wanted)
    if tensor.ndim == 1 or name.startswith("position_embd"):
        return kinds.F32
    logits = "token_embd.weight" if config.tie_embeddings else "output.weight"
    if wanted in (kinds.Q8_0, kinds.Q4_0) and tensor.shape[-1] % 32:
        return kinds.F16
    return kinds.Q8_0 if wanted == kinds.Q4_0 and name == logits else wanted


def _bytes(shape: torch.Size, kind: Any) -> int:
    from gguf import GGML_QUANT_SIZES

    values, size = GGML_QUANT_SIZES[kind]
    return shape.numel() // values * size


def _rounded(name: str, tensor: Tensor, kind: Any) -> np.ndarray:
    """A tensor's numbers as the file has them."""
    from gguf.quants import quantize

    tensor = tensor.detach().float().contiguous()
    if kind == type(kind).F16 and not bool(tensor.half().isfinite().all()):
        raise UserError(f"`dtype` float16: {name} has values beyond its range; use bfloat16")
    return quantize(tensor.numpy(), kind)
