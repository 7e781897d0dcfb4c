"""What strings take of memory, and how free memory goes back to the system."""

from __future__ import annotations

import ctypes
import sys

STRING_BYTES = 64  # that a string takes in arrays of numpy and of the runtime, besides its own bytes


def give_back() -> None:
    """What the C library keeps of it, in case that it is needed again: to prepare a graph takes several times as much
    as stays. Where that is not glibc, nothing happens."""
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)
