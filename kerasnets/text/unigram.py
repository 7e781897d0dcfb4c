"""The unigram language model of subwords, in plain Python."""

import itertools
from collections.abc import Iterable, Sequence

from kerasnets.text.units import normalize, units

# Longer units are cut into chunks of this many characters, which bounds the work for any text.
CHUNK = 64
# Scores are integers in 1/10,000 nat: sums are exact in any order, so graph and Python cannot disagree.
NAT = 10_000
BYTE_SCORE = -10_000 * NAT  # far below any piece: bytes are used only where no piece fits
IMPOSSIBLE = -(1 << 50)
PAD, START, END, FIRST_BYTE, FIRST_PIECE = 0, 1, 2, 3, 259


class Unigram:
    """A unigram language model of subwords (Kudo 2018) in plain Python, without TensorFlow: the reference.

    Ids: 0 padding, 1 start, 2 end, 3..258 the bytes, from 259 on the pieces. A unit is cut into the pieces
    with the greatest sum of scores; the longer last piece wins a tie. Characters that no piece covers are
    spelled in bytes.
    """

    def __init__(self, pieces: Sequence[tuple[str, float]]):
        """pieces: (text, score in nats). Raises ValueError if texts are not distinct, empty or too long, or if a score
        is out of range."""
        self.pieces = tuple((piece, score) for piece, score in pieces)
        symbols = ("<pad>", "<start>", "<end>", *(f"<0x{byte:02X}>" for byte in range(256)))
        self.names = (*symbols, *(p for p, _ in pieces))
        self.ids = {name: i for i, name in enumerate(self.names)}
        self.raw = (b"", b"", b"", *(bytes([b]) for b in range(256)), *(p.encode() for p, _ in pieces))
        self.scores = {p: round(score * NAT) for p, score in pieces}
        self.longest = max((len(p) for p in self.scores), default=1)
        if len(self.ids) != len(self.names) or not all(0 < len(p) < CHUNK for p in self.scores):
            raise ValueError(f"pieces must be distinct and have 1 to {CHUNK - 1} characters.")
        if not all(BYTE_SCORE < score <= 0 for score in self.scores.values()):
            raise ValueError(f"scores must be above {BYTE_SCORE / NAT:,.0f} and at most 0.")

    def tokenize(self, text: str) -> list[int]:
        return [i for unit in units(text) for i in self.segment(unit)]

    def detokenize(self, ids: Iterable[int]) -> str:
        raw = b"".join(self.raw[i] for i in itertools.takewhile(lambda i: i != END, ids))
        return normalize(raw.decode("utf-8", "replace"))

    def segment(self, unit: str) -> list[int]:
        """One unit -> ids, chunk by chunk."""
        return [i for first in range(0, len(unit), CHUNK) for i in self._viterbi(unit[first : first + CHUNK])]

    def _viterbi(self, text: str) -> list[int]:
        """best[j]: greatest sum of scores of pieces that spell text[:j]; start[j]: start of the last piece."""
        best, start = [0], [0]
        for end in range(1, len(text) + 1):
            begins = range(max(0, end - self.longest), end)
            score, negative = max((best[b] + self._score(text[b:end]), -b) for b in begins)
            best.append(score)
            start.append(-negative)
        ids: list[int] = []
        end = len(text)
        while end > 0:
            ids[:0] = self.spell(text[start[end] : end])
            end = start[end]
        return ids

    def _score(self, text: str) -> int:
        return self.scores.get(text, BYTE_SCORE if len(text) == 1 else IMPOSSIBLE)

    def spell(self, text: str) -> list[int]:
        """-> the id of a piece, or those of the bytes of a character that no piece covers."""
        return [self.ids[text]] if text in self.scores else [FIRST_BYTE + b for b in text.encode()]
