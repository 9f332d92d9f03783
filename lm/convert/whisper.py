"""Whisper's encoder."""

import re
from collections.abc import Iterator
from typing import Any

from torch import Tensor

from lm.backbone import BackboneConfig, Frames
from lm.convert.family import PLAIN, PLAIN_OUT, Family, Part, block, linear
from lm.convert.fields import Fields
from lm.errors import UserError
from lm.processors import Processor

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


class Whisper(Family):
    """The encoder of Whisper (arXiv:2212.04356). Its keys have no bias: ours is zero."""

    name = "whisper"
    prefix = "model."
    other_heads = re.compile(r"(decoder|proj_out|projector|classifier)\..*")
    others = "its decoder"
    pooled = ("mean", False)

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

    def processor(self, described: dict[str, Any]) -> Processor:
        from lm.processors.speech import SoundProcessor

        return SoundProcessor.of_folder(described)

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

    def body(self, config: BackboneConfig, theirs: dict[str, Any]) -> Iterator[Part]:
        yield from linear("encoder.conv1", "backbone.embeddings.first")
        yield from linear("encoder.conv2", "backbone.embeddings.second")
        yield Part("encoder.embed_positions.weight", ("backbone.embeddings.positions.weight",))
        for i in range(config.num_layers):
            yield from block(config, f"encoder.layers.{i}", i, _BLOCK)
        yield from linear("encoder.layer_norm", "backbone.norm")

    def head(self, config: BackboneConfig) -> Iterator[Part]:
        return iter(())

    def classifier(self, head: dict[str, Any]) -> tuple[str, list[Part]]:
        if head["kind"] != "pooled" or head["pooling"] != "mean":
            raise UserError(
                "WhisperForAudioClassification reads the mean of all positions: this head does not"
            )
        return "WhisperForAudioClassification", list(linear("classifier", "head"))


_KINDS = ("weight", "bias")
