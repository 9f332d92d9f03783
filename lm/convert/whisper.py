"""Whisper's encoder."""

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from lm.backbone import BackboneConfig, Frames, Input
from lm.convert import preprocessors
from lm.convert.family import PLAIN, PLAIN_OUT, Part, block, linear
from lm.convert.fields import Fields
from lm.convert.media import Media
from lm.errors import UserError

_BLOCK = {
    "self_attn.q_proj": "attention.query",
    "self_attn.k_proj": "attention.key",
    "self_attn.v_proj": "attention.value",
    "self_attn.out_proj": "attention.output",
    "self_attn_layer_norm": "attention_norm",
    "fc1": "mlp.up",
    "fc2": "mlp.down",
    "final_layer_norm": "mlp_norm",
}


class Whisper(Media):
    """The encoder of Whisper (arXiv:2212.04356). Its keys have no bias, which changes nothing: one adds the
    same to all scores of a query."""

    name = "whisper"
    prefix = "model."
    other_heads = re.compile(r"(decoder|proj_out|projector|classifier)\..*")
    others = "its decoder"
    kind = "sound"
    shape = Frames
    classifiers: ClassVar = {"WhisperForAudioClassification": {"pooling": "mean"}}
    reads = "the mean of the last layer's positions, or of a mix of layers that are not normed"
    padded = True
    wanted: ClassVar = {"kernel": 3, "strides": (1, 2)}

    same = {
        "d_model": ("hidden_size",),
        "encoder_layers": ("num_layers",),
        "encoder_attention_heads": ("num_heads",),
        "encoder_ffn_dim": ("mlp_hidden_size",),
        "dropout": ("dropout", 0.0),
        "max_source_positions": ("max_seq_len", 1500),
        "init_std": ("init_std", 0.02),
    }
    copies = {"attention_dropout": "dropout", "activation_dropout": "dropout"}
    activation = ("activation_function", "gelu")
    activations = (PLAIN, PLAIN_OUT)
    fixed = {"causal": False, "positions": "none", "norm": "layer", "bias": True}
    biases = dict.fromkeys(("attention", "attention_output", "mlp", "norm"), True)
    insisted = {"use_weighted_layer_sum": False}
    # Of the decoder, of generation and of training.
    skipped = """
        vocab_size decoder_layers decoder_attention_heads decoder_ffn_dim max_target_positions
        num_hidden_layers is_encoder_decoder scale_embedding tie_word_embeddings forced_decoder_ids
        begin_suppress_tokens suppress_tokens median_filter_width classifier_proj_size encoder_layerdrop
        decoder_layerdrop apply_spec_augment mask_time_prob mask_time_length mask_time_min_masks
        mask_feature_prob mask_feature_length mask_feature_min_masks
    """

    def input(self, fields: Fields) -> Frames:
        frames = 2 * fields.number("max_source_positions", 1500)
        return Frames(bins=fields.number("num_mel_bins", 80), max_frames=frames)

    def odd(self, config: BackboneConfig, head: bool) -> list[str]:
        return [] if config.norm_eps == BackboneConfig.norm_eps else ["norm_eps"]

    def prepared(self, processor: Any) -> dict[str, Any]:
        return preprocessors.of_whisper(processor)

    def settled(self, shape: Any, processor: Any, embeddings: Input) -> tuple[Any, dict[str, Tensor]]:
        frames = processor.frames(round(processor.seconds * processor.rate))
        if frames > shape.max_frames:
            raise UserError(f"its sounds have {frames} frames, but input.max_frames is {shape.max_frames}")
        shape = replace(shape, max_frames=frames)
        places = embeddings.places(shape.length(frames))
        return shape, {"backbone.embeddings.positions.weight": places}

    def write(self, config: BackboneConfig, pad: int | None) -> dict[str, Any]:
        return {**super().write(config, pad), "classifier_proj_size": config.hidden_size}

    def write_input(self, shape: Any) -> dict[str, Any]:
        return {"num_mel_bins": shape.bins, "max_source_positions": shape.length(shape.max_frames)}

    def folded(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Keys get a bias; the two layers of a classifier, with nothing between them, become one."""
        key = ".self_attn.k_proj.weight"
        made = {
            name.removesuffix("weight") + "bias": tensor.new_zeros(len(tensor))
            for name, tensor in tensors.items()
            if name.startswith("encoder.") and name.endswith(key)
        }
        layers = [tensors.get(f"{layer}.{kind}") for layer in ("projector", "classifier") for kind in _KINDS]
        if all(each is not None for each in layers):
            inner, inner_bias, outer, bias = layers
            if outer.shape[1:] == inner_bias.shape == inner.shape[:1]:
                made |= {"classifier.weight": outer @ inner, "classifier.bias": outer @ inner_bias + bias}
                tensors = {name: each for name, each in tensors.items() if not name.startswith("projector.")}
        return tensors | made

    def unfolded(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        width = tensors["classifier.weight"].shape[1]
        made = {"projector.weight": torch.eye(width), "projector.bias": torch.zeros(width)}
        # A classifier has the encoder by its own name.
        kept = {name.removeprefix(self.prefix): each for name, each in tensors.items()}
        return {name: each for name, each in kept.items() if not name.endswith(".k_proj.bias")} | made

    def body(self, config: BackboneConfig, theirs: dict[str, Any]) -> Iterator[Part]:
        yield from linear("encoder.conv1", "backbone.embeddings.first")
        yield from linear("encoder.conv2", "backbone.embeddings.second")
        yield Part("encoder.embed_positions.weight", ("backbone.embeddings.positions.weight",))
        for i in range(config.num_layers):
            yield from block(config, f"encoder.layers.{i}", i, _BLOCK)
        yield from linear("encoder.layer_norm", "backbone.norm")


_KINDS = ("weight", "bias")
