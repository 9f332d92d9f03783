"""Characters as tokens: what speech is written down in, letter by letter."""

import io
from collections.abc import Iterable

import sentencepiece

from lm.errors import UserError
from lm.tokenizer.sentencepiece import UNK, SentencePieceTokenizer
from lm.tokenizer.text import SPACE, valid_unicode


def character_tokenizer(texts: Iterable[str]) -> SentencePieceTokenizer:
    """A token for each character of some texts and for the space, the commonest first; others are unknown.
    Nothing is normalised. The same texts give the same bytes.

    Raises:
        UserError: the texts are empty.
    """
    lines = [valid_unicode(text) for text in texts]
    longest = max((len(line.encode()) for line in lines), default=0)
    if not longest:
        raise UserError("there is no text to take characters from")
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        model_type="char",
        vocab_size=1 << 20,
        hard_vocab_limit=False,  # as many as there are
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        character_coverage=1.0,
        required_chars=SPACE,
        max_sentence_length=max(longest, 10),
        unk_id=0,
        bos_id=-1,
        eos_id=-1,
        unk_piece=UNK,
        minloglevel=2,
    )
    return SentencePieceTokenizer(model.getvalue())
