"""Each bad input gets a clear line or two on stderr, the right exit status, and no traceback."""

import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
GPT = str(ROOT / "configs/pretrain/gpt-nano.yaml")


def refuses(result, status: int, *said: str) -> None:
    """The command ended so, said these things, in one or two lines."""
    assert "Traceback" not in result.err
    lines = [
        line
        for line in result.err.splitlines()
        if line.startswith(("lm ", "lm:")) or "Choose another" in line
    ]
    assert result.status == status, result.err
    assert 1 <= len(lines) <= 2, result.err
    for words in said:
        assert words in result.err, result.err


def fit_on(lm, tiny_gpt, corpus, *more):
    words = [word for word in tiny_gpt if not word.startswith("--data.corpus")]
    return lm("fit", *words, f"--data.corpus={corpus}", *more)


def nothing_left(folder: Path) -> bool:
    """No corpus and nothing half-written of one."""
    data = folder / "data"
    return not data.exists() or not [p for p in data.iterdir() if p.suffix != ".lock"]


def test_no_such_file(lm, tiny_gpt, tmp_path):
    refuses(fit_on(lm, tiny_gpt, "nowhere.txt"), 1, "nowhere.txt")
    assert nothing_left(tmp_path)


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_an_empty_file_or_folder(lm, tiny_gpt, tmp_path, kind):
    path = tmp_path / "empty"
    path.mkdir() if kind == "folder" else path.write_text("")
    refuses(fit_on(lm, tiny_gpt, path), 1, "nothing to read", str(path))
    assert nothing_left(tmp_path)


def test_a_corpus_smaller_than_one_window(lm, tiny_gpt, code_text):
    result = fit_on(lm, tiny_gpt, code_text, "--data.seq_len=1000000")
    refuses(result, 1, "too few for one window", "--data.seq_len")


def test_a_vocabulary_larger_than_the_text_allows(lm, tiny_gpt, code_text, tmp_path):
    refuses(fit_on(lm, tiny_gpt, code_text, "--data.vocab_size=100000"), 1, "--data.vocab_size")
    assert nothing_left(tmp_path)


def test_binary(lm, tiny_gpt, tmp_path):
    (tmp_path / "image.txt").write_bytes(bytes(range(256)) * 400)
    refuses(fit_on(lm, tiny_gpt, tmp_path / "image.txt"), 1, "image.txt", "binary")


def test_the_wrong_encoding_is_said_and_read(lm, tiny_gpt, code_text, tmp_path):
    (tmp_path / "latin.txt").write_bytes((code_text.read_text() + "naïve\n").encode("cp1252"))
    result = fit_on(lm, tiny_gpt, tmp_path / "latin.txt", "--trainer.max_steps=1")
    assert result.status == 0, result.err
    assert "latin.txt" in result.err and "not UTF-8" in result.err


@pytest.mark.real_data
def test_real_books_in_the_wrong_encoding(lm, tiny_gpt, real_data):
    result = fit_on(lm, tiny_gpt, real_data / "gutenberg/milton-paradise.txt", "--trainer.max_steps=1")
    latin = fit_on(
        lm, tiny_gpt, real_data / "gutenberg/chesterton-ball.txt", "--name=b", "--trainer.max_steps=1"
    )
    assert (result.status, latin.status) == (0, 0), result.err + latin.err
    said = [r for r in (result, latin) if "not UTF-8" in r.err]
    assert said and all(".txt" in r.err for r in said)


def test_a_broken_line_of_json(lm, tiny_gpt, tmp_path):
    lines = [json.dumps({"text": "some words " * 20})] * 30
    lines[17] = '{"text": "cut'
    (tmp_path / "broken.jsonl").write_text("\n".join(lines))
    refuses(fit_on(lm, tiny_gpt, tmp_path / "broken.jsonl"), 1, "broken.jsonl:18")


def test_json_without_the_field(lm, tiny_gpt, tmp_path):
    (tmp_path / "other.jsonl").write_text(json.dumps({"content": "words", "id": 1}) + "\n")
    refuses(fit_on(lm, tiny_gpt, tmp_path / "other.jsonl"), 1, "other.jsonl:1", "text", "content")


def damaged_corpus(trained: Path, tmp_path: Path) -> Path:
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    return next(path for path in (tmp_path / "data").iterdir() if path.is_dir())


def test_a_shard_cut_short(lm, tiny_gpt, trained, tmp_path):
    shard = damaged_corpus(trained, tmp_path) / "train-00000.bin"
    shard.write_bytes(shard.read_bytes()[:-10])
    refuses(lm("fit", *tiny_gpt, "--name=new"), 1, "train-00000.bin")


def test_a_flipped_byte(lm, tiny_gpt, trained, tmp_path):
    shard = damaged_corpus(trained, tmp_path) / "train-00000.bin"
    content = bytearray(shard.read_bytes())
    content[1000] ^= 1
    shard.write_bytes(content)
    refuses(lm("fit", *tiny_gpt, "--name=new"), 1, "train-00000.bin", "checksum")


def test_a_manifest_of_a_newer_version(lm, tiny_gpt, trained, tmp_path):
    path = damaged_corpus(trained, tmp_path) / "manifest.json"
    manifest = json.loads(path.read_text())
    key = next(k for k in manifest if "version" in k or "format" in k)
    path.write_text(json.dumps({**manifest, key: 999}))
    refuses(lm("fit", *tiny_gpt, "--name=new"), 1, "newer")
    refuses(lm("info", path.parent), 1, "newer")


def test_heads_that_do_not_divide_the_width(lm, tiny_gpt):
    result = lm("fit", *tiny_gpt, "--model.init_args.backbone.num_heads=3")
    refuses(result, 2, "num_heads 3", "hidden_size 32")


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("num_layers", "num_layer"),
        ("max_steps", "max_stepss"),
        ("vocab_size", "vocab_sizee"),
        ("decay:", "decai:"),
    ],
)
def test_a_misspelt_key(lm, tmp_path, right, wrong):
    (tmp_path / "wrong.yaml").write_text(Path(GPT).read_text().replace(right, wrong))
    refuses(
        lm("fit", "--config", "wrong.yaml"), 2, wrong.strip(":"), "did you mean '", f"{right.strip(':')}'?"
    )


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--data.columns=review,stars", "in columns: write a list as '[review,stars]'"),
        ("--data.columns={a: 1}", "in columns: write a list as '[a,b]'"),
        ("--model.pooling=frist", "in pooling: must be one of auto, first, mean, last. Got value: frist"),
        ("--trainer.precision=17", "must be one of 64, 32, 16, transformer-engine, "),
    ],
)
def test_what_is_no_list_and_no_choice(lm, option, said):
    config = ROOT / "configs/finetune/texts.yaml"
    refuses(lm("fit", "--config", config, "--data.train=x.csv", option), 2, said)


def test_a_misspelt_option(lm):
    refuses(lm("fit", "--config", GPT, "--data.sec_len=4"), 2, "sec_len", "did you mean --data.seq_len?")


def test_an_option_without_what_stands_before_it(lm):
    refuses(lm("fit", "--config", GPT, "--max_steps=4"), 2, "did you mean --trainer.max_steps?")


def test_a_value_of_the_wrong_kind(lm):
    refuses(lm("fit", "--config", GPT, "--data.seq_len=many"), 2, "seq_len", "many")


def test_a_class_that_is_not_there(lm):
    refuses(lm("fit", "--config", GPT, "--model=lm.tasks.CausalPretrainin"), 2, "CausalPretrainin")


def test_yaml_that_is_none(lm, tmp_path):
    (tmp_path / "broken.yaml").write_text("a: [b\n")
    refuses(lm("fit", "--config", "broken.yaml"), 2, "parsing")


def test_a_missing_config_file(lm):
    refuses(lm("fit", "--config", "configs/pretrain/gpt-nan.yaml"), 2, "configs/pretrain/gpt-nan.yaml")


def test_no_config_at_all(lm):
    refuses(lm("fit"), 2, "`lm fit gpt-nano`", "`lm configs`")


class Touch:
    """A pickle that leaves a file behind when it is opened."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (os.system, (f"touch {self.path}",))


def bad_checkpoint(kind: str, folder: Path, trained: Path) -> Path:
    path = folder / "bad.ckpt"
    match kind:
        case "text":
            path.write_text("not a checkpoint at all")
        case "empty":
            path.write_bytes(b"")
        case "cut short":
            whole = (trained / "checkpoints/gpt/best.ckpt").read_bytes()
            path.write_bytes(whole[: len(whole) // 2])
        case "pickle":
            path.write_bytes(pickle.dumps(Touch(folder / "ran")))
        case "torch pickle":
            torch.save({"lm": Touch(folder / "ran")}, path)
        case "another program's":
            torch.save({"model": {"weight": torch.zeros(2)}}, path)
        case "folder":
            path.mkdir()
    return path


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("missing", "no such"),
        ("text", "not a checkpoint"),
        ("empty", "not a checkpoint"),
        ("cut short", "cut short"),
        ("pickle", "refused"),
        ("torch pickle", "refused"),
        ("another program's", "not one of lm"),
        ("folder", "folder"),
    ],
)
def test_what_is_no_checkpoint(lm, tiny_gpt, trained, tmp_path, kind, said):
    path = bad_checkpoint(kind, tmp_path, trained)
    refuses(lm("generate", path, "--prompt", "x"), 1, "bad.ckpt", said)
    refuses(lm("fill", path, "--best", "1", "x <mask>"), 1, "bad.ckpt", said)
    if kind != "folder":
        refuses(lm("info", path), 1, "bad.ckpt", said)
    refuses(lm("validate", *tiny_gpt, "--ckpt_path", path), 1, "bad.ckpt", said)
    assert not (tmp_path / "ran").exists()


def test_a_damaged_last_ckpt_of_a_run(lm, tiny_gpt, trained, tmp_path):
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    (tmp_path / "checkpoints/gpt/summary.json").unlink()
    path = tmp_path / "checkpoints/gpt/last.ckpt"
    path.write_bytes(path.read_bytes()[:1000])
    refuses(lm("fit", *tiny_gpt, "--name=gpt"), 1, "checkpoints/gpt/last.ckpt", "cut short", "delete it")
    path.unlink()
    anew = lm("fit", *tiny_gpt, "--name=gpt")
    assert anew.status == 0 and "run checkpoints/gpt starts" in anew.err, anew.err


def test_a_full_disk_while_preparing(start_lm, tiny_gpt, tmp_path):
    process = start_lm("fit", *tiny_gpt, file_size=8 << 10)
    _, err = process.communicate()
    assert process.returncode == 1
    assert "Traceback" not in err
    assert "data" in err.splitlines()[-1]
    assert nothing_left(tmp_path)


def test_a_full_disk_while_saving(start_lm, tiny_gpt, trained, tmp_path):
    shutil.copytree(trained / "data", tmp_path / "data")
    process = start_lm("fit", *tiny_gpt, file_size=100 << 10)
    _, err = process.communicate()
    assert process.returncode == 1
    assert "Traceback" not in err
    assert "cannot write checkpoints/gpt-nano/last.ckpt" in err
    left = {path.name for path in (tmp_path / "checkpoints/gpt-nano").iterdir()}
    assert not [name for name in left if "partial" in name or name.endswith(".ckpt")]


def test_a_name_that_leads_elsewhere(lm, tiny_gpt):
    refuses(lm("fit", *tiny_gpt, "--name=../elsewhere"), 2, "--name")


def test_generating_with_a_bert_and_filling_with_a_gpt(lm, trained):
    refuses(lm("generate", trained / "checkpoints/bert/best.ckpt", "--prompt=x"), 1, "lm fill")
    refuses(lm("fill", trained / "checkpoints/gpt/best.ckpt", "a <mask>"), 1, "lm generate")
    refuses(lm("fill", trained / "checkpoints/bert/best.ckpt", "no gap"), 2, "<mask>")


@pytest.mark.parametrize(
    "option",
    ["--temperature=-1", "--top_p=0", "--top_p=2", "--min_p=2", "--tokens=0", "--samples=0", "--top_k=-1"],
)
def test_sampling_options_out_of_range(lm, trained, option):
    name = option.split("=")[0]
    refuses(lm("generate", trained / "checkpoints/gpt/best.ckpt", "--prompt=x", option), 2, name)


def test_validating_a_run_that_was_never_trained(lm, tiny_gpt):
    refuses(lm("validate", *tiny_gpt, "--name=never"), 1, "checkpoints/never", "train first")


def test_info_of_what_is_nothing(lm, tmp_path):
    refuses(lm("info", "nowhere"), 1, "nowhere")
    (tmp_path / "folder").mkdir()
    refuses(lm("info", "folder"), 1, "neither a run")


def test_the_traceback_is_there_when_asked_for(lm, monkeypatch):
    monkeypatch.setenv("LM_DEBUG", "1")
    with pytest.raises(Exception, match="no such"):
        lm("generate", "nowhere.ckpt", "--prompt=x")


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--model.optimizer.lr=-1", "lr is -1"),
        ("--model.schedule.warmup=-1", "warmup is -1"),
        ("--checkpoint.every_n_steps=0", "every_n_steps"),
        ("--seed_everything=-5", "seed"),
        ("--trainer.strategy=nonsense", "strategy"),
    ],
)
def test_values_that_cannot_be(lm, tiny_gpt, option, said):
    result = lm("fit", *tiny_gpt, option)
    assert result.status in (1, 2)
    assert "Traceback" not in result.err
    assert said in result.err


def test_a_loss_that_is_no_number_ends_the_run(lm, tiny_gpt):
    result = lm("fit", *tiny_gpt, "--model.optimizer=torch.optim.SGD", "--model.optimizer.lr=1e25")
    refuses(result, 1, "training has diverged", "learning rate")


def test_a_checkpoint_of_another_model_or_without_a_state(lm, tiny_gpt, trained, tmp_path):
    best = trained / "checkpoints/gpt/best.ckpt"
    words = ("--ckpt_path", best, "--name=new")
    refuses(
        lm("validate", *tiny_gpt, *words, "--model.backbone.num_layers=3"), 1, "another model", "num_layers"
    )
    refuses(lm("fit", *tiny_gpt, *words), 1, "best.ckpt", "take last.ckpt")


def test_what_nobody_foresaw_is_a_line_too(lm, tiny_gpt, monkeypatch):
    monkeypatch.setattr("lm.run.verbs.fit", lambda *args, **kwargs: 1 / 0)
    result = lm("fit", *tiny_gpt)
    assert (result.status, "Traceback" in result.err) == (1, False)
    assert "lm fit: ZeroDivisionError: division by zero\n(LM_DEBUG=1 shows where)" in result.err


def test_a_sequence_that_no_memory_holds(lm, tmp_path):
    # Several documents in a window: who attends to whom is a matrix, here of 160 GB.
    lines = (
        json.dumps({"text": "".join(chr(0x4E00 + (n * 31 + i) % 900) for i in range(90))})
        for n in range(6000)
    )
    (tmp_path / "long.jsonl").write_text("\n".join(lines))
    words = (
        "--data.corpus=long.jsonl",
        "--data.seq_len=400000",
        "--data.batch_size=1",
        "--trainer.max_steps=1",
    )
    result = lm("fit", GPT, *words, "--data.vocab_size=1300", "--model.backbone.num_layers=1")
    refuses(result, 1, "out of memory on cpu (", " GB at once): give a smaller --data.seq_len or")


def test_one_long_line_is_a_corpus(lm, tmp_path):
    (tmp_path / "line.txt").write_text("北京是中华人民共和国的首都" * 30_000)
    words = ("--data.corpus=line.txt", "--data.vocab_size=300", "--trainer.max_steps=1", "--data.seq_len=32")
    result = lm("fit", GPT, *words, "--model.backbone.hidden_size=32", "--trainer.limit_val_batches=1")
    assert result.status == 0, result.err
