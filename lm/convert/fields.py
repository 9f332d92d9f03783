"""config.json, read so that nothing in it is passed over that could matter."""

import math
from pathlib import Path
from typing import Any

from lm.backbone import BackboneConfig
from lm.errors import UserError, some

# Fields that say nothing about what a model computes: bookkeeping, training, and (in old files) generation.
_HARMLESS = """
    architectures model_type transformers_version torch_dtype dtype use_cache use_bfloat16 torchscript
    output_attentions output_hidden_states return_dict output_scores return_dict_in_generate
    chunk_size_feed_forward gradient_checkpointing tokenizer_class name_or_path
    id2label label2id num_labels problem_type finetuning_task task_specific_params classifier_dropout
    bos_token_id eos_token_id pad_token_id sep_token_id cls_token_id mask_token_id decoder_start_token_id
    unk_token_id prefix initializer_range initializer_factor tie_encoder_decoder tf_legacy_loss
    max_length min_length max_new_tokens do_sample early_stopping num_beams num_beam_groups diversity_penalty
    temperature top_k top_p typical_p repetition_penalty length_penalty no_repeat_ngram_size
    encoder_no_repeat_ngram_size bad_words_ids num_return_sequences forced_bos_token_id forced_eos_token_id
    remove_invalid_values exponential_decay_length_penalty suppress_tokens begin_suppress_tokens
    attn_implementation pretraining_tp residual_init unsloth_version unsloth_fixed is_llama_config output_past
    max_sequence_length predict_special_tokens n_special transformers.js_config
"""
HARMLESS = frozenset(_HARMLESS.split())
# What each way of stretching rotary positions has to say, and what that is called here.
ROPE = {
    "default": {},
    "linear": {"factor": "rope_factor"},
    "llama3": {
        "factor": "rope_factor",
        "low_freq_factor": "rope_low_freq_factor",
        "high_freq_factor": "rope_high_freq_factor",
        "original_max_position_embeddings": "rope_original_len",
    },
}
_MOST_LAYERS = 10_000  # what some families say of each layer is looked through before any tensor is


class Fields:
    """The fields of a config.json, ticked off as they are read.

    What is absent without a default, or not what it should be, raises a `UserError` that names the file.
    """

    def __init__(self, content: dict[str, Any], path: Path) -> None:
        self.content, self.path = content, path
        self._read: set[str] = set()

    def refuse(self, what: str) -> UserError:
        """The error that names this file."""
        return UserError(f"{self.path}: {what}")

    def take(self, name: str, default: Any = None) -> Any:
        """A field's value, or `default` where it is absent or null."""
        self._read.add(name)
        value = self.content.get(name)
        return default if value is None else value

    def number(self, name: str, default: float | None = None, kind: type = int) -> Any:
        """A field that is a number."""
        value = self.take(name, default)
        if value is None:
            raise self.refuse(f"{name} is missing")
        return self.checked(name, value, kind)

    def checked(self, name: str, value: Any, kind: type = int) -> Any:
        """A value as a finite number, under the name that messages give it."""
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not math.isfinite(value)
            or (kind is int and value != int(value))
        ):
            raise self.refuse(f"{name} is {value!r}, not a number")
        return kind(value)

    def like(self, name: str, *default: Any) -> Any:
        """A field of its default's type; a whole number where that is None or there is none."""
        usual = default[0] if default else None
        if isinstance(usual, bool):
            return self.flag(name, usual)
        if default and self.take(name, usual) is None:
            return None
        return self.number(name, usual, float if isinstance(usual, float) else int)

    def layers(self, name: str, default: int | None = None) -> int:
        """A field that is a number of layers, as many as a model can have."""
        count = self.number(name, default)
        if not 1 <= count <= _MOST_LAYERS:
            raise self.refuse(f"{name} is {count}: it must be from 1 to {_MOST_LAYERS:,}")
        return count

    def flag(self, name: str, default: bool) -> bool:
        """A field that is true or false."""
        value = self.take(name, default)
        if not isinstance(value, bool):
            raise self.refuse(f"{name} is {value!r}, neither true nor false")
        return value

    def choice(self, name: str, known: dict[str, Any], default: str) -> Any:
        """What `known` has for a field's value."""
        value = self.take(name, default)
        if not isinstance(value, str) or value not in known:
            raise self.refuse(f"{name} {value!r} is not supported here: it can be {', '.join(known)}")
        return known[value]

    def require(self, name: str, value: Any) -> None:
        """Insist that a field, if it is there, has this value."""
        found = self.take(name, value)
        if found != value:
            raise self.refuse(f"{name} {found!r} is not supported here, only {value!r}")

    def skip(self, *names: str) -> None:
        """Pass over fields that don't matter in this family."""
        self._read.update(names)

    def finish(self) -> None:
        """Refuse what nobody has read and is not known, unless it says no or nothing."""
        foreign = [
            name
            for name, value in self.content.items()
            if name not in self._read
            and name not in HARMLESS
            and not name.startswith("_")
            and value not in (None, False, [], {}, "")
        ]
        if foreign:
            shown = some(f"{name} {str(self.content[name])[:60]!r}" for name in foreign)
            raise self.refuse(f"unknown here, and it may change what the model computes: {shown}")


def rope(fields: Fields) -> dict[str, Any]:
    """Our rotary fields from theirs: `rope_parameters`, or `rope_theta` and `rope_scaling` in older files."""
    theta = fields.number("rope_theta", 10000.0, float)
    newer, older = fields.take("rope_parameters"), fields.take("rope_scaling")
    given = older or newer or {}
    if not isinstance(given, dict):
        raise fields.refuse(f"rope_scaling is {given!r}, not a group of fields")
    given = {name: value for name, value in given.items() if value is not None}
    theta = fields.checked("rope_theta", given.pop("rope_theta", None) or theta, float)
    kind, older_kind = given.pop("rope_type", None), given.pop("type", None)
    kind = kind or older_kind or "default"
    if kind not in ROPE:
        raise fields.refuse(f"rope type {kind!r} is not supported here: it can be {', '.join(ROPE)}")
    ours = {"rope_theta": theta, "rope_type": kind}
    for theirs, name in ROPE[kind].items():
        if theirs not in given:
            raise fields.refuse(f"rope type {kind!r} lacks {theirs}")
        ours[name] = fields.checked(theirs, given.pop(theirs), type(getattr(BackboneConfig, name)))
    if given.get("partial_rotary_factor") == 1.0:
        del given["partial_rotary_factor"]
    if given:
        raise fields.refuse(f"rope type {kind!r} with {', '.join(given)} is not supported here")
    fields.require("partial_rotary_factor", 1.0)
    return ours
