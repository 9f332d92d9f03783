"""Speech by CTC that begins with what a Whisper's decoder reads."""

import pytest
import torch
import yaml

from lm.checkpoint import read
from lm.convert.whisper_decoder import DecoderWords
from lm.tasks import SpeechRecognition
from tests.convert.test_whisper_decoder import write_whisper

from . import test_speech_recognition as speech


@pytest.fixture
def folder(tmp_path, monkeypatch):
    config = yaml.safe_load(yaml.safe_dump(speech.CONFIG))
    del config["model"]["init_args"]["mix_layers"]
    for name in ("rate", "bins", "norm"):  # they are the Whisper's
        del config["data"]["init_args"][name]
    speech.write(tmp_path, config)
    write_whisper(tmp_path / "whisper")
    monkeypatch.chdir(tmp_path)
    return tmp_path


WORDS = ("--config=c.yaml", "--model.init_from=whisper", "--model.tokens=decoder", "--trainer.max_epochs=2")


def test_it_learns_by_the_decoders_pieces(lm, pipe, folder):
    result = lm("fit", *WORDS)
    assert result.status == 0, result.err
    assert "pieces are the decoder's" in result.err + result.out
    kept = read(folder / "checkpoints/speech/best.ckpt")
    labels = kept["lm"]["labels"]
    weight, _, known = DecoderWords(folder / "whisper").head(labels)
    now = kept["state_dict"]["net.head.weight"]
    task = SpeechRecognition.load(folder / "checkpoints/speech/best.ckpt")
    rows = (folder / "t.tsv").read_text().splitlines()[1:]
    said = [row.split("\t")[3] for row in rows if row.startswith("train")]
    learned = {0, *(id for text in said for id in task.targets(text))}
    assert known.all() and 1 < len(learned) < len(labels)
    stayed = torch.tensor([torch.allclose(*pair, rtol=2e-3) for pair in zip(now, weight, strict=True)])
    others = [id for id in range(len(labels)) if id not in learned]
    assert stayed[others].all() and not stayed[[0, *task.targets("a b c")]].any()
    assert lm("transcribe", "checkpoints/speech", "sounds/test0.wav").status == 0
    # The Whisper may be gone.
    (folder / "whisper").rename(folder / "elsewhere")
    tested = lm("test", "checkpoints/speech")
    assert tested.status == 0, tested.err
    # What it learned is learned on from, its head, too.
    more = ("--model.init_from=checkpoints/speech", "--name=more", "--trainer.max_epochs=1")
    assert (result := lm("fit", *WORDS, *more)).status == 0 and "new:" not in result.err, result.err
    again = read(folder / "checkpoints/more/best.ckpt")
    assert again["lm"]["labels"] == labels
    assert torch.allclose(again["state_dict"]["net.head.weight"][others], now[others], rtol=2e-3)
    strange = (folder / "t.tsv").read_text().translate(str.maketrans("ABC", "XYZ"))
    (folder / "t.tsv").write_text(strange)
    refused = lm("fit", *WORDS, "--model.init_from=checkpoints/speech", "--name=strange")
    assert refused.status and "nothing that is said there is spelled by these" in refused.err, refused.err


def test_killed_it_goes_on_to_the_last_bit(ends_alike_though_killed, folder):
    words = (*WORDS, "--trainer.max_epochs=1", "--data.num_workers=1")
    ends_alike_though_killed(*words, at="step 14/", saved=10)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--model.init_from=null",), "give --model.init_from, a Whisper's folder"),
        (("--model.mix_layers=true",), "leave --model.mix_layers out"),
        (("--model.init_from=encoder",), "encoder has no decoder of a Whisper: give a whole one"),
    ],
)
def test_settings_that_make_no_sense(lm, folder, options, words):
    write_whisper(folder / "encoder", "WhisperForAudioClassification")
    result = lm("fit", *WORDS, *options)
    assert result.status and result.err.count("\n") <= 3 and words in result.err, result.err


def test_its_head_is_not_sharded(lm, folder):
    """Where rows lie in several processes, those of what is never said would be learned, too."""
    result = lm("fit", *WORDS, "--config=fsdp", "--trainer.devices=1")
    assert result.status == 2 and "SpeechRecognition is not sharded over processes" in result.err
