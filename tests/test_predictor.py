"""`lm.load`: one object for everything that holds a model, in Python."""

import subprocess
import sys

import pytest
import torch

import lm as package
from lm import checkpoint as checkpoints
from lm.backbone import BackboneConfig, LanguageModel

PROMPTS = ["def parse", "class A:\n    ", "x"]


@pytest.fixture(scope="module")
def gpt(trained):
    return package.load(trained / "checkpoints/gpt")


def test_importing_lm_imports_nothing_heavy():
    code = "import sys, lm; assert lm.__version__; print({'torch', 'lightning'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "set()\n"


@pytest.mark.parametrize("words", [["generate", "def", "--tokens=2"], ["info"]])
def test_the_commands_import_neither_lightning_nor_the_compiler(trained, words):
    """Either takes as long as torch itself, or longer."""
    words.insert(1, str(trained / "checkpoints/gpt"))
    code = f"import sys; from lm.cli import run; run({words!r}); "
    code += "print(sorted({'lightning', 'torch._dynamo', 'sympy', 'transformers'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.endswith("[]\n")


@pytest.mark.parametrize("options", [{"temperature": 0}, {"seed": 3, "top_p": 0.9}])
def test_several_prompts_give_what_each_gives_alone(gpt, options):
    together = gpt.generate(PROMPTS, 16, **options)
    seed = options.pop("seed", 0)
    for i, prompt in enumerate(PROMPTS):
        alone = gpt.generate(prompt, 16, seed=seed + i, **options)
        assert together[i] == alone
        assert "".join(gpt.stream(prompt, 16, seed=seed + i, **options)) == alone


def test_it_is_what_the_command_writes(gpt, lm, trained):
    words = ("--tokens=12", "--seed=5", "--temperature=0.9")
    result = lm("generate", trained / "checkpoints/gpt", "def", *words)
    assert result.out == "def" + gpt.generate("def", 12, seed=5, temperature=0.9) + "\n"
    result = lm("generate", trained / "checkpoints/gpt", "def", *words, "--samples=2")
    parts = gpt.generate(["def", "def"], 12, seed=5, temperature=0.9)
    assert result.out == "\n----\n".join("def" + part for part in parts) + "\n"


def test_a_text_longer_than_the_model_sees(gpt):
    assert gpt.config.max_seq_len == 32
    long = gpt.generate(["def", "def"], 60, temperature=0)
    assert long[0] == long[1] == "".join(gpt.stream("def", 60, temperature=0))
    assert long[0].startswith(gpt.generate("def", 20, temperature=0))


def test_a_text_ends_before_a_stop_string(gpt):
    whole = gpt.generate("def", 25, temperature=0)
    stop = whole[4:6]
    expected = whole[: whole.index(stop)]
    assert gpt.generate("def", 25, temperature=0, stop=stop) == expected
    assert gpt.generate(["def"], 25, temperature=0, stop=[stop, "zzz"]) == [expected]


def test_masks(trained, lm):
    bert = package.load(trained / "checkpoints/bert")
    (guesses,) = bert.fill("a <mask> b", best=3)
    assert len(guesses) == 3
    assert bert.fill(["a <mask> b", "<mask> <mask>"], best=3)[0] == [guesses]
    assert repr(guesses[0][0]) in lm("fill", trained / "checkpoints/bert", "a <mask> b").out


@pytest.fixture(scope="module")
def talker(tmp_path_factory, tokenizer):
    torch.manual_seed(0)
    config = BackboneConfig(
        vocab_size=tokenizer.vocab_size, max_seq_len=64, hidden_size=32, num_layers=2, num_heads=4
    )
    net = LanguageModel(config)
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.ndim == 2:
                parameter.mul_(6)
    record = checkpoints.make_record("lm.tasks.InstructionTuning", config, tokenizer)
    record |= {"head": {"kind": "language"}, "labels": []}
    path = tmp_path_factory.mktemp("talker") / "chat.ckpt"
    state = {f"net.{name}": value for name, value in net.state_dict().items()}
    checkpoints.write({"lm": record, "state_dict": state, "global_step": 1}, path)
    return package.load(path)


def test_talking(talker):
    one = talker.chat("Hi", tokens=8, temperature=0)
    messages = [{"role": "user", "content": "Hi"}]
    assert talker.chat(messages, tokens=8, temperature=0) == one
    assert talker.chat(["Hi", "Good day"], tokens=8, temperature=0)[0] == one
    assert talker.chat([messages, [{"role": "user", "content": "x"}]], tokens=8, temperature=0)[0] == one
    dialogue = talker.dialogue(tokens=8, temperature=0)
    assert "".join(dialogue.say("Hi")) == one
    assert dialogue.messages == [("user", "Hi"), ("assistant", one)]
    assert talker.chat("Hi", system="Be brief", tokens=8, temperature=0) != one


@pytest.mark.parametrize(
    ("use", "said"),
    [
        (lambda m: m.classify("a"), "is a pretrained GPT: use `lm generate`"),
        (lambda m: m.fill("<mask>"), "writes from left to right"),
        (lambda m: m.chat("a"), "has not learned to chat"),
        (lambda m: m.generate("a", temperature=-1), "`temperature` -1"),
    ],
)
def test_what_it_can_t_do_is_said(gpt, use, said):
    with pytest.raises(package.UserError, match=said):
        use(gpt)


def test_a_text_beside_several(gpt):
    for use in (lambda: gpt.answer(["a", "b"], "text"), lambda: gpt.classify("abc", ["x", "y", "z"])):
        with pytest.raises(package.UserError, match="give one of each"):
            use()


def test_no_such_model_or_device(trained, tmp_path):
    with pytest.raises(package.UserError, match="`dtype` int3: it can be fp32, bf16"):
        package.load("nothing", dtype="int3")
    with pytest.raises(package.UserError, match="no such checkpoint or folder"):
        package.load(tmp_path / "nothing")
    with pytest.raises(package.UserError, match="`device` cuda:7: there is none here"):
        package.load(trained / "checkpoints/gpt", device="cuda:7")


def test_weights_in_bf16_write_too(trained):
    model = package.load(trained / "checkpoints/gpt", dtype="bf16")
    assert {p.dtype for p in model.writer().parameters()} == {torch.bfloat16}
    written = model.generate("def ", 8, temperature=0)
    assert written == package.load(trained / "checkpoints/gpt", dtype="bf16").generate(
        "def ", 8, temperature=0
    )


def test_weights_in_bf16_of_an_adapter_whose_network_was_made_already(trained):
    model = package.load(trained / "checkpoints/gpt").model
    _ = model.network
    model.to(torch.bfloat16)
    assert {p.dtype for p in model.network.parameters()} == {torch.bfloat16}
