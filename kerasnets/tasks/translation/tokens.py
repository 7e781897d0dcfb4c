"""Sentences as lists of subwords: at once if they are in memory, when they are needed if they are in large files.

N pairs of a file
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import tensorflow as tf

from kerasnets.data.pair_file import PairFile, Sentences
from kerasnets.data.token_lists import TokenLists
from kerasnets.text.subwords import SubwordVocabulary

BLOCK = 2_000  # sentences tokenized at once, where all are


class Tokenizer:
    """A vocabulary's subwords of many sentences."""

    def __init__(self, vocabulary: SubwordVocabulary):
        self._tokenize = tf.function(vocabulary.tokenize, input_signature=[tf.TensorSpec((None,), tf.string)])
        self._lengths: dict[PairFile, np.ndarray] = {}

    def lists(self, sentences: Sequence[str]) -> TokenLists:
        """-> the subwords of each sentence, without start and end."""
        if isinstance(sentences, Sentences):
            lengths = self._pair_lengths(sentences.file)[sentences.lines, sentences.side]
            return TokenLists(lambda indices: self._rows([sentences[n] for n in indices.tolist()]), lengths)
        tokens = [
            self._tokenize(tf.constant(sentences[start : start + BLOCK])) for start in range(0, len(sentences), BLOCK)
        ]
        ids = [block.values.numpy() for block in tokens]
        lengths = [block.row_lengths().numpy() for block in tokens]
        return TokenLists.of_array(np.concatenate([[], *ids]).astype(np.int32), np.concatenate([[], *lengths]))

    def _rows(self, sentences: list[str]) -> list[np.ndarray]:
        tokens = self._tokenize(tf.constant(sentences, tf.string))
        return np.split(tokens.values.numpy(), tokens.row_splits.numpy()[1:-1])

    def _pair_lengths(self, file: PairFile) -> np.ndarray:
        """-> the number of subwords of both sides of all pairs of a file, int32 [N, 2], computed once."""
        if file not in self._lengths:

            def lengths(start: int) -> np.ndarray:
                sides = zip(*file.read_range(start, min(start + BLOCK, len(file))), strict=True)
                counts = [self._tokenize(tf.constant(side)).row_lengths().numpy() for side in sides]
                return np.stack(counts, axis=1).astype(np.int32)

            with ThreadPoolExecutor(os.cpu_count()) as pool:  # TensorFlow releases the GIL while it tokenizes
                self._lengths[file] = np.concatenate(list(pool.map(lengths, range(0, len(file), BLOCK))))
        return self._lengths[file]
