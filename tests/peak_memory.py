"""The peak memory of a function in this process."""

import ctypes
import re
from collections.abc import Callable
from pathlib import Path

import pytest

STATUS, CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_memory(function: Callable[[], object]) -> float:
    """-> the maximum megabytes that the process takes during the call, beyond those before it. Skip the test if the
    kernel does not measure them."""
    if not CLEAR_REFS.exists():
        pytest.skip("only Linux measures the peak memory of a process")
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # reuse of freed memory would not be measured
    CLEAR_REFS.write_text("5")  # reset the peak
    before = megabytes("VmRSS")
    function()
    return megabytes("VmHWM") - before


def megabytes(key: str) -> float:
    return int(re.search(rf"{key}:\s+(\d+) kB", STATUS.read_text())[1]) / 1000
