"""What a Whisper's decoder reads, beside transformers' own layers and a real one."""

import json
import tarfile
from pathlib import Path

import pytest
import torch

from lm.convert import open_model
from lm.convert.whisper_decoder import DecoderWords
from lm.errors import UserError
from lm.tokenizer.spelling import spelling_tokenizer
from tests.tasks.test_speech_recognition import texts

from .conftest import scramble

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
    """A small one with new weights, whose pieces of words are of the texts of recognition and of another."""
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
    pieces.train_from_iterator([*texts(60, seed=7), *["abba, cabal - 中文 Bach."] * 5], trainer)
    pieces.save(str(folder / "tokenizer.json"))
    prepared = {"feature_extractor_type": "WhisperFeatureExtractor", "feature_size": 20, "chunk_length": 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(prepared))
    return model


@torch.no_grad()
def test_the_head_is_the_decoders_reading(tmp_path):
    """By transformers' own layers, but for what the last norm divides each position by."""
    model = write_whisper(tmp_path)
    scramble(model)
    model.save_pretrained(tmp_path)
    labels = ["", "a", " a", "龙", "c", "中"]
    weight, bias, known = DecoderWords(tmp_path).head(labels)
    assert known.tolist() == [True, True, True, False, True, True]
    decoder, attention = model.model.decoder, model.model.decoder.layers[-1].encoder_attn
    table, norm = decoder.embed_tokens.weight, decoder.layer_norm
    pieces = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    ids = [pieces.token_to_id(piece) for piece in ("a", "Ġa", "c", ",", "-", ".", "<|endoftext|>")]
    rows = torch.cat((table[ids[3:]].mean(0, keepdim=True), table[ids[:3]]))
    hidden = model.model.encoder.layer_norm(torch.randn(50, 32))
    given = attention.out_proj(attention.v_proj(hidden))
    read = ((given - given.mean(1, keepdim=True)) * norm.weight) @ rows.T
    found = (hidden @ weight.T + bias)[:, [0, 1, 2, 4]] - rows @ norm.bias
    found[:, 0] -= 6  # the blank is likelier
    deviation = (read / found).median()  # the one that is taken for all
    assert torch.allclose(read, found * deviation, atol=1e-3 * read.abs().max().item())
    wanted = (given - given.mean(0)).std(1, correction=0).square().mean().sqrt()
    assert deviation.item() == pytest.approx(wanted.item(), rel=0.1)


def test_pieces_are_of_the_transcripts_characters(tmp_path):
    write_whisper(tmp_path)
    words = DecoderWords(tmp_path)
    pieces = words.pieces({"a", "b", "c", " "})
    assert pieces and len(set(pieces)) == len(pieces)
    assert all(len(piece) > 1 and " " not in piece[1:] and set(piece) <= set("abc ") for piece in pieces)
    assert not any("B" in piece or "l" in piece for piece in pieces)
    assert any("l" in piece for piece in words.pieces(set("abcl ")))


@torch.no_grad()
@pytest.mark.real_data
def test_a_real_whispers_words_are_there_before_it_learns(whisper_tiny, real_data):
    from lm.backbone import Classifier, read_input
    from lm.processors.sounds import read_sound

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
    # A word is cut as the Whisper cuts it, where it has all of its pieces.
    cut = tokenizers.Tokenizer.from_file(str(whisper_tiny / "tokenizer.json"))
    text = (real_data / "speechocean/transcripts.tsv").read_text(encoding="utf-8").lower()
    checked = 0
    for word in sorted({word for word in text.split() if word.isalpha() and word.isascii()}):
        theirs = [cut.decode([id]) for id in cut.encode(f" {word}", add_special_tokens=False).ids]
        if set(theirs) <= set(labels):
            ours = [labels[id] for id in tokenizer.encode(word)]
            assert ours == theirs
            checked += 1
    assert checked > 1000


def test_a_file_is_no_whisper(tmp_path):
    (tmp_path / "x").write_text("")
    for place in (tmp_path / "x", tmp_path):  # such as a run's folder
        with pytest.raises(UserError, match="no decoder of a Whisper: give its folder"):
            DecoderWords(place)
