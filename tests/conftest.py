"""Trained, exported and served once for the whole test run: the three tasks on their bundled data, in small."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import pytest
from small_runs import ROOT, TASKS, free_port, small

REAL_DATA = ROOT.parent / "shared" / "datasets"


@pytest.fixture(scope="session")
def data_dir() -> str:
    """The folder of prepared TensorFlow Datasets, where there is one."""
    given = os.environ.get("TFDS_DATA_DIR")
    if given or REAL_DATA.is_dir():
        return given or str(REAL_DATA)
    pytest.skip("no prepared data sets: set TFDS_DATA_DIR to a folder with mnist, tiny_shakespeare and multi30k")


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A finished run directory of each task."""
    from kerasnets.train import train

    directory = tmp_path_factory.mktemp("runs")
    for task in TASKS:
        train(task, "quick", small(task), directory / task)
    return {task: directory / task for task in TASKS}


@pytest.fixture(scope="session")
def models_dir(runs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported and verified SavedModel of each run."""
    from kerasnets.export import export

    directory = tmp_path_factory.mktemp("models")
    for run in runs.values():
        export(run, directory)
    return directory


@dataclass(frozen=True)
class Served:
    grpc: str
    rest: str
    models_dir: Path


@pytest.fixture(scope="session")
def served_models(models_dir: Path) -> Iterator[Served]:
    """A running `python -m serving` with the three exported models."""
    grpc, rest = free_port(), free_port()
    command = [sys.executable, "-m", "serving", f"--models_dir={models_dir}", f"--port={grpc}"]
    log = models_dir / "server.log"
    with log.open("w") as output:
        process = subprocess.Popen([*command, f"--rest_api_port={rest}"], cwd=ROOT, stdout=output, stderr=output)
    try:
        end = time.monotonic() + 120
        while "HTTP/REST API" not in log.read_text():
            assert process.poll() is None and time.monotonic() < end, log.read_text()
            time.sleep(0.1)
        yield Served(f"127.0.0.1:{grpc}", f"http://127.0.0.1:{rest}", models_dir)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
