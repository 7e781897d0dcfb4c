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
    """Hold the lock of an existing run directory until the end of the block.

    The operating system releases the lock when the process ends, even if it crashes; the file stays and contains the
    last holder's process id.

    Raises: RequestError if another process holds it.
    """
    with (run_dir / FILE).open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise RequestError(
                f"another training (process {file.read().strip() or 'unknown'}) runs in {run_dir}; wait until it ends "
                "or give another --run-dir."
            ) from None
        except OSError as error:  # some network file systems have no locks
            print(
                f"{run_dir} cannot be locked ({error.strerror}); do not run two trainings there at once.",
                file=sys.stderr,
            )
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
