"""What tests of installed packages share: commands that have to succeed, and a copy of what is built."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

from small_runs import ROOT

BUILT_FROM = ("pyproject.toml", "README.md", "LICENSE", "kerasnets", "serving", "demos")


def run(*command: object, **options: Any) -> str:
    """Return the standard output of a command, which must end with status 0."""
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=600, check=False, **options
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def copy_source(directory: Path) -> None:
    """Copy what a package is built from: a build writes into its directory."""
    for name in BUILT_FROM:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, directory / name)
