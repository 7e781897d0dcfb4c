"""Sentences as lists of subwords: at once if they are in memory, when they are needed if they are in large files.

N pairs of a file
"""

import dataclasses
import os
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import tensorflow as tf

from kerasnets.data.data_file import FileState
from kerasnets.data.pair_file import PairFile, Sentences
from kerasnets.data.token_lists import TokenLists
from kerasnets.text.subwords import SubwordVocabulary

LENGTHS = "lengths.npz"  # in a run directory
BLOCK = 2_000  # sentences tokenized at once, where all are


class Tokenizer:
    """A vocabulary's subwords of many sentences."""

    def __init__(self, vocabulary: SubwordVocabulary, directory: Path | None = None):
        """Args: directory: of a run, where `save` wrote the lengths of pairs in large files."""
        self._path = directory and directory / LENGTHS
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
        ids = np.concatenate([np.zeros(0, np.int32), *(block.values.numpy() for block in tokens)])
        return TokenLists.of_array(ids, [length for block in tokens for length in block.row_lengths().numpy()])

    def _rows(self, sentences: list[str]) -> list[np.ndarray]:
        tokens = self._tokenize(tf.constant(sentences, tf.string))
        return np.split(tokens.values.numpy(), tokens.row_splits.numpy()[1:-1])

    def _pair_lengths(self, file: PairFile) -> np.ndarray:
        """-> the number of subwords of both sides of all pairs of a file, int32 [N, 2], computed once."""
        if file not in self._lengths and (saved := self._load_lengths(file)) is not None:
            self._lengths[file] = saved
        if file not in self._lengths:

            def lengths(start: int) -> np.ndarray:
                sides = zip(*file.read_range(start, min(start + BLOCK, len(file))), strict=True)
                counts = [self._tokenize(tf.constant(side)).row_lengths().numpy() for side in sides]
                return np.stack(counts, axis=1).astype(np.int32)

            with ThreadPoolExecutor(os.cpu_count()) as pool:  # TensorFlow releases the GIL while it tokenizes
                self._lengths[file] = np.concatenate(list(pool.map(lengths, range(0, len(file), BLOCK))))
        return self._lengths[file]

    def save(self, directory: Path) -> None:
        """Write the lengths that have been computed, if any, into a run directory: a run that resumes need not tokenize
        all pairs again."""
        if self._lengths:
            arrays = {f"lengths of {file.path.name}": lengths for file, lengths in self._lengths.items()}
            states = {f"state of {file.path.name}": dataclasses.astuple(file.state) for file in self._lengths}
            np.savez(directory / LENGTHS, **arrays, **states)  # type: ignore[arg-type]

    def _load_lengths(self, file: PairFile) -> np.ndarray | None:
        """-> the saved lengths of a file that is still the same; None if there are none."""
        if self._path is None:
            return None
        try:
            with np.load(self._path) as saved:
                state = FileState(*saved[f"state of {file.path.name}"].tolist())
                return saved[f"lengths of {file.path.name}"] if state == file.state else None
        except (OSError, ValueError, KeyError, zipfile.BadZipFile):
            return None  # there is none, or it is damaged
