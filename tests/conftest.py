"""Fixtures for all tests: small runs of the three tasks on their bundled data, and their exports, made once.

`make test` distributes the test files over two processes of pytest-xdist; each starts its own server.
"""

from __future__ import annotations

import dataclasses
import functools
import gc
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# `make test` has a process on each of two cores: more threads per operation would only wait for each other.
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")

import pytest
from filelock import FileLock
from hypothesis import HealthCheck, settings
from small_runs import ROOT, TASKS, free_port, small_config, verify_here

from kerasnets.data import cldr

if TYPE_CHECKING:  # the environments of other backends have only the packages of layers and models
    from kerasnets.loading import LoadedModel

REAL_DATA = ROOT.parent / "shared" / "datasets"
# Files that take half a minute or more start first, so that at the end no process works alone on one of them.
SLOWEST = (
    "test_document_commands.py",
    "test_networks.py",
    # This is the first file that needs the exported models, and creates them; the next files do not need them.
    "test_programs.py",
    "test_survival_soak.py",
    "test_keras_conventions.py",
    "test_recurrent.py",
    "test_kernels.py",
    "test_search.py",
    "test_requests.py",
    "test_plain_tensorflow.py",
    "test_quickstart.py",
    "test_text_task.py",
    "test_translation_task.py",
    "test_sequence_models.py",
    "test_compression.py",
    "test_devices.py",
    "test_multi_worker.py",
    "test_training.py",
    "test_survival.py",
    "test_survival_hostile.py",
    "test_survival_signals.py",
    "test_fuzz_signatures.py",
    "test_formats.py",
    "test_extending.py",
    "test_survival_sockets.py",
    "test_pipelines.py",
    "test_bad_directories.py",
    "test_client_install.py",
    "test_changed_data.py",
    "test_models.py",
    "test_export.py",
    "test_served_models.py",
    "test_image_task.py",
    "test_transformer.py",
    "test_blocks.py",
    "test_attention.py",
)

# The time of an example depends on the machine.
settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")

# A pure function that takes seconds, and that trainings, exports and evaluations call repeatedly.
cldr.pairs = functools.cache(cldr.pairs)

MakeOnce = Callable[[str, Callable[[Path], None]], Path]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: SLOWEST.index(item.path.name) if item.path.name in SLOWEST else len(SLOWEST))


def pytest_collection_finish() -> None:
    gc.freeze()  # garbage collections skip TensorFlow and everything else that is imported by now


@pytest.fixture(scope="session")
def data_dir() -> str:
    """The directory of prepared TensorFlow Datasets; without it the test is skipped."""
    directory = os.environ.get("TFDS_DATA_DIR")
    if directory or REAL_DATA.is_dir():
        return directory or str(REAL_DATA)
    pytest.skip("no prepared datasets: set TFDS_DATA_DIR to a directory with mnist, tiny_shakespeare and multi30k")


@pytest.fixture(scope="session")
def make_once(tmp_path_factory: pytest.TempPathFactory) -> MakeOnce:
    """`make_once(name, make)`: a directory that `make` fills in the first process that needs it; others wait for it."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # shared by the processes

    def make_once(name: str, make: Callable[[Path], None]) -> Path:
        directory, done = base / name, base / f"{name}.done"
        with FileLock(base / f"{name}.lock"):
            if not done.exists():
                shutil.rmtree(directory, ignore_errors=True)  # files of a process that failed
                directory.mkdir()
                make(directory)
                done.touch()
        return directory

    return make_once


@pytest.fixture(scope="session")
def runs(make_once: MakeOnce) -> dict[str, Path]:
    """A finished run directory of each task."""

    def make(directory: Path) -> None:
        from kerasnets.train import train

        for task in TASKS:
            train(task, "quick", small_config(task), directory / task)

    directory = make_once("runs", make)
    return {task: directory / task for task in TASKS}


@pytest.fixture(scope="session")
def models_dir(runs: dict[str, Path], make_once: MakeOnce) -> Path:
    """An exported and verified SavedModel of each run."""

    def make(directory: Path) -> None:
        from kerasnets.export import export

        for run in runs.values():
            export(run, directory)

    return make_once("models", make)


@pytest.fixture(scope="session")
def load_run(runs: dict[str, Path], models_dir: Path) -> Callable[[str], LoadedModel]:
    """`load_run(task)`: the loaded run with the signatures of its SavedModel, since loading is faster than tracing."""

    @functools.cache
    def load(task: str) -> LoadedModel:
        from kerasnets.loading import open_model

        exported = open_model(models_dir / task / "1").signatures
        signatures = {name: exported[name] for name in exported if name != "__saved_model_init_op"}
        return dataclasses.replace(open_model(runs[task]), signatures=signatures)

    return load


@pytest.fixture
def verify_in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exports are verified in this process; `models_dir` and the README's `kerasnets.verify` use another process."""
    monkeypatch.setattr("kerasnets.export.verify", verify_here)


@dataclass(frozen=True)
class RunningServer:
    grpc: str
    rest: str
    models_dir: Path
    pid: int


@pytest.fixture(scope="session")
def served_models(models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A running `python -m serving` with the three exported models."""
    grpc, rest = free_port(), free_port()
    command = [sys.executable, "-m", "serving", f"--models_dir={models_dir}", f"--port={grpc}"]
    log = tmp_path_factory.mktemp("served") / "server.log"
    with log.open("w") as output:
        process = subprocess.Popen([*command, f"--rest_api_port={rest}"], cwd=ROOT, stdout=output, stderr=output)
    try:
        end = time.monotonic() + 300  # a busy machine loads and warms up three models slowly
        while "HTTP/REST API" not in log.read_text():
            assert process.poll() is None and time.monotonic() < end, log.read_text()
            time.sleep(0.1)
        yield RunningServer(f"127.0.0.1:{grpc}", f"http://127.0.0.1:{rest}", models_dir, process.pid)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
