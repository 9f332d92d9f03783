"""The families of Hugging Face models that are known here, and which one a model of ours belongs to."""

from lm.backbone import BackboneConfig
from lm.convert.bert import Bert, Roberta
from lm.convert.dinov2 import Dinov2, Dinov2WithRegisters
from lm.convert.family import Family
from lm.convert.gpt2 import GPT2
from lm.convert.llama import Llama, Qwen2, Qwen3
from lm.convert.modernbert import ModernBert
from lm.convert.resnet import RegNet, ResNet
from lm.convert.vit import Ast, DeiT, Vit
from lm.convert.whisper import Whisper
from lm.errors import UserError

# In the order in which a model of ours tries them: RoBERTa before BERT, which takes any number of segments.
_TEXT = (GPT2(), Llama(), Qwen2(), Qwen3(), Roberta(), Bert(), ModernBert())
MEDIA = (Vit(), DeiT(), Dinov2(), Dinov2WithRegisters(), ResNet(), RegNet(), Whisper(), Ast())
FAMILIES: dict[str, Family] = {family.name: family for family in (*_TEXT, *MEDIA)}


def choose(config: BackboneConfig, head: bool = True, padding: bool = True) -> Family:
    """The family in which a model of this shape computes what it computes here; where there is none, a
    UserError says which fields don't fit the nearest one.

    Args:
        head: whether its language-model head goes out too.
        padding: whether its tokenizer has a padding token, from which RoBERTa counts positions.
    """
    misfits = {
        family.name: family.misfits(config, head)
        for family in _TEXT
        if padding or family.name != Roberta.name
    }
    nearest = min(misfits, key=lambda name: len(misfits[name]))
    if not misfits[nearest]:
        return FAMILIES[nearest]
    fields = ", ".join(f"{name} {getattr(config, name)}" for name in dict.fromkeys(misfits[nearest]))
    raise UserError(
        f"no family of Hugging Face models ({', '.join(misfits)}) has this shape; the nearest is {nearest}, "
        f"where these fields of the backbone don't fit: {fields}"
    )
