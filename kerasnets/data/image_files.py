"""Images in files that are too large for memory together: read and decoded when they are needed."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from kerasnets.data.data_file import FileState

MEMORY_LIMIT = 256 << 20  # bytes of decoded images; of more, each is read when it is needed
BLOCK_FILES, BLOCK_BYTES = 256, 32 << 20  # files read before they are decoded together
Size = tuple[int, int]


@dataclass(frozen=True, slots=True)
class ImageFile:
    """A file that was decoded once: shape [Y, X, 3] of its image, after resizing, and its state at that time."""

    path: str
    state: FileState
    shape: tuple[int, ...]


class ImageFiles:
    """Images uint8 [N, Y, X, 3] in files.

    It has the parts of the interface of an array that large data need: `shape`, `len(images)`, and `images[indices]`
    with a slice or an array, which reads nothing. `np.asarray(images)` reads and decodes them in parallel.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, files: Sequence[ImageFile], size: Size | None):
        """Args: files: with images of one shape; size: (height, width) to which images are resized."""
        self._paths = np.array([file.path for file in files], object)
        self._states = np.array([(file.state.size, file.state.modified) for file in files], np.int64).reshape(-1, 2)
        self._shape, self._size = files[0].shape, size

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self), *self._shape)

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, indices: slice | Sequence[int] | np.ndarray) -> Self:
        part = object.__new__(type(self))
        part._paths, part._states = self._paths[indices], self._states[indices]
        part._shape, part._size = self._shape, self._size
        return part

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Raises: DataError if a file has changed since it was decoded first."""
        from kerasnets.images.batch import read_batch  # imports TensorFlow

        pixels = np.empty(self.shape, dtype or np.uint8)
        for start, stop in blocks(self._states[:, 0]):
            pixels[start:stop] = read_batch([self._read(n) for n in range(start, stop)], self._size)
        return pixels

    def contents(self) -> Iterator[bytes]:
        """-> bytes that identify the images, for a hash: those of their files."""
        return (self._read(n) for n in range(len(self)))

    def _read(self, n: int) -> bytes:
        path, state = self._paths[n], FileState(*self._states[n].tolist())
        try:
            data, now = read_file(path)
        except OSError:
            data, now = b"", None
        state.require(path, now)
        return data


def blocks(sizes: Sequence[int] | np.ndarray) -> Iterator[tuple[int, int]]:
    """sizes of files -> (start, stop) of the files that are read and decoded together."""
    start, total = 0, 0
    for n, size in enumerate(sizes):
        if n > start and (total + size > BLOCK_BYTES or n - start == BLOCK_FILES):
            yield start, n
            start, total = n, 0
        total += size
    if len(sizes):
        yield start, len(sizes)


def file_size(path: str) -> int:
    """-> the size of a file, 0 if it cannot be read."""
    try:
        return os.path.getsize(path)
    except OSError:
        return 0


def read_file(path: str) -> tuple[bytes, FileState]:
    """-> the content of a file and its state before it was read. Raises: OSError."""
    with open(path, "rb", buffering=0) as file:
        state = FileState.of(file.fileno())
        data = file.readall()
    # A file that is written at this moment has another size.
    return data, state if len(data) == state.size else FileState(len(data), state.modified)


def examine(path: str, size: Size | None) -> ImageFile | str:
    """Decode a file; -> its description, or that of the error."""
    from kerasnets.images.decoder import ImageError, read  # imports TensorFlow

    try:
        data, state = read_file(path)
        pixels = read(data)
    except ImageError as error:
        return str(error)
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return ImageFile(path, state, pixels.shape if size is None else (*size, pixels.shape[-1]))


def examine_all(paths: Sequence[str], size: Size | None) -> list[ImageFile | str]:
    """Decode files in parallel; -> for each its description, or that of the error."""
    import tensorflow as tf

    from kerasnets.images.batch import read_batch

    found: list[ImageFile | str] = []
    for start, stop in blocks([file_size(path) for path in paths]):
        block = paths[start:stop]
        try:
            files = [read_file(path) for path in block]
            shape = read_batch([data for data, _ in files], size).shape[1:]
            found += [ImageFile(path, state, shape) for path, (_, state) in zip(block, files, strict=True)]
        except (OSError, tf.errors.InvalidArgumentError):  # one of them is broken, or has another size
            found += [examine(path, size) for path in block]
    return found
