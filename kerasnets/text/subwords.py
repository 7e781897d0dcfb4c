"""Subwords as a graph of core TensorFlow operations, with the results of `Unigram`."""

import collections
import functools
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Self

import numpy as np
import tensorflow as tf

from kerasnets.text import files
from kerasnets.text.training import train_pieces
from kerasnets.text.unigram import BYTE_SCORE, CHUNK, END, FIRST_BYTE, FIRST_PIECE, IMPOSSIBLE, PAD, START, Unigram
from kerasnets.text.units import SPACE, UNIT_PATTERN, WHITE_SPACE, units

BLOCK = 256  # chunks segmented at once: each of their characters takes kilobytes meanwhile


class SubwordVocabulary(tf.Module):
    """`Unigram` as a graph, with a cache: the segmentations of known units, one lookup for each.

    The cache changes no result: it covers almost all of ordinary text, and Viterbi runs only for the rest.
    """

    PAD, START, END = PAD, START, END

    def __init__(self, pieces: Sequence[tuple[str, float]], words: Mapping[str, Sequence[str]] | None = None):
        """pieces: (text, score in nats); words: unit -> the pieces of its segmentation."""
        super().__init__(name="subwords")
        self.model = model = Unigram(pieces)
        self.size = len(model.names)
        # Six low bits stay free for a length: one maximum then gives score and choice together (see _choose).
        scores = [IMPOSSIBLE, *model.scores.values()]
        # A unit contains no space, so " " is never looked up; its entry means "not found" and keeps tables non-empty.
        self.words = MappingProxyType(dict(words or {}))  # not a plain dict: tf.Module would track every entry
        spellings = {" ": (), **self.words}
        rows = [[model.ids[p] for p in spelled] for spelled in spellings.values()]
        with tf.device("CPU:0"):  # where strings are; captured once for all functions
            self._names, self._raw = tf.constant(model.names), tf.constant(model.raw)
            self._scores = tf.constant(np.array(scores, np.int64) * CHUNK)
            ids = np.array([i for row in rows for i in row], np.int32)
            self._spellings = tf.RaggedTensor.from_row_lengths(ids, np.array([len(row) for row in rows]))
        self._row = _table(list(spellings), default=0)
        self._piece = _table([" ", *model.scores], default=0)  # pieces count from 1, in their order

    @classmethod
    def train(cls, lines: Iterable[str], size: int, words: int = 60_000) -> Self:
        """Learn at most `size` subwords from `lines`; deterministic. Raises RequestError if `size` is too small."""
        line_units = [units(line) for line in lines]
        pieces = train_pieces(line_units, size)
        model = Unigram(pieces)
        common = collections.Counter(unit for line in line_units for unit in line).most_common(words)
        return cls(pieces, {unit: [model.names[i] for i in model.segment(unit)] for unit, _ in common})

    def save(self, path: str | Path) -> None:
        """Write one readable JSON file: a line for each piece and its score, a line for each cached word."""
        quote = functools.partial(json.dumps, ensure_ascii=False)
        pieces = ",\n".join(f"  [{quote(p)}, {score}]" for p, score in self.model.pieces)
        words = ",\n".join(f"  {quote(word)}: {quote(' '.join(row))}" for word, row in self.words.items())
        document = f'{{"format": "subwords 1",\n "pieces": [\n{pieces}\n ],\n "words": {{\n{words}\n }}}}\n'
        Path(path).write_text(document, encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Self:
        return files.load(
            path,
            "subwords 1",
            lambda document: cls(document["pieces"], {word: row.split(" ") for word, row in document["words"].items()}),
        )

    def tokenize_python(self, text: str) -> list[int]:
        """As `tokenize`, in plain Python."""
        return self.model.tokenize(text)

    def detokenize_python(self, ids: Iterable[int]) -> str:
        """As `detokenize`, in plain Python."""
        return self.model.detokenize(ids)

    def tokenize(self, text: tf.Tensor) -> tf.RaggedTensor:
        """text string [B], valid UTF-8 -> int32 ragged [B, None], without start and end."""
        parts = _units(text)  # string ragged [B, None]
        row = self._row.lookup(parts.flat_values)
        cached = tf.gather(self._spellings, row)  # [units, None]; empty for units outside the cache
        segmented = self._segment(parts.flat_values, tf.equal(row, 0))  # [units, None]; empty for cached units
        return parts.with_flat_values(tf.concat([cached, segmented], axis=1)).merge_dims(1, 2)

    def detokenize(self, ids: tf.Tensor) -> tf.Tensor:
        """ids int32 [B, T] -> string [B], up to the first end token; invalid UTF-8 becomes U+FFFD."""
        ended = tf.cumsum(tf.cast(tf.equal(ids, END), tf.int32), axis=1) > 0
        raw = tf.gather(self._raw, tf.where(ended, PAD, ids))
        text = tf.strings.unicode_transcode(tf.strings.reduce_join(raw, axis=1), "UTF-8", "UTF-8")
        return _normalize(text)

    def pieces(self, ids: tf.Tensor) -> tf.Tensor:
        """ids int32 -> readable names ("▁dog", "<0xC3>", "<end>"), string, same shape."""
        return tf.gather(self._names, ids)

    def _segment(self, parts: tf.Tensor, selected: tf.Tensor) -> tf.RaggedTensor:
        """Segment the units `parts` [U] where `selected` bool [U] is True, by Viterbi -> int32 ragged [U, None]."""
        index = tf.where(selected)[:, 0]
        # Put a space, which no unit contains, after each full chunk.
        chunks = tf.strings.split(tf.strings.regex_replace(tf.gather(parts, index), f"(?s).{{{CHUNK}}}", r"\0 "))
        begins = tf.range(0, tf.size(chunks.flat_values, tf.int64), BLOCK)
        blocks = tf.RaggedTensor.from_row_starts(chunks.flat_values, begins, validate=False)
        spec = tf.RaggedTensorSpec([None, None], tf.int32, 1, tf.int64)
        ids = tf.map_fn(self._segment_chunks, blocks, fn_output_signature=spec, parallel_iterations=1)
        ids = chunks.with_flat_values(ids.merge_dims(0, 1)).merge_dims(1, 2)  # [selected units, None]
        count = tf.scatter_nd(index[:, tf.newaxis], ids.row_lengths(), [tf.size(selected, tf.int64)])
        return tf.RaggedTensor.from_row_lengths(ids.flat_values, count, validate=False)

    def _segment_chunks(self, chunks: tf.Tensor) -> tf.RaggedTensor:
        """chunks string [K] of at most CHUNK characters -> int32 ragged [K, None]. C: characters of all chunks,
        concatenated; P: their pieces, by their last characters."""
        chars, starts = tf.strings.unicode_split_with_offsets(chunks, "UTF-8")
        chunk, place = chars.value_rowids(), tf.ragged.range(chars.row_lengths()).flat_values
        pieces, scores = self._candidates(tf.gather(chunks, chunk), chars.flat_values, starts.flat_values, place)
        length = _choose(chars.with_flat_values(scores))
        last = _on_best_path(length, chars.row_starts())  # the last character of each piece
        piece = tf.gather_nd(pieces, tf.stack([last, tf.gather(length, last) - 1], axis=1))
        ids, owner = _spell_bytes(piece, tf.gather(chars.flat_values, last), tf.gather(chunk, last))
        return tf.RaggedTensor.from_value_rowids(ids, owner, nrows=tf.size(chunks, tf.int64), validate=False)

    def _candidates(
        self, chunk: tf.Tensor, char: tf.Tensor, start: tf.Tensor, place: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """-> the pieces that end at each character (from 1; 0: none) int32 [C, longest] and their scores int64; column
        l-1: pieces of l characters. chunk, char: string [C]; start: first byte of char; place: its index in chunk."""
        end = start + tf.cast(tf.strings.length(char), tf.int64)
        lengths = tf.range(1, self.model.longest + 1, dtype=tf.int64)[tf.newaxis]
        fits = lengths <= place[:, tf.newaxis] + 1
        first = tf.where(fits, tf.range(tf.size(char, tf.int64))[:, tf.newaxis] - lengths + 1, 0)
        begin = tf.where(fits, tf.gather(start, first), 0)
        size = tf.where(fits, end[:, tf.newaxis] - begin, 0)
        pieces = self._piece.lookup(tf.strings.substr(chunk[:, tf.newaxis], begin, size))
        scores = tf.gather(self._scores, pieces)
        single = tf.maximum(scores[:, :1], BYTE_SCORE * CHUNK)
        return pieces, tf.concat([single, scores[:, 1:]], axis=1)


def _normalize(text: tf.Tensor) -> tf.Tensor:
    return tf.strings.strip(tf.strings.regex_replace(text, f"[{WHITE_SPACE}]+", " "))


def _units(text: tf.Tensor) -> tf.RaggedTensor:
    """`units` of text string [B] -> string ragged [B, None]."""
    # Turn the space before a word into SPACE; then put a space, which no unit contains, between units.
    marked = tf.strings.regex_replace(_normalize(text), "^(.)", SPACE + r"\1")
    marked = tf.strings.regex_replace(marked, " ", SPACE)
    return tf.strings.split(tf.strings.regex_replace(marked, UNIT_PATTERN, r"\0 "))


def _choose(scores: tf.RaggedTensor) -> tf.Tensor:
    """The Viterbi recursion over all chunks at once: scores [chunks, None, longest] -> length int64 [C].

    length: of the last piece on the best path to the end of each character. `window[:, l-1]`: the best sum up
    to l characters before the current end.
    """
    dense = scores.to_tensor()  # [chunks, time, longest]
    chunks, time, longest = tf.unstack(tf.shape(dense))
    tag = tf.range(1, longest + 1, dtype=tf.int64)  # in the six free bits: the longer piece wins a tie
    impossible = tf.fill([chunks, longest - 1], tf.constant(IMPOSSIBLE * CHUNK, tf.int64))
    window = tf.concat([tf.zeros([chunks, 1], tf.int64), impossible], axis=1)

    def advance(t, window, choices):
        best = tf.reduce_max(window + dense[:, t] + tag, axis=1, keepdims=True)
        choice = best % CHUNK
        window = tf.concat([best - choice, window[:, :-1]], axis=1)
        return t + 1, window, tf.concat([choices, choice], axis=1)

    state = (tf.constant(0), window, tf.zeros([chunks, 0], tf.int64))
    shapes = tuple(tf.TensorShape(shape) for shape in ([], [None, None], [None, None]))
    *_, choices = tf.while_loop(lambda t, *_: t < time, advance, state, shapes)
    return tf.RaggedTensor.from_tensor(choices, lengths=scores.row_lengths()).flat_values


def _on_best_path(length: tf.Tensor, chunk_starts: tf.Tensor) -> tf.Tensor:
    """length [C], chunk_starts [chunks] -> int64 [P]: last characters of the pieces on the best paths.

    Boundary i is before character i. The ends of chunks are on the path; if a boundary is, so is the start of the
    piece that ends there. Each round doubles the jump: six rounds cover the at most 64 pieces of a chunk.
    """
    total = tf.size(length, tf.int64)
    jump = tf.concat([tf.zeros([1], tf.int64), tf.range(1, total + 1) - length], axis=0)
    ends = tf.concat([chunk_starts, total[tf.newaxis]], axis=0)
    reached = tf.scatter_nd(ends[:, tf.newaxis], tf.ones_like(ends), [total + 1])
    for _ in range((CHUNK - 1).bit_length()):
        reached = tf.maximum(reached, tf.math.unsorted_segment_max(reached, jump, total + 1))
        jump = tf.gather(jump, jump)
    return tf.where(reached[1:] > 0)[:, 0]


def _spell_bytes(piece: tf.Tensor, char: tf.Tensor, owner: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """piece, from 1, or 0: spell the char by its bytes; char, owner; all [P] -> ids, owner [at least P]."""
    missing = tf.equal(piece, 0)
    count = tf.where(missing, tf.strings.length(char), 1)
    piece, owner = tf.repeat(piece, count), tf.repeat(owner, count)
    spelled = tf.io.decode_raw(tf.strings.reduce_join(tf.boolean_mask(char, missing)), tf.uint8)
    ids, places = piece + (FIRST_PIECE - 1), tf.where(tf.equal(piece, 0))
    return tf.tensor_scatter_nd_update(ids, places, tf.cast(spelled, tf.int32) + FIRST_BYTE), owner


def _table(keys: Sequence[str], default: int) -> tf.lookup.StaticHashTable:
    """-> a lookup table from each key to its index in the list."""
    content = tf.lookup.KeyValueTensorInitializer(tf.constant(keys), tf.range(len(keys)))
    return tf.lookup.StaticHashTable(content, default)
