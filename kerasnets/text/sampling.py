"""Subword sampling: other segmentations of the same text, for training (Kudo 2018)."""

import bisect
import functools
import itertools
import math
import random
from collections.abc import Sequence

import numpy as np

from kerasnets.text.unigram import BYTE_SCORE, CHUNK, END, NAT, PAD, START, Unigram
from kerasnets.text.units import units

MAX_CACHED_UNITS = 100_000

# For each end of a piece in a unit: the cumulative probabilities of all choices but the last; for each choice the ids
# of the piece that ends there, and its first character.
Lattice = list[tuple[list[float], list[tuple[list[int], int]]]]


class SubwordSampler:
    """Draw segmentations x of a text from a unigram model, with probability ∝ P(x)^α (Kudo 2018, section 3.2).

    A unit (`units`) is cut independently of the others. Of all its segmentations one is drawn, not of the l best:
    forward filtering sums the probabilities of all ways to spell its first characters, and backward sampling draws its
    pieces from the last to the first, each with its share of the sum (section 3.2, l → ∞).

    Args: model; alpha α: 1 draws from the model, smaller values draw more varied segmentations.
    """

    def __init__(self, model: Unigram, alpha: float):
        self.model, self.alpha = model, alpha
        self._lattice = functools.lru_cache(MAX_CACHED_UNITS)(self._build_lattice)

    def sample_rows(self, rows: np.ndarray, max_length: int, seed: str) -> np.ndarray:
        """Segment each row of ids anew, as `sample` does.

        Args: rows int32 [B, T], padded; seed: what the draws depend on.
        Returns: int32 [B, T'], as wide as the longest row.
        """
        draw = random.Random(seed)
        sampled = [self.sample(row[row != PAD].tolist(), max_length, draw) for row in rows]
        padded = np.full((len(rows), max(map(len, sampled))), PAD, np.int32)
        for row, ids in zip(padded, sampled, strict=True):
            row[: len(ids)] = ids
        return padded

    def sample(self, ids: Sequence[int], max_length: int, draw: random.Random) -> Sequence[int]:
        """Segment the text of `ids` anew; a start and an end token stay.

        A segmentation of more than `max_length` subwords is replaced by the given one.
        """
        text = self.model.detokenize(ids)
        sampled = [i for unit in units(text) for i in self._segment(unit, draw)]
        if len(sampled) > max_length:
            return ids
        return [*(i for i in ids[:1] if i == START), *sampled, *(i for i in ids[-1:] if i == END)]

    def _segment(self, unit: str, draw: random.Random) -> list[int]:
        """One unit -> ids, chunk by chunk as in `Unigram.segment`."""
        ids: list[int] = []
        for first in range(0, len(unit), CHUNK):
            ids += self._segment_chunk(unit[first : first + CHUNK], draw)
        return ids

    def _segment_chunk(self, chunk: str, draw: random.Random) -> list[int]:
        lattice, pieces, end = self._lattice(chunk), [], len(chunk)
        while end > 0:
            cumulative, choices = lattice[end - 1]
            piece, end = choices[bisect.bisect(cumulative, draw.random()) if cumulative else 0]
            pieces.append(piece)
        return [i for piece in reversed(pieces) for i in piece]

    def _build_lattice(self, text: str) -> Lattice:
        log_sums, lattice = [0.0], []
        for end in range(1, len(text) + 1):
            begins = [b for b in range(max(0, end - self.model.longest), end) if self._fits(text[b:end])]
            logits = [log_sums[b] + self.alpha * self._score(text[b:end]) for b in begins]
            maximum = max(logits)
            *cumulative, total = itertools.accumulate(math.exp(logit - maximum) for logit in logits)
            log_sums.append(maximum + math.log(total))
            choices = [(self.model.spell(text[b:end]), b) for b in begins]
            lattice.append(([part / total for part in cumulative], choices))
        return lattice

    def _fits(self, text: str) -> bool:
        return len(text) == 1 or text in self.model.scores

    def _score(self, text: str) -> float:
        """-> log P in nats."""
        return self.model.scores.get(text, BYTE_SCORE) / NAT
