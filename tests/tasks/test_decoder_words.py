"""Speech by CTC that begins with what a Whisper's decoder reads."""

import json
import tarfile
from pathlib import Path

import pytest
import torch
import yaml

from lm.checkpoint import read
from lm.convert import open_model
from lm.convert.whisper_decoder import DecoderWords
from lm.errors import UserError
from lm.tasks import SpeechRecognition

from . import test_speech_recognition as speech

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")
SHAPE = {
    **{"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4},
    **{"decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 16, "vocab_size": 300},
    **{"num_mel_bins": 20, "max_source_positions": 150, "max_target_positions": 8, "init_std": 0.3},
    **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id"), 1),
    **{"begin_suppress_tokens": None},
}


def write_whisper(folder: Path, kind: str = "WhisperForConditionalGeneration") -> torch.nn.Module:
    """A small one with new weights, whose pieces of words are of the texts of `speech` and of another."""
    torch.manual_seed(0)
    transformers.logging.disable_progress_bar()
    model = getattr(transformers, kind)(transformers.WhisperConfig(**SHAPE)).eval()
    model.save_pretrained(folder)
    pieces = tokenizers.Tokenizer(tokenizers.models.BPE())
    pieces.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    pieces.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=290,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    )
    pieces.train_from_iterator([*speech.texts(60, seed=7), *["abba, cabal - 中文 Bach."] * 5], trainer)
    pieces.save(str(folder / "tokenizer.json"))
    prepared = {"feature_extractor_type": "WhisperFeatureExtractor", "feature_size": 20, "chunk_length": 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(prepared))
    return model


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


@torch.no_grad()
def test_the_head_is_the_decoders_reading(tmp_path):
    """By transformers' own layers, but for what the last norm divides each position by."""
    model = write_whisper(tmp_path)
    labels = ["", "a", " a", "龙", "c", "中"]
    known = DecoderWords(tmp_path).head(labels)[2]
    assert known.tolist() == [True, True, True, False, True, True]
    hidden = torch.nn.functional.layer_norm(torch.randn(50, 32), (32,))
    decoder, attention = model.model.decoder, model.model.decoder.layers[-1].encoder_attn
    table, norm = decoder.embed_tokens.weight, decoder.layer_norm
    norm.bias.normal_()
    model.save_pretrained(tmp_path)
    weight, bias, _ = DecoderWords(tmp_path).head(labels)
    pieces = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    ids = [pieces.token_to_id(piece) for piece in ("a", "Ġa", "c")]
    given = attention.out_proj(attention.v_proj(hidden))
    read = (norm(given) - norm.bias) @ table[ids].T
    found = (hidden @ weight.T + bias)[:, [1, 2, 4]] - norm.bias @ table[ids].T
    deviations = given.std(1, correction=0, keepdim=True)
    share = (read * deviations) / found  # one number: the deviation that is taken for all
    assert share.std() < 1e-3 * share.mean()
    assert share.mean().item() == pytest.approx(deviations.square().mean().sqrt().item(), rel=0.1)


def test_pieces_are_of_the_transcripts_characters(tmp_path):
    write_whisper(tmp_path)
    words = DecoderWords(tmp_path)
    pieces = words.pieces({"a", "b", "c", " "})
    assert pieces and len(set(pieces)) == len(pieces)
    assert all(len(piece) > 1 and " " not in piece[1:] and set(piece) <= set("abc ") for piece in pieces)
    assert not any("B" in piece or "l" in piece for piece in pieces)
    assert any("l" in piece for piece in words.pieces(set("abcl ")))


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


def test_killed_it_goes_on_to_the_last_bit(ends_alike_though_killed, folder):
    ends_alike_though_killed(*WORDS, "--data.num_workers=2", at="step 14/", saved=10)


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


@torch.no_grad()
@pytest.mark.real_data
def test_a_real_whispers_words_are_there_before_it_learns(whisper_tiny, real_data):
    from lm.backbone import Classifier, read_input
    from lm.processors.sounds import read_sound
    from lm.tokenizer.spelling import spelling_tokenizer

    start, words = open_model(whisper_tiny), DecoderWords(whisper_tiny)
    pieces = words.pieces(set("abcdefghijklmnopqrstuvwxyz' "))
    tokenizer = spelling_tokenizer(["abcdefghijklmnopqrstuvwxyz' "], pieces)
    assert tokenizer.vocab_size == 8029
    labels = ["", *(tokenizer.piece_bytes(id).decode() for id in range(1, tokenizer.vocab_size))]
    weight, bias, known = words.head(labels)
    assert known.all()
    net = Classifier(
        start.config, 8029, None, embeddings=read_input(start.record["input"]).make(start.config)
    )
    net.load_weights({**start.weights, "head.weight": weight, "head.bias": bias})
    with tarfile.open(real_data / "ljspeech-readings/audio.tar") as archive:
        member = next(member for member in archive.getmembers() if member.isfile())
        sound = read_sound(archive.extractfile(member).read(), member.name, 16000)
    found = net.eval()(start.processor.features(sound)[None])[0].argmax(-1)
    heard = tokenizer.decode([id for id in found.unique_consecutive().tolist() if id]).split()
    assert {"the", "only", "with", "which", "we"} <= set(heard), heard


def test_a_file_is_no_whisper(tmp_path):
    (tmp_path / "x").write_text("")
    for place in (tmp_path / "x", tmp_path):  # such as a run's folder
        with pytest.raises(UserError, match="no decoder of a Whisper: give its folder"):
            DecoderWords(place)
