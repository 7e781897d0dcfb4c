"""How much memory this process takes while it does something."""

import ctypes
import re
from collections.abc import Callable
from pathlib import Path

import pytest

STATUS, CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_memory(function: Callable[[], object]) -> float:
    """-> megabytes above those that the process has at rest, at the highest. Skips the test where the kernel does not
    count them."""
    if not CLEAR_REFS.exists():
        pytest.skip("the peak of a process's memory is counted by Linux alone")
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # memory that was freed would be taken again without being counted
    CLEAR_REFS.write_text("5")  # the peak begins anew
    rest = megabytes("VmRSS")
    function()
    return megabytes("VmHWM") - rest


def megabytes(key: str) -> float:
    return int(re.search(rf"{key}:\s+(\d+) kB", STATUS.read_text())[1]) / 1000
