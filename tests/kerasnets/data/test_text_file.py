"""Texts that are read from their file part by part are the texts in memory, and a change of the file is noticed."""

import os

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kerasnets.data import data_file, text_file
from kerasnets.data.batches import text_batch, to_dataset
from kerasnets.data.sources import load_text
from kerasnets.data.splits import DataError, blocks
from kerasnets.data.text_file import EncodedText, TextFile
from kerasnets.run import fingerprint

# Characters of one to four bytes, all ends of lines, and byte order marks.
TEXT = "Schöne Grüße 😀\r\n日本\n\r\ufeffa\ufeff\n\n" * 30


def encode(text: str) -> np.ndarray:
    return np.array([ord(c) for c in text], np.int32)


@pytest.fixture
def book(tmp_path, monkeypatch):
    """A file that is too large for memory."""
    monkeypatch.setattr(text_file, "CHUNK", 7)
    monkeypatch.setattr(text_file, "BUFFER", 31)
    monkeypatch.setattr(data_file, "MEMORY_LIMIT", 100)
    path = tmp_path / "book.txt"
    path.write_bytes(TEXT.encode())
    return path


def test_streamed_text_is_the_text_in_memory(book, monkeypatch):
    streamed = load_text(f"file:{book}")
    monkeypatch.setattr(data_file, "MEMORY_LIMIT", 10_000)
    whole = load_text(f"file:{book}")
    assert isinstance(streamed.train, TextFile) and isinstance(whole.train, str)
    assert [str(part) for part in (streamed.train, streamed.validation, streamed.test)] == [
        whole.train,
        whole.validation,
        whole.test,
    ]
    assert "".join(blocks(streamed.train)) == whole.train
    assert (streamed.parts, streamed.summary) == (whole.parts, whole.summary)
    first, first_whole = streamed.first(50), whole.first(50)
    assert str(first.train) == first_whole.train and first.summary == first_whole.summary
    for step in range(40):
        batches = [text_batch(EncodedText(data.train, encode), 3, 11, 5, step) for data in (streamed, whole)]
        batches.append(text_batch(encode(whole.train), 3, 11, 5, step))
        assert all(np.array_equal(batches[0][name], other[name]) for other in batches for name in batches[0])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.sampled_from("aß日😀\r\n\ufeff"), max_size=60), st.integers(0, 60), st.integers(0, 60))
def test_every_part_of_every_text(tmp_path, content, start, stop):
    path = tmp_path / "t.txt"
    path.write_bytes(content.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_file, "CHUNK", 4)
        patch.setattr(text_file, "BUFFER", 12)
        text = TextFile.open(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_file, "CHUNK", 1000)
        expected = str(TextFile.open(path))
    assert len(text) == len(expected) and str(text) == expected
    assert str(text[start:stop]) == expected[start:stop]
    assert str(text[start:][1:]) == expected[start:][1:]
    assert text[start:stop].count("\n") == expected[start:stop].count("\n")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"a" * 200 + b"\xff" + b"b" * 200, r"not UTF-8 \(byte 200\)"),
        (b"a" * 200 + b"\xc3", r"not UTF-8 \(byte 200\)"),
        (b"a" * 50 + b"\x80" * 200, r"not UTF-8 \(byte 50\)"),
        (b"a" * 200 + b"\0", r"null bytes \(the first is byte 200\)"),
        (b" \n" * 200, "only white space"),
        (TEXT.encode("utf-16"), "is UTF-16"),
    ],
)
def test_errors(book, content, sentence):
    book.write_bytes(content)
    with pytest.raises(DataError, match=sentence):
        load_text(f"file:{book}")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda path: os.truncate(path, 300), r"it had [\d,]+ bytes and has 300"),
        (lambda path: path.write_bytes(path.read_bytes() + b"a"), r"it had [\d,]+ bytes and has"),
        (lambda path: os.utime(path, ns=(0, 1)), "it was written again"),
        (lambda path: path.unlink(), "it is missing now"),
    ],
    ids=["shrinks", "grows", "is written", "is removed"],
)
def test_a_change_while_the_text_is_in_use(book, change, sentence):
    ids = EncodedText(load_text(f"file:{book}").train, encode)
    batches = iter(to_dataset(lambda step: text_batch(ids, 2, 5, 0, step), 0, 100))
    next(batches)
    change(book)
    with pytest.raises(DataError, match=rf"book\.txt has changed while it was in use \({sentence}.*: restore it and"):
        text_batch(ids, 2, 5, 0, 3)


def test_fingerprint_distinguishes_texts_and_splits(book):
    before = load_text(f"file:{book}")
    digests = [fingerprint.digest(part) for part in (before.train, before.validation, before.test)]
    assert len(set(digests)) == 3
    book.write_bytes(TEXT.replace("Schöne", "SchÖne", 1).encode())
    after = load_text(f"file:{book}")
    assert [fingerprint.digest(part) for part in (after.train, after.validation, after.test)] == [
        fingerprint.digest(after.train),
        *digests[1:],
    ]
    assert fingerprint.digest(after.train) != digests[0]
