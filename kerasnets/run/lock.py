"""One training at a time in a run directory."""

import contextlib
import fcntl
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from kerasnets.checks import RequestError

FILE = ".lock"


@contextlib.contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """Hold the lock of a run directory, which is there, until the end of the block.

    The operating system holds it for the process and drops it when the process ends, in whatever way; the file itself
    stays, and says who had it last.

    Raises: RequestError if another process holds it.
    """
    with (run_dir / FILE).open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise RequestError(
                f"another training (process {file.read().strip() or 'unknown'}) runs in {run_dir}; wait for its end or "
                "give another --run-dir."
            ) from None
        except OSError as error:  # some network file systems have no locks
            print(f"{run_dir} cannot be locked ({error.strerror}); train there once at a time.", file=sys.stderr)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
