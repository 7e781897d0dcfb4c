"""Helpers for tests of packages: run a command that must succeed, copy the sources of a package."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

from small_runs import ROOT

PACKAGE_SOURCES = ("pyproject.toml", "README.md", "LICENSE", "kerasnets", "serving", "demos")


def run(*command: object, **options: Any) -> str:
    """Return the standard output of a command, which must end with status 0."""
    process = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=600, check=False, **options
    )
    assert process.returncode == 0, process.stderr
    return process.stdout


def copy_source(directory: Path) -> None:
    """Copy the sources of a package, since a build writes into their directory."""
    for name in PACKAGE_SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, directory / name)
