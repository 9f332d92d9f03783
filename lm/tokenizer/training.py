"""Learning a tokenizer: SentencePiece's byte-pair trainer, with lm's special pieces and no text lost."""

import io
import re
from collections import Counter
from collections.abc import Iterable

import sentencepiece

from lm.errors import UserError
from lm.tokenizer.sentencepiece import BOS, CHAT_PIECES, EOS, MASK, PAD, UNK, SentencePieceTokenizer
from lm.tokenizer.text import SPACE, split_lines, valid_unicode

_CHUNK = 16_000  # characters: one "sentence" for the trainer
_COVERAGE = 0.9995  # of the characters: the rest are typing errors and rare scripts
_RESERVED = "\u2585"  # the trainer drops a sentence with this character


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> SentencePieceTokenizer:
    """Learns a byte-pair model; the same texts in the same order give the same bytes.

    Args:
        texts: documents, read once. The trainer holds them all, in some 10 times their size: bound them.
        vocab_size: pieces in all, with the 9 special and the 256 byte pieces. Where the texts have more
            characters than fit beside longer pieces, the rarer ones are spelt in bytes: see `coverage`.

    Raises:
        UserError: the texts have fewer different pieces than `vocab_size`, or it has no room for text.
    """
    chunks = [
        chunk.replace(_RESERVED, " ")
        for text in texts
        for chunk in split_lines(valid_unicode(text), _CHUNK)
        if chunk.strip()
    ]
    if not chunks:
        raise UserError("there is no text to train a tokenizer on")
    kept = _commonest_characters(chunks, vocab_size)
    if kept is not None:
        # SentencePiece itself gives up below a coverage of 0.98: it is shown the kept characters alone.
        others = re.compile(f"[^{re.escape(''.join(sorted(kept[0])))}]+")
        chunks = [part for chunk in chunks for part in others.split(chunk) if part.strip()]
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(chunks),
            model_writer=model,
            vocab_size=vocab_size,
            model_type="bpe",
            byte_fallback=True,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
            split_digits=True,
            character_coverage=_COVERAGE if kept is None else 1.0,
            required_chars=SPACE,  # else a corpus without spaces, as in Chinese, has them decoded as this
            max_sentence_length=8 * _CHUNK,
            pad_id=0,
            unk_id=1,
            bos_id=2,
            eos_id=3,
            pad_piece=PAD,
            unk_piece=UNK,
            bos_piece=BOS,
            eos_piece=EOS,
            control_symbols=[MASK, *CHAT_PIECES],
            minloglevel=2,
        )
    except RuntimeError as error:
        raise _training_error(str(error), vocab_size) from error
    trained = SentencePieceTokenizer(model.getvalue())
    trained.coverage = _COVERAGE if kept is None else kept[1]
    return trained


def _commonest_characters(texts: Iterable[str], vocab_size: int) -> tuple[set[str], float] | None:
    """Which characters get a piece of their own where a vocabulary cannot hold all of a text's beside
    longer pieces, as with Chinese and a small one; and the share of the text that they make up. None where
    it can."""
    counts = Counter[str]()
    for text in texts:
        counts.update(text)
    rest = vocab_size - 256 - 9
    room = max(rest * 2 // 3, min(rest - 1, 64))
    kept = counts.most_common(max(room, 1))
    share = sum(count for _, count in kept) / counts.total()
    return None if share >= _COVERAGE or rest < 2 else ({character for character, _ in kept}, share)


def _training_error(message: str, vocab_size: int) -> UserError:
    """SentencePiece's reasons for not training, as something to do."""
    if most := re.search(r"too high .*<= (\d+)", message):
        return UserError(
            f"the corpus is too small for a vocabulary of {vocab_size} pieces: "
            f"give `vocab_size` {most[1]} or less, or more text"
        )
    if least := re.search(r"smaller than required_chars\. \d+ vs (\d+)", message):
        return UserError(
            f"a vocabulary of {vocab_size} pieces cannot hold the corpus's characters: "
            f"give `vocab_size` {least[1]} or more"
        )
    return UserError(f"SentencePiece cannot train a vocabulary of {vocab_size} pieces: {message}")
