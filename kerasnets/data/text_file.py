"""Texts in files that may be larger than memory.

The file is not converted: an index has the position of every 4 KiB of it in bytes and in characters, which UTF-8
encodes in one to four bytes, so a range of characters is found by reading at most 4 KiB more than its bytes.
"""

import array
import codecs
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from kerasnets.data import data_file
from kerasnets.data.data_file import DataFile
from kerasnets.data.splits import DataError, Text

CHUNK = 4 << 10  # bytes between two entries of the index
BUFFER = 1 << 20  # bytes read at once to build it
# The rest of a character, the second byte of an end of line, and byte order marks.
NO_START = re.compile(rb"[\x80-\xbf]{0,3}\n?(?:\xef\xbb\xbf)*")


class TextFile:
    """A range of the characters of a file, read when they are needed.

    It has the parts of the interface of `str` that large texts need: `len(text)`, `text[3:10]`, and `str(text)`, which
    reads the characters. The end of a line is "\\n". Byte order marks, which Windows writes at the beginning and which
    remain where files were joined, are left out.
    """

    def __init__(self, index: "TextIndex", start: int, stop: int):
        self._index, self._start, self._stop = index, start, stop

    @classmethod
    def open(cls, path: Path) -> "TextFile":
        """-> the whole text. Raises: DataError if the file cannot be read or is not UTF-8."""
        index = TextIndex(DataFile(path))
        return cls(index, 0, index.length)

    def __len__(self) -> int:
        return self._stop - self._start

    def __getitem__(self, part: slice) -> "TextFile":
        start, stop, step = part.indices(len(self))
        if step != 1:
            raise ValueError(f"the step of a part of a text is {step}; it must be 1.")
        return TextFile(self._index, self._start + start, self._start + max(start, stop))

    def __str__(self) -> str:
        """Raises: DataError if the file has changed since it was opened."""
        return self._index.read(self._start, self._stop)

    def count(self, text: str) -> int:
        """-> the number of lines, for "\n": the one text that is counted."""
        if text != "\n":
            raise ValueError(f"{text!r} is not counted, only the ends of lines.")
        return self._index.lines_before(self._stop) - self._index.lines_before(self._start)

    def contents(self) -> Iterator[bytes]:
        """-> bytes that identify the text, for a hash: its range, and all bytes in which it is."""
        yield f"{self._start}:{self._stop}:".encode()
        yield from self._index.contents(self._start, self._stop)


class TextIndex:
    """Positions in a UTF-8 file in bytes and in characters, at places where the decoding can start."""

    def __init__(self, file: DataFile):
        """Raises: DataError if the file is not UTF-8."""
        self._file = file
        if file.read(0, 2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            raise DataError(f"{file.path} is UTF-16, which Windows calls Unicode: save it as UTF-8")
        positions, characters, lines = (array.array("q", [0]) for _ in range(3))
        for position, data in self._chunks():
            text = self._decode(data, position)
            positions.append(position + len(data))
            characters.append(characters[-1] + len(text))
            lines.append(lines[-1] + text.count("\n"))
        self._bytes, self._characters, self._lines = map(np.array, (positions, characters, lines))
        self.length = characters[-1]

    def _chunks(self) -> Iterator[tuple[int, bytes]]:
        """-> the file in parts of about CHUNK bytes: (position, bytes)."""
        position, size = 0, BUFFER
        while position < self._file.size:
            data = self._file.read(position, position + size)
            is_last, start = position + len(data) == self._file.size, 0
            while start < len(data):
                end = find_start(data, start + CHUNK)
                if end is None and is_last:
                    end = len(data)
                if end is None:
                    break  # the next buffer begins here
                yield position + start, data[start:end]
                start = end
            position += start
            size = BUFFER if start else 2 * size

    def read(self, start: int, stop: int) -> str:
        """-> the characters from `start` to `stop`."""
        first, last = self._chunk_range(start, stop)
        position = int(self._bytes[first])
        text = self._decode(self._file.read(position, int(self._bytes[last])), position)
        return text[start - self._characters[first] : stop - self._characters[first]]

    def lines_before(self, position: int) -> int:
        """-> the number of ends of lines before a character."""
        first, _ = self._chunk_range(position, position)
        return int(self._lines[first]) + self.read(int(self._characters[first]), position).count("\n")

    def contents(self, start: int, stop: int) -> Iterator[bytes]:
        """-> the bytes in which the characters from `start` to `stop` are."""
        first, last = (int(self._bytes[n]) for n in self._chunk_range(start, stop))
        return (self._file.read(n, min(n + BUFFER, last)) for n in range(first, last, BUFFER))

    def _chunk_range(self, start: int, stop: int) -> tuple[int, int]:
        """-> the first chunk in which the characters from `start` to `stop` are, and the one after the last."""
        first = int(np.searchsorted(self._characters, start, "right")) - 1
        return first, max(first, int(np.searchsorted(self._characters, stop, "left")))

    def _decode(self, data: bytes, position: int) -> str:
        """-> the text of a part of the file that begins at the byte `position`."""
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataError(
                f"{self._file.path} is not UTF-8 (byte {position + error.start:,}): save it as UTF-8"
            ) from error
        if "\0" in text:
            raise DataError(
                f"{self._file.path} has null bytes (the first is byte {position + data.index(0):,}): give a text that "
                "is saved as UTF-8"
            )
        if "\r" in text:
            text = text.replace("\r\n", "\n").replace("\r", "\n")
        return re.sub("^\ufeff", "", text, flags=re.MULTILINE) if "\ufeff" in text else text


def find_start(data: bytes, position: int) -> int | None:
    """-> the first byte from `position` on with which a part can begin: not within a character or an end of line, nor
    at a byte order mark, which is left out only at the start of a line. None if it may be beyond the data."""
    end = NO_START.match(data, position).end()  # type: ignore[union-attr]
    return end if end + len(codecs.BOM_UTF8) <= len(data) else None


def read_text(path: Path) -> Text:
    """-> the text of a UTF-8 file; a `TextFile` if it is too large for memory.

    Raises: DataError if the file cannot be read or is not UTF-8.
    """
    text = TextFile.open(path)
    return text if path.stat().st_size > data_file.MEMORY_LIMIT else str(text)


class EncodedText:
    """The ids of a text's characters, encoded when they are needed, so that they take no memory.

    `ids[indices]`: indices int [B, T], consecutive in each row -> int32 [B, T].
    """

    def __init__(self, text: Text, encode: Callable[[str], np.ndarray]):
        """encode: a string -> the ids of its characters int32 [T]."""
        self._text, self._encode = text, encode

    def __len__(self) -> int:
        return len(self._text)

    def __getitem__(self, indices: np.ndarray) -> np.ndarray:
        rows = [str(self._text[start : stop + 1]) for start, stop in indices[:, [0, -1]].tolist()]
        return self._encode("".join(rows)).reshape(indices.shape)
