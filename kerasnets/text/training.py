"""Training of the pieces of a unigram model, with the library sentencepiece."""

import io
from collections.abc import Sequence
from typing import Any

from kerasnets.checks import RequestError
from kerasnets.text.unigram import FIRST_PIECE
from kerasnets.text.units import SPACE


def train_pieces(line_units: Sequence[Sequence[str]], size: int) -> list[tuple[str, float]]:
    """Units of each line -> (piece, score in nats)."""
    model = _train_model(line_units, size)
    ordinary = (i for i in range(3, model.get_piece_size()) if not model.is_byte(i))
    return [(model.id_to_piece(i), round(model.get_score(i), 4)) for i in ordinary]


def _train_model(line_units: Sequence[Sequence[str]], size: int) -> Any:
    import sentencepiece  # only training needs it

    # The trainer expects a space for SPACE and a delimiter between other units, and rejects NUL.
    lines = ["\x01".join(line).replace("\x01" + SPACE, " ").lstrip(SPACE).replace("\0", "") for line in line_units]
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=model,
            model_type="unigram",
            vocab_size=size,  # includes bytes and the trainer's three symbols, unknown, start and end
            hard_vocab_limit=False,
            byte_fallback=True,
            character_coverage=0.9995,
            normalization_rule_name="identity",
            pretokenization_delimiter="\x01",
            max_sentence_length=1 << 24,
            num_threads=2,  # fixed: sums of floats depend on their partition
            minloglevel=3,
        )
    except (RuntimeError, OSError) as error:
        characters = len(set().union(*lines))
        raise RequestError(
            f"the vocabulary size is {size}; for {len(lines)} lines of {characters} different characters it must be "
            f"at least {characters + FIRST_PIECE}, and the lines must not be empty."
        ) from error
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
