"""The quick start runs the missing steps in order and leaves no process running."""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from demo_fakes import FakeClient, Version

from demos import cli, quickstart
from demos.quickstart import ChildProcesses, ProgressLog, all_ready, is_exported, main, prepare, wait_for

REPOSITORY = Path(__file__).parents[2]
TIMEOUT = 120.0  # seconds, for operations that take a few on an idle machine


class Recorder(ChildProcesses):
    """Records the commands instead of running them, and creates their files."""

    def __init__(self) -> None:
        super().__init__()
        self.commands: list[tuple[str, ...]] = []

    def finish(self, *arguments: Any) -> None:
        self.commands.append(tuple(map(str, arguments)))
        if arguments[0] == "kerasnets.train":
            create_file(arguments[-1] / "metrics.json")
        else:
            create_file(arguments[-1] / arguments[1].name / "1" / "saved_model.pb")


def create_file(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


@pytest.fixture
def options(tmp_path: Path) -> argparse.Namespace:
    return argparse.Namespace(models_dir=tmp_path / "models", runs_dir=tmp_path / "runs")


def test_missing_models_are_trained_and_exported_once(options: argparse.Namespace) -> None:
    children = Recorder()
    prepare("translation", options, children, ProgressLog())
    run_dir = options.runs_dir / "translation"
    assert children.commands == [
        ("kerasnets.train", "translation", "--preset", "quick", "--run-dir", str(run_dir)),
        ("kerasnets.export", str(run_dir), "--models-dir", str(options.models_dir)),
    ]
    prepare("translation", options, children, ProgressLog())
    assert len(children.commands) == 2


def test_a_finished_run_is_only_exported(options: argparse.Namespace) -> None:
    create_file(options.runs_dir / "translation" / "metrics.json")
    children = Recorder()
    prepare("translation", options, children, ProgressLog())
    assert [command[0] for command in children.commands] == ["kerasnets.export"]


def test_is_exported_needs_a_complete_numbered_version(tmp_path: Path) -> None:
    assert not is_exported(tmp_path / "translation")
    create_file(tmp_path / "translation" / "tmp-1" / "saved_model.pb")
    create_file(tmp_path / "translation" / "1" / "variables")
    assert not is_exported(tmp_path / "translation")
    create_file(tmp_path / "translation" / "1" / "saved_model.pb")
    assert is_exported(tmp_path / "translation")


def test_all_ready(client: FakeClient) -> None:
    assert all_ready(client)
    client.models["translation"] = [Version(1, "LOADING")]
    assert not all_ready(client)
    client.models["translation"] = [Version(1, "END", "INTERNAL", "broken file")]
    with pytest.raises(cli.RunError, match=r"could not load translation: broken file\."):
        all_ready(client)


def test_the_error_of_a_failed_program_contains_its_command_and_status() -> None:
    with pytest.raises(cli.RunError, match="`python -m no_such_module x` ended with exit status 1"):
        ChildProcesses().finish("no_such_module", "x")


def test_waiting_fails_when_a_child_ends() -> None:
    children = ChildProcesses()
    children.start("no_such_module")
    with pytest.raises(cli.RunError, match="no_such_module"):
        wait_for(lambda: False, children)


def test_waiting_has_a_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quickstart, "START_TIMEOUT", 0.0)
    with pytest.raises(cli.RunError, match="did not answer"):
        wait_for(lambda: False, ChildProcesses())


@pytest.mark.parametrize("option", ["--port", "--grpc-port", "--rest-port"])
def test_a_port_in_use_is_an_error_before_anything_runs(
    option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        number = listener.getsockname()[1]
        free = {"--port": "17860", "--grpc-port": "18500", "--rest-port": "18501"} | {option: str(number)}
        ports = [word for pair in free.items() for word in pair]
        assert main(["--models-dir", str(tmp_path), "--runs-dir", str(tmp_path), *ports]) == 2
    for number_, handler in handlers.items():
        signal.signal(number_, handler)
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.count("\n") == 1
    assert f"port {number} on 127.0.0.1 is in use; choose another with {option}" in output.err


def run_with_fake_train(folder: Path, train: str, ports: list[str]) -> subprocess.Popen[str]:
    """Run the quick start in a folder with ``train`` as its ``kerasnets.train``."""
    (folder / "kerasnets").mkdir()
    (folder / "kerasnets" / "__init__.py").touch()
    (folder / "kerasnets" / "train.py").write_text(train, encoding="utf-8")
    return subprocess.Popen(
        [sys.executable, "-m", "demos.quickstart", *ports],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def ports() -> list[str]:
    """Return options with three free ports."""
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
    numbers = [listener.getsockname()[1] for listener in listeners]
    for listener in listeners:
        listener.close()
    names = ("--port", "--grpc-port", "--rest-port")
    return [f"{name}={number}" for name, number in zip(names, numbers, strict=True)]


def test_failed_training_exits_with_status_1(tmp_path: Path, ports: list[str]) -> None:
    with run_with_fake_train(tmp_path, "raise SystemExit(7)", ports) as program:
        output, errors = program.communicate(timeout=TIMEOUT)
    assert program.returncode == 1
    assert "image_classification: training" in output
    assert "kerasnets.train image_classification --preset quick --run-dir runs/quick/image_classification`" in errors
    assert "exit status 7" in errors
    assert errors.count("\n") == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_children(tmp_path: Path, ports: list[str], number: signal.Signals) -> None:
    train = """
import os, time
open("pid.new", "w").write(str(os.getpid()))
os.rename("pid.new", "pid")
time.sleep(600)
"""
    with run_with_fake_train(tmp_path, train, ports) as program:
        deadline = time.monotonic() + TIMEOUT
        while not (tmp_path / "pid").exists():
            assert program.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        program.send_signal(number)
        _, errors = program.communicate(timeout=TIMEOUT)
    assert program.returncode == 1
    assert "the training so far is kept" in errors
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


@pytest.mark.slow
def test_a_second_run_serves_exported_models_and_stops_cleanly(
    models_dir: Path, tmp_path: Path, ports: list[str]
) -> None:
    log = tmp_path / "output"
    command = [sys.executable, "-m", "demos.quickstart", f"--models-dir={models_dir}", f"--runs-dir={tmp_path}", *ports]
    with log.open("w") as output:
        program = subprocess.Popen(command, cwd=REPOSITORY, stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + quickstart.START_TIMEOUT + TIMEOUT
        while "Ready." not in log.read_text():
            assert program.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        children = children_of(program.pid)
        assert len(children) == 2
        numbers = [int(option.partition("=")[2]) for option in ports]
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://127.0.0.1:{numbers[0]}", timeout=TIMEOUT) as page:
            assert "kerasnets" in page.read().decode()
        program.send_signal(signal.SIGINT)
        assert program.wait(TIMEOUT) == 0, log.read_text()
    finally:
        program.terminate()  # it stops its children, which kill would leave running
        program.wait(TIMEOUT)
    assert "training" not in log.read_text() and "Traceback" not in log.read_text()
    for child in children:
        with pytest.raises(ProcessLookupError):
            os.kill(child, 0)
    for number in numbers:
        with socket.socket() as visitor:
            assert visitor.connect_ex(("127.0.0.1", number)) != 0


def children_of(process: int) -> list[int]:
    """Return the child processes of a process."""
    rows = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    pairs = [tuple(map(int, row.split())) for row in rows.splitlines()]
    return [child for child, parent in pairs if parent == process]
