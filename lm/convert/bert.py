"""BERT and RoBERTa."""

import re
from collections.abc import Iterator
from typing import Any

from torch import Tensor

from lm.backbone import BackboneConfig
from lm.convert import family
from lm.convert.family import EMBEDDINGS, PLAIN, PLAIN_OUT, Family, Part, linear, misfit, unless_default
from lm.convert.fields import Fields
from lm.errors import UserError


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

    def read(self, fields: Fields) -> BackboneConfig:
        """See `Family.read`."""
        for name in ("is_decoder", "add_cross_attention"):
            fields.require(name, False)
        fields.require("position_embedding_type", "absolute")
        fields.skip("attention_probs_dropout_prob")
        # Left over in the oldest files.
        fields.skip("directionality", "pooler_fc_size", "pooler_num_attention_heads", "pooler_num_fc_layers")
        fields.skip("pooler_size_per_head", "pooler_type")
        width = fields.number("hidden_size")
        return BackboneConfig(
            hidden_size=width,
            num_layers=fields.layers("num_hidden_layers"),
            num_heads=fields.number("num_attention_heads"),
            mlp=fields.choice("hidden_act", PLAIN, "gelu"),
            mlp_hidden_size=unless_default(fields.number("intermediate_size"), 4 * width),
            vocab_size=fields.number("vocab_size"),
            max_seq_len=fields.number("max_position_embeddings") - self._offset(fields.content),
            causal=False,
            positions="learned",
            norm="layer",
            norm_position="after",
            norm_eps=fields.number("layer_norm_eps", 1e-12, float),
            embedding_norm=True,
            segments=fields.number("type_vocab_size", 2),
            bias=True,
            tie_embeddings=fields.flag("tie_word_embeddings", True),
            dropout=fields.number("hidden_dropout_prob", 0.1, float),
            init_std=fields.number("initializer_range", 0.02, float),
        )

    def _offset(self, theirs: dict[str, Any]) -> int:
        """Rows of the position table before the first position's."""
        return 0

    def refine(self, config: BackboneConfig, tensors: dict[str, Tensor]) -> BackboneConfig:
        """A single kind of segments whose embedding is zero is none."""
        table = tensors.get("embeddings.token_type_embeddings.weight")
        if config.segments == 1 and table is not None and not table.any():
            config.segments = 0
        return config

    def misfits(self, config: BackboneConfig, head: bool = True) -> list[str]:
        """See `Family.misfits`."""
        wanted = {
            "causal": False,
            "positions": "learned",
            "norm": "layer",
            "norm_position": "after",
            "embedding_norm": True,
            "first_attention_norm": True,
            "mlp": lambda kind: kind in PLAIN_OUT,
            "qk_norm": False,
            "window": None,
            "num_kv_heads": lambda heads: heads in (None, config.num_heads),
            "head_dim": lambda dim: dim in (None, config.hidden_size / config.num_heads),
        }
        kinds = ("attention", "attention_output", "mlp", "norm", *(("head",) if head else ()))
        found = misfit(config, wanted) + family.biases(config, dict.fromkeys(kinds, True))
        # The dense layers of the head and the pooler.
        if not config.bias:
            found.append("bias")
        return found + self._other_misfits(config, head)

    def _other_misfits(self, config: BackboneConfig, head: bool) -> list[str]:
        # The head's own activation is the body's there and always GELU here.
        return ["mlp"] if head and config.mlp != "gelu" else []

    def write(self, config: BackboneConfig, pad: int | None) -> dict[str, Any]:
        """See `Family.write`. Where there are no segments, there is one kind and its embedding is zero."""
        return {
            "hidden_size": config.hidden_size,
            "num_hidden_layers": config.num_layers,
            "num_attention_heads": config.num_heads,
            "hidden_act": PLAIN_OUT[config.mlp],
            "intermediate_size": config.mlp_width,
            "vocab_size": config.vocab_size,
            "max_position_embeddings": config.max_seq_len + self._offset({"pad_token_id": pad}),
            "position_embedding_type": "absolute",
            "layer_norm_eps": config.norm_eps,
            "type_vocab_size": config.segments or 1,
            "tie_word_embeddings": config.tie_embeddings,
            "hidden_dropout_prob": config.dropout,
            "attention_probs_dropout_prob": config.dropout,
            "initializer_range": config.init_std,
        }

    def body(self, config: BackboneConfig, theirs: dict[str, Any]) -> Iterator[Part]:
        """See `Family.body`."""
        there = "embeddings"
        yield Part(f"{there}.word_embeddings.weight", (EMBEDDINGS,))
        yield Part(
            f"{there}.position_embeddings.weight",
            ("backbone.embeddings.positions.weight",),
            skip=self._offset(theirs),
        )
        segments = f"{there}.token_type_embeddings.weight"
        if config.segments:
            yield Part(segments, ("backbone.embeddings.segments.weight",))
        else:
            yield Part(segments, (), zeros=(1, config.hidden_size))
        yield from linear(f"{there}.LayerNorm", "backbone.embeddings.norm", True)
        for i in range(config.num_layers):
            there, here = f"encoder.layer.{i}", family.layer(i)
            for name in ("query", "key", "value"):
                yield from linear(f"{there}.attention.self.{name}", f"{here}.attention.{name}", True)
            yield from linear(f"{there}.attention.output.dense", f"{here}.attention.output", True)
            yield from linear(f"{there}.attention.output.LayerNorm", f"{here}.attention_norm", True)
            yield from linear(f"{there}.intermediate.dense", f"{here}.mlp.up", True)
            yield from linear(f"{there}.output.dense", f"{here}.mlp.down", True)
            yield from linear(f"{there}.output.LayerNorm", f"{here}.mlp_norm", True)

    def head(self, config: BackboneConfig) -> Iterator[Part]:
        """See `Family.head`."""
        yield from linear("cls.predictions.transform.dense", "head.dense", True)
        yield from linear("cls.predictions.transform.LayerNorm", "head.norm", True)
        yield from self._output(config)

    def _output(self, config: BackboneConfig) -> Iterator[Part]:
        for copy, name in self.twins.items():
            if not config.tie_embeddings:
                yield Part(copy, ("head.bias",))
            yield Part(name, ("head.bias",))
        yield from Family.head(self, config)

    def pooler(self) -> Iterator[Part]:
        """See `Family.pooler`."""
        yield from linear("pooler.dense", "pooler.dense", True)

    def classifier(self, head: dict[str, Any], model: Any) -> tuple[str, list[Part]]:
        """See `Family.classifier`."""
        kind = head["kind"]
        if kind == "pooled":
            if head["pooling"] != "first" or not head.get("pooler"):
                what = f"pooling {head['pooling']!r}" if head["pooling"] != "first" else "no pooler"
                raise UserError(
                    f"{self.base}ForSequenceClassification reads the first position through a pooler: a "
                    f"classifier with {what} can't go out as one"
                )
            return f"{self.base}ForSequenceClassification", self._pooled()
        if kind == "tokens":
            return f"{self.base}ForTokenClassification", list(linear("classifier", "head", True))
        if kind == "span":
            return f"{self.base}ForQuestionAnswering", list(linear("qa_outputs", "head", True))
        raise UserError(f"a {self.name} with a head of kind {kind!r} has no place in transformers")

    def _pooled(self) -> list[Part]:
        return [
            *linear(f"{self.prefix}pooler.dense", "pooler.dense", True),
            *linear("classifier", "head", True),
        ]


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
        """See `Family.refine`."""
        return config

    def _other_misfits(self, config: BackboneConfig, head: bool) -> list[str]:
        return misfit(config, {"segments": 1})

    def head(self, config: BackboneConfig) -> Iterator[Part]:
        """See `Family.head`."""
        yield from linear("lm_head.dense", "head.dense", True)
        yield from linear("lm_head.layer_norm", "head.norm", True)
        yield from self._output(config)

    def _pooled(self) -> list[Part]:
        return [
            *linear("classifier.dense", "pooler.dense", True),
            *linear("classifier.out_proj", "head", True),
        ]
