"""Characters and their ids."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Self

import numpy as np
import tensorflow as tf

from kerasnets.text import files

REPLACEMENT = "\ufffd"  # Unicode's replacement character
CODE_POINTS = 0x110000  # of Unicode


class CharacterVocabulary(tf.Module):
    """Characters and their ids: the listed ones have ids from 1 in their order, any other has id 0.

    A character is one Unicode code point. `characters[id]` is the character; `characters[0]` is U+FFFD.
    """

    def __init__(self, characters: Sequence[str]):
        super().__init__(name="characters")
        listed = list(characters)
        invalid = [c for c in listed if len(c) != 1 or c == REPLACEMENT or listed.count(c) > 1]
        if invalid:
            raise ValueError(
                f"characters contains {invalid[:5]}; each must be a single character, listed once, and not U+FFFD."
            )
        self.characters = (REPLACEMENT, *listed)
        self.size = len(self.characters)
        points = np.array([ord(c) for c in listed], np.int32)
        order = np.argsort(points)
        # Sorted code points and their ids; the sentinel keeps every search inside the table.
        self._points = np.append(points[order], np.int32(CODE_POINTS))
        self._ids = np.append(order + 1, 0).astype(np.int32)

    @classmethod
    def build(cls, text: str | Iterable[str], minimum_count: int = 1) -> Self:
        """-> the vocabulary of the characters that occur at least `minimum_count` times, by code point.

        text: as a whole, or in several parts.
        """
        counts = np.zeros(CODE_POINTS, np.int64)
        for part in [text] if isinstance(text, str) else text:
            part_counts = np.bincount(_code_points(part))
            counts[: len(part_counts)] += part_counts
        counts[ord(REPLACEMENT)] = 0
        return cls([chr(point) for point in np.flatnonzero(counts >= max(1, minimum_count))])

    def save(self, path: str | Path) -> None:
        """Write one readable JSON file."""
        document = {"format": "characters 1", "characters": list(self.characters[1:])}
        Path(path).write_text(json.dumps(document, ensure_ascii=False, indent=1), encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Self:
        return files.load(path, "characters 1", lambda document: cls(document["characters"]))

    def encode(self, text: tf.Tensor) -> tf.RaggedTensor | tf.Tensor:
        """text string [B] -> int32 ragged [B, None]; a scalar gives a dense [T]."""
        points = tf.strings.unicode_decode(text, "UTF-8", errors="replace")
        return tf.ragged.map_flat_values(self._find, points)

    def _find(self, points: tf.Tensor) -> tf.Tensor:
        index = tf.searchsorted(self._points, points)
        known = tf.equal(tf.gather(self._points, index), points)
        return tf.where(known, tf.gather(self._ids, index), 0)

    def decode(self, ids: tf.Tensor) -> tf.Tensor:
        """ids int32 [B, T] -> string [B]; id 0 shows as U+FFFD."""
        return tf.strings.reduce_join(self.pieces(ids), axis=-1)

    def pieces(self, ids: tf.Tensor) -> tf.Tensor:
        """ids int32 -> the character of each, string, same shape."""
        return tf.gather(tf.constant(list(self.characters)), ids)

    def encode_python(self, text: str) -> np.ndarray:
        """text -> int32 [T], without TensorFlow: fast for a whole corpus."""
        points = _code_points(text)
        index = np.searchsorted(self._points, points)
        return np.where(self._points[index] == points, self._ids[index], 0).astype(np.int32)


def _code_points(text: str) -> np.ndarray:
    """-> int32 [T]"""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.int32)
