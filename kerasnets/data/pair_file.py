"""Files of sentence pairs: lines of source TAB target. Large files are read line by line when pairs are needed.

N lines with pairs
"""

import array
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kerasnets.data.data_file import FileState
from kerasnets.data.splits import SPLITS, DataError, Pairs, Text, blocks, fixed_permutation, hold_out, unzip_pairs
from kerasnets.data.text_file import read_text

MAX_ERRORS = 3  # invalid lines that an error shows
SAMPLE = 100_000  # pairs of a large file, from which a vocabulary is trained


class PairFile:
    """The pairs of a file: where each begins and ends, and the hashes of its sides, which take 28 bytes for each.

    Attributes: hashes: of the sources and of the targets, uint64 [N] each.
    """

    def __init__(self, path: Path, blank: list[str]):
        """Append descriptions of blank lines to `blank`. Raises: DataError if a line has not the format of a pair."""
        self.path, self.text = path, read_text(path)
        self.state = FileState.of(path)
        starts, lengths = array.array("q"), array.array("i")
        hashes = array.array("Q"), array.array("Q")
        errors, invalid, number = [], 0, 0
        for number, (start, line) in enumerate(split_lines(self.text), start=1):
            source, tab, target = line.partition("\t")
            if tab and "\t" not in target and source.strip() and target.strip():
                starts.append(start)
                lengths.append(len(line))
                for side, sentence in zip(hashes, (source, target), strict=True):
                    side.append(hash_text(sentence))
            elif not line.strip():
                blank.append(f"line {number:,} of {path.name}")
            else:
                invalid += 1
                if invalid <= MAX_ERRORS:
                    errors.append(f"line {number:,}, {line[:40]!r} with {line.count(chr(9))} tabs")
        if errors:
            more = f"; and {invalid - MAX_ERRORS:,} more" if invalid > MAX_ERRORS else ""
            raise DataError(
                f"{invalid:,} of {invalid + len(starts):,} lines of {path} are not a source, one tab and a target: "
                f"{'; '.join(errors)}{more}"
            )
        self._starts, self._lengths = np.array(starts), np.array(lengths)
        self.hashes = np.array(hashes[0]), np.array(hashes[1])

    def __len__(self) -> int:
        return len(self._starts)

    def read(self, line: int) -> tuple[str, str]:
        """-> the source and the target of a pair."""
        return self.read_range(line, line + 1)[0]

    def read_range(self, first: int, stop: int) -> list[tuple[str, str]]:
        """-> the pairs of consecutive lines, at least one."""
        starts = self._starts[first:stop]
        ends = starts + self._lengths[first:stop]
        text = str(self.text[int(starts[0]) : int(ends[-1])])
        return [split_pair(text[start:end]) for start, end in np.stack([starts, ends], axis=1) - starts[0]]


class Sentences(Sequence[str]):
    """One side of pairs in a file, read when they are needed: `sentences[3]` reads one, iteration one after the other;
    a slice or an array of indices reads nothing."""

    def __init__(self, file: PairFile, lines: np.ndarray, side: int):
        """Args: lines: indices of pairs; side: 0: sources, 1: targets."""
        self.file, self.lines, self.side = file, lines, side

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice | np.ndarray):
            return type(self)(self.file, self.lines[index], self.side)
        return self.file.read(int(self.lines[index]))[self.side]

    def contents(self) -> Iterator[bytes]:
        """-> bytes that identify the sentences, for a hash."""
        yield self.file.hashes[self.side][self.lines].tobytes()


def hash_text(text: str) -> int:
    """-> 64 bits, the same in each process."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())


def split_pair(line: str) -> tuple[str, str]:
    source, _, target = line.partition("\t")
    return source, target


def split_lines(text: Text) -> Iterator[tuple[int, str]]:
    """-> the lines of a text, each with the index of its first character."""
    start, parts = 0, []
    for block in blocks(text):
        first, *others = block.split("\n")
        parts.append(first)
        for other in others:
            line = "".join(parts)
            yield start, line
            start, parts = start + len(line) + 1, [other]
    line = "".join(parts)
    if line or start == 0:
        yield start, line


def split_pairs(file: PairFile) -> tuple[Pairs, Pairs, Pairs]:
    """Shuffle pairs and split them: 90 %, 5 % and 5 % of the distinct sources, but at least one in each.

    All pairs of a source go into one split, so that no scored sentence was trained on.
    """
    groups = group_by_first(file.hashes[0])
    count = int(groups.max(initial=-1)) + 1
    if count < 3:
        raise DataError(
            f"{file.path} has {count} different sentences to translate: there must be at least 3, one for each split"
        )
    order, held_out = fixed_permutation(count), max(1, count // 20)
    cuts = np.split(order, [count - 2 * held_out, count - held_out])
    train, validation, test = (select_pairs(file, members(groups, cut)) for cut in cuts)
    return train, validation, test


def complete_splits(files: dict[str, PairFile], location: str) -> tuple[Pairs, Pairs, Pairs]:
    """files: {split: its file} -> train, validation, test. Splits without a file are held out from train (`hold_out`),
    with all pairs of a source in one split."""
    found = {split: (file, np.arange(len(file))) for split, file in files.items()}
    for split in ("test", "validation"):
        if split not in found:
            file, remaining = found["train"]
            groups = group_by_first(file.hashes[0][remaining])
            count = int(groups.max(initial=-1)) + 1
            if count < 2:
                raise DataError(f"{location} has no {split}, and train has too few sentences to split: add some")
            for part, chosen in zip(("train", split), hold_out(count), strict=True):
                found[part] = file, remaining[members(groups, chosen)]
    train, validation, test = (select_pairs(*found[name]) for name in SPLITS)
    return train, validation, test


def group_by_first(keys: np.ndarray) -> np.ndarray:
    """keys [N] -> the group of each, int [N]: equal keys are in one group; groups count by their first occurrence."""
    _, first, group = np.unique(keys, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[group]


def members(groups: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """-> the indices of the members of the chosen groups: group by group in their order, members in ascending order."""
    position = np.full(int(groups.max()) + 1, -1)
    position[chosen] = np.arange(len(chosen))
    indices = np.flatnonzero(position[groups] >= 0)
    return indices[np.argsort(position[groups[indices]], kind="stable")]


def select_pairs(file: PairFile, indices: np.ndarray) -> Pairs:
    """-> pairs by their indices: lists, or `Sentences` if the file is too large for memory."""
    if isinstance(file.text, str):
        return unzip_pairs([file.read(n) for n in indices.tolist()])
    return Sentences(file, indices, 0), Sentences(file, indices, 1)


def sample(sentences: Sequence[str]) -> Sequence[str]:
    """-> a list as it is; of `Sentences` at most SAMPLE, evenly spread."""
    if isinstance(sentences, Sentences) and len(sentences) > SAMPLE:
        return sentences[np.arange(SAMPLE) * len(sentences) // SAMPLE]
    return sentences
