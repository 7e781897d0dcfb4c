"""Word vectors from text files, to initialize an embedding: the formats of word2vec and of GloVe.

A line is a word and its numbers, separated by single spaces; word2vec has a header line, "count width".

    vectors = read_vectors("glove.6B.300d.txt", words)          # words[id]
    print(vectors.report())
    table = vectors.fill(numpy.random.normal(0, 0.4, vectors.rows.shape))
    layer = keras.layers.Embedding(*table.shape, embeddings_initializer=keras.initializers.Constant(table))
"""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from kerasnets.checks import RequestError


class VectorsError(RequestError):
    """A file of vectors is invalid. The message: the file, the line, its content and the allowed content."""


@dataclasses.dataclass(frozen=True)
class WordVectors:
    """A file's vectors for a list of words."""

    path: Path
    words: Sequence[str | None]
    """The word of each row; None: not a word."""
    rows: np.ndarray
    """float32 [words, width], zeros for words without a vector."""
    found: np.ndarray
    """bool [words]: whether the word has a vector."""

    def fill(self, table: np.ndarray) -> np.ndarray:
        """-> table [words, width], its rows replaced by the vectors that were found."""
        return np.where(self.found[:, np.newaxis], self.rows, table).astype(np.float32)

    def report(self) -> str:
        """-> one line: the number of words with a vector, and some words without one."""
        pairs = zip(self.words, self.found, strict=True)
        missing = [word for word, has_vector in pairs if word is not None and not has_vector]
        found, total = int(self.found.sum()), sum(word is not None for word in self.words)
        examples = f"; none for {', '.join(missing[:8])}{', ...' if len(missing) > 8 else ''}" if missing else ""
        return f"{self.path}: vectors for {found:,} of {total:,} words ({found / max(total, 1):.1%}){examples}"


def read_vectors(path: str | Path, words: Sequence[str | None], width: int | None = None) -> WordVectors:
    """Read a file's vectors for `words`, spelled exactly so; if a word has several lines, the first is used.

    The file is read line by line and may be larger than memory. Lines of other words are only counted.

    Args: words: the word of each row, or None; width: of the vectors; None: the file's.
    """
    path = Path(path)
    indices: dict[str, list[int]] = {}
    for index, word in enumerate(words):
        if word is not None:
            indices.setdefault(word, []).append(index)
    rows, found = None, np.zeros(len(words), bool)
    for number, word, numbers in _lines(path, width):
        if rows is None:
            rows = np.zeros((len(words), len(numbers)), np.float32)
        for index in indices.pop(word, ()):
            rows[index], found[index] = _numbers(path, number, numbers), True
    if rows is None:
        raise VectorsError(f"{path} is empty; it must have a word and its numbers on each line.")
    return WordVectors(path, words, rows, found)


def _lines(path: Path, width: int | None) -> Iterator[tuple[int, str, list[str]]]:
    """-> for each line its number, its word and its numbers as strings, always equally many."""
    count, number = None, 0
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                fields = _text(path, number, line).rstrip().split(" ")
                if number == 1 and len(fields) == 2 and all(field.isdecimal() for field in fields):
                    count, stated = int(fields[0]), int(fields[1])
                    _check_width(path, number, stated, width)
                    width = stated
                    continue
                width = len(fields) - 1 if width is None else width
                extra = len(fields) - 1 - width  # some words of GloVe contain spaces
                if width < 1 or extra < 0 or any(_is_number(field) for field in fields[1 : 1 + extra]):
                    _check_width(path, number, len(fields) - 1, max(width, 1))
                yield number, " ".join(fields[: 1 + extra]), fields[1 + extra :]
    except OSError as error:
        raise VectorsError(f"{path} cannot be read ({error.strerror}); give a file of word vectors.") from None
    if count is not None and count != number - 1:
        raise VectorsError(f"{path} has {number - 1} vectors; its first line says {count}: the file is incomplete.")


def _text(path: Path, number: int, line: bytes) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        allowed = "the text format of word2vec or GloVe, not the binary one"
        raise VectorsError(f"{path}, line {number}: {line[:20]!r} is not UTF-8; it must be {allowed}.") from None


def _check_width(path: Path, number: int, found: int, allowed: int | None) -> None:
    if allowed is not None and found != allowed:
        raise VectorsError(f"{path}, line {number}: {found} numbers; there must be {allowed}.")


def _is_number(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True


def _numbers(path: Path, number: int, fields: list[str]) -> list[float]:
    wrong = next(itertools.filterfalse(lambda field: _is_number(field) and np.isfinite(float(field)), fields), None)
    if wrong is not None:
        raise VectorsError(
            f"{path}, line {number}: {wrong!r} is not a finite number; all numbers of a word must be finite."
        )
    return [float(field) for field in fields]
