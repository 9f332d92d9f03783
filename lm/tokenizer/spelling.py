"""What speech is written down in: letter by letter, or in pieces of words."""

import io
from collections.abc import Iterable, Sequence

import sentencepiece

from lm.errors import UserError
from lm.tokenizer.protobuf import normal_piece
from lm.tokenizer.sentencepiece import UNK, SentencePieceTokenizer
from lm.tokenizer.text import SPACE, valid_unicode


def spelling_tokenizer(
    texts: Iterable[str], pieces: int | Sequence[str] | None = None
) -> SentencePieceTokenizer:
    """A token for each character of some texts and for the space, the commonest first; others are unknown.
    Nothing is normalised. The same texts give the same bytes.

    Args:
        pieces: so many likeliest pieces of words instead (unigram, Kudo 2018, arXiv:1804.10959), each
            character among them; fewer, where the texts have no more. Or those of a byte-pair model,
            in the order in which it merges them, behind the characters.

    Raises:
        UserError: the texts are empty, or have more characters than `pieces`.
    """
    lines = [valid_unicode(text) for text in texts]
    longest = max((len(line.encode()) for line in lines), default=0)
    if not longest:
        raise UserError("there is no text to take characters from")
    model = io.BytesIO()
    characters = len({*"".join(lines), " "})
    kind = {"model_type": "char", "vocab_size": 1 << 20, "add_dummy_prefix": False}
    if isinstance(pieces, int):  # a word is the same at the beginning as elsewhere
        kind = {"model_type": "unigram", "vocab_size": pieces, "add_dummy_prefix": True}
        if pieces <= characters:
            wanted = f"the texts have {characters} characters: give at least {characters + 1}"
            raise UserError(f"`tokens` is {pieces}: {wanted}", status=2)
    elif pieces is not None:
        kind = {"model_type": "bpe", "vocab_size": characters + 1, "add_dummy_prefix": True}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        **kind,
        hard_vocab_limit=False,  # as many as there are
        normalization_rule_name="identity",
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
    if not isinstance(pieces, Sequence):
        return SentencePieceTokenizer(model.getvalue())
    made = SentencePieceTokenizer(model.getvalue())
    # Characters, and where SentencePiece can't take one of the texts', also merges.
    there = {made.piece_bytes(id) for id in range(made.vocab_size)}
    merges = [text for text in dict.fromkeys(pieces) if text.encode() not in there]
    fields = (normal_piece(text.replace(" ", SPACE), -float(rank)) for rank, text in enumerate(merges))
    return SentencePieceTokenizer(model.getvalue() + b"".join(fields))
