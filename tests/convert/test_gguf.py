"""GGUF files beside the networks that they were made of: number by number, and by llama.cpp itself."""

import json
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch

from lm.backbone import BackboneConfig, LanguageModel
from lm.convert import export_folder, export_gguf, open_model
from lm.errors import UserError
from lm.inference.generate import prompt_ids
from lm.tokenizer import load_tokenizer, tokenizer_from_bytes
from lm.tokenizer.chat import with_chat
from lm.tokenizer.template import chat_format_of
from tests.commands.test_apply import CLASSES, KINDS, head_of
from tests.commands.test_apply import save as save_checkpoint

from .conftest import opened, scramble

gguf = pytest.importorskip("gguf")

SMALL = {"hidden_size": 64, "num_layers": 2, "num_heads": 4, "vocab_size": 430, "max_seq_len": 96}
SMALL |= {"rope_theta": 100.0}  # so that the last positions differ much
STRETCHED = {"rope_type": "llama3", "rope_factor": 8.0, "rope_original_len": 16}
GPT2 = {"positions": "learned", "norm": "layer", "mlp": "gelu_tanh", "bias": True}
ONE_BIAS = {"attention_bias": True, "attention_output_bias": False}
# The shape, the architecture.
CASES = {
    "llama": ({"num_kv_heads": 2}, "llama"),
    "llama, biases, not tied": ({"bias": True, "tie_embeddings": False, "norm_eps": 1e-2}, "llama"),
    "llama, wide heads": ({"head_dim": 32, "num_kv_heads": 1, "attention_bias": True}, "llama"),
    "llama, linear": ({"rope_type": "linear", "rope_factor": 4.0}, "llama"),
    "llama 3": ({**STRETCHED, "num_kv_heads": 2}, "llama"),
    "narrow": ({"hidden_size": 48, "mlp_hidden_size": 80, "qk_norm": True}, "qwen3"),
    "qwen 2": ({**ONE_BIAS, "num_kv_heads": 2}, "qwen2"),
    "qwen 3": ({"qk_norm": True, "head_dim": 32, "num_kv_heads": 2, "tie_embeddings": False}, "qwen3"),
    "gpt 2": (GPT2, "gpt2"),
}
NAMES = {
    "attn_q": "attention.query",
    "attn_k": "attention.key",
    "attn_v": "attention.value",
    "attn_output": "attention.output",
    "attn_q_norm": "attention.query_norm",
    "attn_k_norm": "attention.key_norm",
    "attn_norm": "attention_norm",
    "ffn_norm": "mlp_norm",
    "ffn_gate": "mlp.gate",
    "ffn_up": "mlp.up",
    "ffn_down": "mlp.down",
}
WHOLE = {
    "token_embd": "backbone.embeddings.tokens",
    "position_embd": "backbone.embeddings.positions",
    "output_norm": "backbone.norm",
    "output": "head",
}
TEXTS = [
    "The quick brown fox, aged 31, isn't lazy:  two  spaces,\ttabs\nand lines.\n\n  Indented. ",
    'def f(x: int = 0) -> list[str]:\n    return [f"{x!r}" for _ in range(10 ** 3)]  # x\n\n\n        pass',
    "滚滚长江东逝水，浪花淘尽英雄。\u3000“是非成败”转头空……１２３",
    "Ünïcödé, naïve café — “quotes” • 3½ €, ﬁne ①",
    "e\u0301 nai\u0308ve a\u0301\u0302\u0303b",
    "😀👩‍👩‍👧 🏳️‍🌈 \u200b \ufeff end",
    *("", " ", "  ", "   ", "\n", "\n\n\n", "\t\t", " \n ", "\r\n\r\n x\r", " a", "a ", "a  ", "a\n"),
    *(
        "\u00a0nbsp\u00a0\u00a0x",
        "\u2028line\u2029para",
        "\x0b\x0c ff",
        "\x85nel x",
        " " * 37 + "x",
        "\n" * 9,
    ),
    *("<s>", "</s>", "x</s>y <s> z", "<unk>", "<pad>", "<mask>", "<|user|>hi<|end|>", "<|endoftext|>"),
    *("<0x0A>", "<0x41>b", "[PAD421]", "<|im_start|>user\nhi<|im_end|>"),
    "12345678901234567890 3.14159 1,000,000 0x1F 1st",
    "٣٤٥ १२३ Ⅷ ², ³ ½",
    "I'll we've DON'T she'd 'tis I'M you're 's curly’t",
    "HelloWORLDfooBar_baz-qux C++ @user #tag 100%",
    "!!!???...---===***^~`|<> _ ___a",
    "日本語のテスト。안녕하세요 Привет, мир! مرحبا สวัสดี नमस्ते",
    "a\x00b\x01\x7f \U0010ffff \ue000 \ufffd \U000e0001",
    "ǅ ſ ß ẞ İ ı ﷽ 𒐫",
    "x" * 200,
]


# A real llama.cpp in a process of its own, which can be ended: its destructor may wait for itself.
LLAMA_CPP = """
import sys, xllamacpp as engine
wanted = engine.CommonParams()
wanted.model.path, wanted.n_parallel, wanted.warmup, wanted.port = sys.argv[1], 1, False, 0
wanted.n_gpu_layers, wanted.verbosity = 0, -1
wanted.cpuparams.n_threads = wanted.cpuparams_batch.n_threads = 1
# Without fp16 between the layers, as it has by default.
wanted.cache_type_k = wanted.cache_type_v = engine.ggml_type.GGML_TYPE_F32
wanted.flash_attn_type = engine.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
server = engine.Server(wanted)
print("listening at", server.listening_address, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def llama_cpp() -> Iterator[Callable]:
    """Opens a file with a real llama.cpp: gives a function that asks its server."""
    pytest.importorskip("xllamacpp")
    pipe, nothing = subprocess.PIPE, subprocess.DEVNULL
    servers: list[subprocess.Popen] = []

    def serve(path):
        words = [sys.executable, "-c", LLAMA_CPP, str(path)]
        servers.append(subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=nothing, text=True))
        said = iter(servers[-1].stdout.readline, "")
        address = next(line for line in said if line.startswith("listening at")).split()[-1]

        def ask(place: str, **words):
            request = urllib.request.Request(
                f"{address}/{place}", json.dumps(words).encode(), {"Content-Type": "application/json"}
            )
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)

        return ask

    yield serve
    for server in servers:
        server.kill()
        server.communicate()


def made(shape: dict, tokenizer, **record):
    network = scramble(LanguageModel(BackboneConfig(**{**SMALL, **shape})))
    return opened(network, tokenizer, record)


def ours_of(name: str, config: BackboneConfig) -> list[str]:
    """Our tensors of one of theirs, by an independent table."""
    stem, kind = name.rsplit(".", 1)
    if stem in WHOLE:
        return [f"{WHOLE[stem]}.{kind}"]
    _, layer, part = stem.split(".")
    parts = ("attn_q", "attn_k", "attn_v") if part == "attn_qkv" else (part,)
    return [f"backbone.blocks.{layer}.{NAMES[part]}.{kind}" for part in parts]


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "q8_0", "q4_0"])
@pytest.mark.parametrize(
    "case", ["llama, biases, not tied", "llama 3", "narrow", "qwen 2", "qwen 3", "gpt 2"]
)
def test_numbers(case, dtype, tokenizer, tmp_path):
    shape, architecture = CASES[case]
    model = made(shape, tokenizer)
    config, weights = model.config, dict(model.network.state_dict())
    done = export_gguf(model, tmp_path / "x.gguf", dtype)
    reader = gguf.GGUFReader(tmp_path / "x.gguf")
    said = {name: field.contents() for name, field in reader.fields.items()}
    assert said["general.architecture"] == architecture == done.architecture
    assert said["general.name"] == "x" and said["general.license"] == "unknown" and said["lm.version"]
    assert (
        said["general.file_type"] == {"float32": 0, "float16": 1, "q4_0": 2, "q8_0": 7, "bfloat16": 32}[dtype]
    )
    assert said[f"{architecture}.context_length"] == 96 and said["tokenizer.ggml.eos_token_id"] == 3
    assert len(said["tokenizer.ggml.tokens"]) == 430
    assert done.nbytes == sum(tensor.n_bytes for tensor in reader.tensors)
    wanted = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "q8_0": "Q8_0", "q4_0": "Q4_0"}[dtype]
    logits = "token_embd.weight" if config.tie_embeddings else "output.weight"
    seen = set()
    for tensor in reader.tensors:
        kind, found = tensor.tensor_type.name, gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        if tensor.name == "rope_freqs.weight":
            continue  # llama.cpp's results show whether it is right
        mine = ours_of(tensor.name, config)
        seen |= set(mine)
        values = torch.cat([weights[name] for name in mine]).numpy()
        heads = {"attn_q": config.num_heads, "attn_k": config.kv_heads}.get(tensor.name.split(".")[-2])
        if architecture == "llama" and heads:
            half = config.dim_per_head // 2
            order = [h * 2 * half + s * half + i for h in range(heads) for i in range(half) for s in (0, 1)]
            values = values[order]
        if values.ndim == 1 or tensor.name.startswith("position_embd"):
            expected = "F32"
        elif values.shape[-1] % 32 and wanted.startswith("Q"):
            expected = "F16"
        else:
            expected = "Q8_0" if wanted == "Q4_0" and tensor.name == logits else wanted
        assert kind == expected, tensor.name
        if kind.startswith("Q"):
            blocks = np.abs(values.reshape(-1, 32)).max(-1, keepdims=True)
            step = {"Q8_0": 0.5 / 127, "Q4_0": 1 / 8}[kind] + 2**-11  # the scale is rounded, too
            room = (blocks * step).repeat(32, -1).reshape(values.shape)
        else:
            room = np.abs(values) * {"F32": 0, "F16": 2**-11, "BF16": 2**-8}[kind]
            room = np.maximum(room, 1e-7 if kind == "F16" else 0)  # subnormal ones
        assert found.shape == values.shape and (np.abs(found - values) <= room).all(), tensor.name
        assert kind == "F32" or (found != values).any()
    tied = {"head.weight"} if config.tie_embeddings else set()
    assert seen == set(weights) - tied
    assert any("F16 in the place of" in note for note in done.notes) is (
        case == "narrow" and dtype.startswith("q")
    )


@pytest.mark.parametrize(("shape", "architecture"), CASES.values(), ids=CASES)
def test_llama_cpp_computes_the_same(shape, architecture, tokenizer, tmp_path, llama_cpp):
    model = made(shape, tokenizer)
    assert export_gguf(model, tmp_path / "x.gguf", "float32").architecture == architecture
    ids = [2, *torch.randint(9, 420, (70,), generator=torch.Generator().manual_seed(1)).tolist()]
    with torch.no_grad():
        ours = model.network(torch.tensor([ids]))[0, -1].log_softmax(-1)
    more = {
        "n_predict": 1,
        "n_probs": 430,
        "logit_bias": [[300, 1000]],
    }  # a whole character, so that it tells
    answer = llama_cpp(tmp_path / "x.gguf")("completion", prompt=ids, **more)
    rows = answer["completion_probabilities"][0]["top_logprobs"]
    theirs = torch.tensor([row["logprob"] for row in sorted(rows, key=lambda row: row["id"])])
    # Its GELU is a table of fp16.
    torch.testing.assert_close(theirs, ours, atol=0.02 if architecture == "gpt2" else 2e-4, rtol=0)
    assert ours.std() > 0.5, "the network is too dull for this test"


def cut(document: dict, *steps: dict, **model) -> bytes:
    """A byte-level tokenizer with other steps before its last."""
    document = json.loads(json.dumps(document))
    last = {**document["pre_tokenizer"], "use_regex": steps[-1:] != () and steps[-1]["type"] != "Split"}
    last["use_regex"] |= not steps
    document["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [*steps, last]}
    document["model"] |= model
    return json.dumps(document).encode()


WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
WORDS += r"\s+(?!\S)|\s+"


def split(pattern: str) -> dict:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


CUTS = {
    "gpt-2": ((), {}),
    "smollm": (({"type": "Digits", "individual_digits": True},), {}),
    "qwen2": ((split(WORDS % ""),), {}),
    "smaug-bpe": ((split(WORDS % "{1,3}"),), {}),
    "llama-bpe": ((split(WORDS % "{1,3}"),), {"ignore_merges": True}),
}


REAL = [pytest.param("real_data", name, marks=pytest.mark.real_data) for name in ("llama", "gpt-2")]


@pytest.mark.parametrize(
    ("source", "name"), [*(("own_data", name) for name in ("ours", "llama", *CUTS)), *REAL]
)
def test_tokens(source, name, tokenizer, request, tmp_path, llama_cpp):
    sources = request.getfixturevalue(source)
    if name in CUTS:
        kept = json.loads(load_tokenizer(sources / "gpt2-vocab").to_bytes())["tokenizer"]
        words = tokenizer_from_bytes(cut(kept, *CUTS[name][0], **CUTS[name][1]))
    else:
        words = tokenizer if name == "ours" else load_tokenizer(sources / "stories260K-hf/tokenizer.model")
    shape = {"hidden_size": 32, "num_layers": 1, "vocab_size": words.vocab_size + 3}
    assert not export_gguf(made(shape, words), tmp_path / "x.gguf").notes
    said = (tmp_path / "x.gguf").read_bytes().partition(b"tokenizer.ggml.pre")[2]
    assert said[12:].startswith((name if name in CUTS else "default").encode())
    ask = llama_cpp(tmp_path / "x.gguf")
    for text in TEXTS:
        assert ask("tokenize", content=text, parse_special=False)["tokens"] == words.encode(text), text
    begun = ask("tokenize", content="a", add_special=True)["tokens"]
    assert begun == words.opening + words.encode("a")
    if name != "llama":  # which takes the marker for a space itself
        marked = ask("tokenize", content="a \u2581b")["tokens"]
        assert (marked == words.encode("a \u2581b")) is (name != "ours"), "then docs/compression.md is wrong"


CHAT = [("system", "Be brief."), ("user", " Who's there?\n"), ("assistant", "Me."), ("user", "Who?")]


@pytest.mark.parametrize("name", ["ours", "chatml", "own template"])
def test_chats(name, tokenizer, own_data, tmp_path, llama_cpp):
    words, template = with_chat(tokenizer)[0], None
    if name != "ours":
        words = load_tokenizer(own_data / "gpt2-vocab").with_pieces(["<|im_start|>", "<|im_end|>"])
    if name == "own template":
        template = (
            "{% for m in messages %}{{ '<|im_start|>' + m.role + ': ' + m.content | trim + '<|im_end|>' }}"
            "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant: ' }}{% endif %}"
        )
    model = made({"vocab_size": words.vocab_size}, words, task="lm.tasks.Chat")
    model.chat_template = template
    export_gguf(model, tmp_path / "x.gguf")
    chat = chat_format_of(words, template)
    said = {name: field.contents() for name, field in gguf.GGUFReader(tmp_path / "x.gguf").fields.items()}
    assert (
        said["tokenizer.ggml.eot_token_id"] == chat.end_id
        and said["tokenizer.chat_template"] == chat.template
    )
    ask = llama_cpp(tmp_path / "x.gguf")
    messages = [{"role": role, "content": content} for role, content in CHAT]
    text = ask("apply-template", messages=messages)["prompt"]
    found = ask("tokenize", content=text, add_special=True, parse_special=True)["tokens"]
    assert found == chat.render(CHAT, answer_next=True)[0]


def test_the_command(lm, tiny_gpt, tmp_path, llama_cpp):
    more = ("--data.seq_len=96", "--model.backbone.mlp=swiglu", "--name=swiglu")
    assert lm("fit", *tiny_gpt, *more).status == 0
    done = lm("export", "checkpoints/swiglu", "x.gguf", "--dtype", "float32")
    size = (tmp_path / "x.gguf").stat().st_size
    assert done.status == 0 and not done.err
    assert done.out.startswith("x.gguf: qwen3, ") and f"float32, {size / 1e6:.1f} MB\n" in done.out
    ours = lm("generate", "checkpoints/swiglu", "def f", "--temperature=0", "--tokens=64").out
    ids = prompt_ids(open_model("checkpoints/swiglu").tokenizer, "def f")
    theirs = llama_cpp("x.gguf")("completion", prompt=ids, n_predict=64, temperature=0)
    assert theirs["tokens_predicted"] == 64 and ours.rstrip("\n") == ("def f" + theirs["content"]).rstrip(
        "\n"
    )
    assert lm("compress", "checkpoints/swiglu", "--bits=8").status == 0
    again = lm("export", "checkpoints/swiglu/int8.ckpt", "y.gguf", "--dtype=q8_0")
    assert again.status == 0 and "int8.ckpt were rounded to 8 bits" in again.out


@pytest.fixture
def change(own_data, tmp_path):
    """A Llama's folder `foreign` with GPT-2's tokenizer: a function that changes its tokenizer.json."""
    words = load_tokenizer(own_data / "gpt2-vocab")
    shape = {"hidden_size": 32, "num_layers": 1, "vocab_size": words.vocab_size + 1}
    export_folder(made(shape, words), tmp_path / "foreign")
    path = tmp_path / "foreign/tokenizer.json"

    def change(**parts):
        path.write_text(json.dumps(json.loads(path.read_text()) | parts))

    return change


def test_other_tokenizers_are_refused(lm, change, own_data, tmp_path):
    bytes_ = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    sequence = {"type": "Sequence"}
    spaces = {"type": "WhitespaceSplit"}
    known = json.loads((tmp_path / "foreign/tokenizer.json").read_text())
    token = {"id": len(known["model"]["vocab"]), "content": " x ", "special": False, "normalized": False}
    token |= {"lstrip": True, "rstrip": False, "single_word": False}
    for parts, why in (
        ({"pre_tokenizer": {**sequence, "pretokenizers": [spaces, bytes_]}}, "has no name for"),
        ({"pre_tokenizer": {**bytes_, "add_prefix_space": True}}, "has no name for"),
        ({"pre_tokenizer": {**sequence, "pretokenizers": [split("a|b"), bytes_]}}, "has no name for"),
        ({"pre_tokenizer": bytes_, "normalizer": {"type": "NFKC"}}, "it normalises them"),
        (
            {"normalizer": None, "added_tokens": [*known["added_tokens"], token]},
            "depend on what is beside them",
        ),
    ):
        change(**parts)
        failed = lm("export", "foreign", "x.gguf")
        assert failed.status == 1 and why in failed.err and len(failed.err.splitlines()) == 1, failed.err
    change(
        normalizer={"type": "NFC"},
        added_tokens=[*known["added_tokens"], {**token, "lstrip": False, "content": "<x>"}],
    )
    assert "NFC first, which llama.cpp does not" in lm("export", "foreign", "y.gguf").out
    for name, why in (("test_model", "it is no byte-pair model"), ("stories", "user-defined")):
        path = own_data / f"sentencepiece-models/{name}.model"
        words = load_tokenizer(path if path.exists() else own_data / "stories260K-hf/tokenizer.model")
        data = words.to_bytes() + (b"" if path.exists() else b"\x0a\x08\x0a\x04<a,>\x18\x04")
        words = tokenizer_from_bytes(data)
        with pytest.raises(UserError, match=why):
            export_gguf(made({"vocab_size": words.vocab_size}, words), tmp_path / "x.gguf")
    assert not (tmp_path / "x.gguf").exists()


def test_bad_input(lm, trained, tokenizer, tmp_path, monkeypatch):
    task, extra = KINDS["single"]
    save_checkpoint(tmp_path / "c.ckpt", tokenizer, CLASSES[task.__name__], head_of("single", extra), **extra)
    (tmp_path / "there.gguf").write_bytes(b"mine")
    export_folder(made({}, tokenizer), tmp_path / "fits")
    for shape, name in (({"mlp": "geglu"}, "geglu"), ({"qk_norm": True, "window": 8}, "window")):
        export_folder(made(shape, tokenizer), tmp_path / name)
    runs = trained / "checkpoints"
    for words, status, what in (
        ((runs / "gpt", "x.gguf"), 1, "llama.cpp's qwen3 has swiglu for its `mlp`, this model relu2"),
        ((runs / "bert", "x.gguf"), 1, "does not write texts, and a GGUF file is for models that do"),
        (("c.ckpt", "x.gguf"), 1, "does not write texts"),
        (("geglu", "x.gguf"), 1, "this model geglu: the file would load and be wrong"),
        (("window", "x.gguf"), 1, "has no window, this model one of 8 tokens"),
        (("fits", "there.gguf"), 1, "there.gguf is there already: name another file, or --force"),
        (("fits", "folder", "--to=gguf"), 2, "folder: the name of a GGUF file ends in .gguf"),
        (("fits", "no/x.gguf"), 1, "cannot write no/x.gguf: No such"),
        (("fits", "x.gguf", "--bits=8"), 2, "--bits is for --to onnx"),
        (("fits", "x", "--dtype=q8_0"), 2, "--dtype q8_0 is for --to gguf"),
        (("fits", "x.gguf", "--dtype=q5_0"), 2, "invalid choice: 'q5_0'"),
    ):
        failed = lm("export", *words)
        assert failed.status == status and what in failed.err.splitlines()[-1], (words, failed.err)
    assert (tmp_path / "there.gguf").read_bytes() == b"mine"
    assert lm("export", "fits", "there.gguf", "--force").status == 0
    assert (tmp_path / "there.gguf").read_bytes()[:4] == b"GGUF"
    large = made({}, tokenizer)
    with torch.no_grad():
        large.network.backbone.blocks[0].mlp.up.weight[0, 0] = 70_000
    with pytest.raises(UserError, match=r"ffn_up.weight has values beyond its range; use bfloat16"):
        export_gguf(large, tmp_path / "x.gguf")
    monkeypatch.setitem(sys.modules, "gguf", None)
    failed = lm("export", "fits", "x.gguf")
    assert failed.status == 1 and "GGUF needs gguf: pip install -e '.[gguf]'" in failed.err
    assert not [path for path in tmp_path.iterdir() if path.name.endswith((".partial", "x.gguf"))]
