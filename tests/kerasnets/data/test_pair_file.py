"""Pairs that are read from their file when they are needed are the pairs in memory, in the same order and splits."""

import numpy as np
import pytest

from kerasnets.data import data_file, pair_file
from kerasnets.data.pair_file import Sentences, group_by_first, members, sample
from kerasnets.data.sources import load_pairs
from kerasnets.data.splits import SPLITS, DataError, fixed_permutation
from kerasnets.run import fingerprint

PAIRS = [(f"söurce {n // 2} 😀", f"Ziel {n}") for n in range(0, 120, 3)] + [("söurce 3 😀", "again")]
LINES = "\ufeff" + "".join(f"{source}\t{target}\r\n" + "\n" * (n % 7 == 0) for n, (source, target) in enumerate(PAIRS))


@pytest.fixture
def load(tmp_path, monkeypatch):
    """-> a function: the pairs of `LINES`, read when they are needed or in memory."""
    (tmp_path / "p.tsv").write_bytes(LINES.encode())

    def load(streamed: bool, name: str = "p.tsv"):
        monkeypatch.setattr(data_file, "MEMORY_LIMIT", 10 if streamed else 1 << 20)
        return load_pairs(f"file:{tmp_path}/{name}")

    return load


def test_pairs_in_a_file_are_the_pairs_in_memory(load):
    streamed, whole = load(True), load(False)
    assert isinstance(streamed.train[0], Sentences) and isinstance(whole.train[0], list)
    assert all([list(side) for side in getattr(streamed, n)] == list(getattr(whole, n)) for n in SPLITS)
    assert streamed.summary == whole.summary
    assert [list(side) for side in streamed.first(3).train] == [side[:3] for side in whole.train]
    assert streamed.train[0][5] == whole.train[0][5] and streamed.train[1][-1] == whole.train[1][-1]


def test_the_splits_are_those_of_the_definition(load):
    """Group pairs by source, shuffle the groups, and cut them."""
    groups: dict[str, list] = {}
    for pair in PAIRS:
        groups.setdefault(pair[0], []).append(pair)
    ordered = [list(groups.values())[n] for n in fixed_permutation(len(groups))]
    held_out = len(groups) // 20
    expected = [pair for group in ordered[: len(groups) - 2 * held_out] for pair in group]
    assert list(zip(*load(True).train, strict=True)) == expected


def test_missing_splits_are_held_out(load, tmp_path):
    (tmp_path / "pairs").mkdir()
    (tmp_path / "p.tsv").rename(tmp_path / "pairs" / "train.tsv")
    (tmp_path / "pairs" / "dev.tsv").write_text("a\tb\n")
    streamed, whole = load(True, "pairs"), load(False, "pairs")
    assert all([list(side) for side in getattr(streamed, n)] == list(getattr(whole, n)) for n in SPLITS)
    assert streamed.validation[0][0] == "a" and not set(streamed.train[0]) & set(streamed.test[0])
    (tmp_path / "pairs" / "train.tsv").write_text("a\tb\na\tc\n")
    with pytest.raises(DataError, match="has no test, and train has too few sentences"):
        load(True, "pairs")


def test_groups():
    keys = np.array([7, 3, 7, 9, 3, 7], np.uint64)
    assert group_by_first(keys).tolist() == [0, 1, 0, 2, 1, 0]
    assert members(group_by_first(keys), np.array([2, 0])).tolist() == [3, 0, 2, 5]


def test_invalid_lines_are_counted(load, tmp_path):
    (tmp_path / "p.tsv").write_text(LINES + "x\n" * 5)
    with pytest.raises(DataError, match=r"5 of 46 lines of .*'x' with 0 tabs.*and 2 more"):
        load(True)


def test_a_change_while_the_pairs_are_in_use(load, tmp_path):
    sources = load(True).train[0]
    (tmp_path / "p.tsv").write_text(LINES[:100])
    with pytest.raises(DataError, match=r"p\.tsv has changed while it was in use \(it had [\d,]+ bytes and has"):
        list(sources)


def test_fingerprint(load):
    data = load(True)
    digests = [fingerprint.digest(getattr(data, name)) for name in SPLITS]
    assert len(set(digests)) == 3
    assert digests == [fingerprint.digest(getattr(load(True), name)) for name in SPLITS]


def test_sample_is_spread_evenly(load, monkeypatch):
    monkeypatch.setattr(pair_file, "SAMPLE", 5)
    whole, streamed = load(False).train[0], load(True).train[0]
    assert sample(whole) is whole
    assert list(sample(streamed)) == [whole[n * len(whole) // 5] for n in range(5)]
