"""BERT and RoBERTa."""

import re
from collections.abc import Iterator
from typing import Any

from torch import Tensor

from lm.backbone import BackboneConfig
from lm.convert.family import EMBEDDINGS, PLAIN, PLAIN_OUT, Family, Part, block, linear
from lm.convert.fields import Fields
from lm.errors import UserError

_BLOCK = {
    "attention.self.query": "attention.query",
    "attention.self.key": "attention.key",
    "attention.self.value": "attention.value",
    "attention.output.dense": "attention.output",
    "attention.output.LayerNorm": "attention_norm",
    "intermediate.dense": "mlp.up",
    "output.dense": "mlp.down",
    "output.LayerNorm": "mlp_norm",
}


class Bert(Family):
    """BERT (arXiv:1810.04805)."""

    name = "bert"
    prefix = "bert."
    output = "cls.predictions.decoder.weight"
    twins = {"cls.predictions.decoder.bias": "cls.predictions.bias"}
    ignored = re.compile(r"embeddings\.(position_ids|token_type_ids)")
    other_heads = re.compile(r"(classifier|qa_outputs|cls\.seq_relationship)\..*")
    languages = ("BertForMaskedLM", "BertForPreTraining")
    base = "Bert"

    same = {
        "hidden_size": ("hidden_size",),
        "num_hidden_layers": ("num_layers",),
        "num_attention_heads": ("num_heads",),
        "intermediate_size": ("mlp_hidden_size",),
        "vocab_size": ("vocab_size",),
        "max_position_embeddings": ("max_seq_len",),
        "layer_norm_eps": ("norm_eps", 1e-12),
        "type_vocab_size": ("segments", 2),
        "tie_word_embeddings": ("tie_embeddings", True),
        "hidden_dropout_prob": ("dropout", 0.1),
        "initializer_range": ("init_std", 0.02),
    }
    copies = {"attention_probs_dropout_prob": "hidden_dropout_prob"}
    activation = ("hidden_act", "gelu")
    activations = (PLAIN, PLAIN_OUT)
    fixed = {
        **{"causal": False, "positions": "learned", "norm": "layer", "norm_position": "after"},
        **{"embedding_norm": True, "bias": True},
    }
    free = frozenset({"rope_type"})
    biases = dict.fromkeys(("attention", "attention_output", "mlp", "norm", "head"), True)
    insisted = {"is_decoder": False, "add_cross_attention": False, "position_embedding_type": "absolute"}
    # Left over in the oldest files.
    skipped = """
        directionality pooler_fc_size pooler_num_attention_heads pooler_num_fc_layers
        pooler_size_per_head pooler_type
    """

    def more(self, fields: Fields, ours: dict[str, Any]) -> dict[str, Any]:
        return {"max_seq_len": ours["max_seq_len"] - self._offset(fields.content)}

    def _offset(self, theirs: dict[str, Any]) -> int:
        """Rows of the position table before the first position's."""
        return 0

    def refine(self, config: BackboneConfig, tensors: dict[str, Tensor]) -> BackboneConfig:
        """A single kind of segments whose embedding is zero is none."""
        table = tensors.get("embeddings.token_type_embeddings.weight")
        if config.segments == 1 and table is not None and not table.any():
            config.segments = 0
        return config

    def odd(self, config: BackboneConfig, head: bool) -> list[str]:
        # The head's own activation is the body's there and always GELU here.
        return [*self._no_bias(config), *(["mlp"] if head and config.mlp != "gelu" else [])]

    def _no_bias(self, config: BackboneConfig) -> list[str]:
        """Of the dense layers of the head and the pooler."""
        return [] if config.bias else ["bias"]

    def write(self, config: BackboneConfig, pad: int | None) -> dict[str, Any]:
        """Where there are no segments, there is one kind and its embedding is zero."""
        return {
            **super().write(config, pad),
            "max_position_embeddings": config.max_seq_len + self._offset({"pad_token_id": pad}),
            "type_vocab_size": config.segments or 1,
        }

    def body(self, config: BackboneConfig, theirs: dict[str, Any]) -> Iterator[Part]:
        there, positions = "embeddings", ("backbone.embeddings.positions.weight",)
        yield Part(f"{there}.word_embeddings.weight", (EMBEDDINGS,))
        yield Part(f"{there}.position_embeddings.weight", positions, skip=self._offset(theirs))
        segments = f"{there}.token_type_embeddings.weight"
        if config.segments:
            yield Part(segments, ("backbone.embeddings.segments.weight",))
        else:
            yield Part(segments, (), zeros=(1, config.hidden_size))
        yield from linear(f"{there}.LayerNorm", "backbone.embeddings.norm")
        for i in range(config.num_layers):
            yield from block(config, f"encoder.layer.{i}", i, _BLOCK)

    def head(self, config: BackboneConfig) -> Iterator[Part]:
        yield from linear("cls.predictions.transform.dense", "head.dense")
        yield from linear("cls.predictions.transform.LayerNorm", "head.norm")
        yield from self._output(config)

    def _output(self, config: BackboneConfig) -> Iterator[Part]:
        for copy, name in self.twins.items():
            if not config.tie_embeddings:
                yield Part(copy, ("head.bias",))
            yield Part(name, ("head.bias",))
        yield from Family.head(self, config)

    def pooler(self) -> Iterator[Part]:
        yield from linear("pooler.dense", "pooler.dense")

    def classifier(self, head: dict[str, Any]) -> tuple[str, list[Part]]:
        kind, name = head["kind"], f"{self.base}ForSequenceClassification"
        if kind == "pooled":
            if head["pooling"] != "first" or not head.get("pooler"):
                what = f"pooling {head['pooling']!r}" if head["pooling"] != "first" else "no pooler"
                raise UserError(
                    f"{name} reads the first position through a pooler: a classifier with {what} can't go "
                    "out as one"
                )
            return name, self._pooled()
        if kind == "tokens":
            return f"{self.base}ForTokenClassification", list(linear("classifier", "head"))
        if kind == "span":
            return f"{self.base}ForQuestionAnswering", list(linear("qa_outputs", "head"))
        raise UserError(f"a {self.name} with a head of kind {kind!r} has no place in transformers")

    def _pooled(self) -> list[Part]:
        return [*linear(f"{self.prefix}pooler.dense", "pooler.dense"), *linear("classifier", "head")]


class Roberta(Bert):
    """RoBERTa (arXiv:1907.11692): BERT with one kind of segments, whose positions count from the padding's id
    plus one: the rows before stay unused."""

    name = "roberta"
    prefix = "roberta."
    output = "lm_head.decoder.weight"
    twins = {"lm_head.decoder.bias": "lm_head.bias"}
    languages = ("RobertaForMaskedLM",)
    base = "Roberta"

    def _offset(self, theirs: dict[str, Any]) -> int:
        pad = theirs.get("pad_token_id", 1)
        return (1 if pad is None else pad) + 1

    def refine(self, config: BackboneConfig, tensors: dict[str, Tensor]) -> BackboneConfig:
        return config

    def odd(self, config: BackboneConfig, head: bool) -> list[str]:
        return [*self._no_bias(config), *(["segments"] if config.segments != 1 else [])]

    def head(self, config: BackboneConfig) -> Iterator[Part]:
        yield from linear("lm_head.dense", "head.dense")
        yield from linear("lm_head.layer_norm", "head.norm")
        yield from self._output(config)

    def _pooled(self) -> list[Part]:
        return [*linear("classifier.dense", "pooler.dense"), *linear("classifier.out_proj", "head")]
