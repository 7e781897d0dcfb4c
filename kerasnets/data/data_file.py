"""A file of the user's own data that is too large for memory: parts of it are read when they are needed."""

import os
from dataclasses import dataclass
from pathlib import Path

from kerasnets.data.splits import DataError

MEMORY_LIMIT = 64 << 20  # bytes of texts and pairs; larger files are read part by part


@dataclass(frozen=True, slots=True)
class FileState:
    """The size and the modification time of a file, which reveal a change without reading it."""

    size: int
    modified: int  # nanoseconds

    @classmethod
    def of(cls, file: str | Path | int) -> "FileState":
        """file: a path or an open file. Raises: OSError."""
        status = os.stat(file)
        return cls(status.st_size, status.st_mtime_ns)

    def require(self, path: str | Path, now: "FileState | None") -> None:
        """Raises: DataError if the file's state is not this one any more; `now` is None if the file is missing."""
        if now == self:
            return
        if now is None:
            change = "it is missing now"
        elif now.size != self.size:
            change = f"it had {self.size:,} bytes and has {now.size:,}"
        else:
            change = "it was written again"
        raise DataError(f"{path} has changed while it was in use ({change}): restore it and run the same command again")


class DataFile:
    """A file that must not change while it is in use.

    `read` copies bytes: pages of a memory map would count as memory of the process, and reading one beyond the end of a
    file that shrank would kill it.
    """

    def __init__(self, path: Path):
        """Raises: DataError if the file cannot be opened."""
        self.path = path
        try:
            self._file = path.open("rb", buffering=0)
        except OSError as error:
            raise DataError(f"{path} cannot be read ({error.strerror}): give the path of a text file") from error
        self._state = FileState.of(self._file.fileno())
        self.size = self._state.size

    def read(self, start: int, stop: int) -> bytes:
        """-> the bytes from `start` to `stop`, at most to the end of the file.

        Raises: DataError if the file has changed since it was opened.
        """
        data = os.pread(self._file.fileno(), stop - start, start)
        self.require_unchanged()
        if len(data) < min(stop, self.size) - start:  # a network file system can return less
            data += self.read(start + len(data), stop)
        return data

    def require_unchanged(self) -> None:
        """Raises: DataError if the file has changed since it was opened, or was replaced by another one."""
        try:
            now = FileState.of(self.path)
        except OSError:
            now = None
        self._state.require(self.path, now)
