"""The quick start runs what is missing, in order, and leaves nothing running."""

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
from demos.quickstart import Announcer, Children, all_ready, exported, main, prepare, wait_for

REPOSITORY = Path(__file__).parents[2]
LIMIT = 120.0  # seconds, for what takes a few: the machine may be busy


class Recorder(Children):
    """Writes down what would be run, and leaves the files that it would leave."""

    def __init__(self) -> None:
        super().__init__()
        self.commands: list[tuple[str, ...]] = []

    def finish(self, *arguments: Any) -> None:
        self.commands.append(tuple(map(str, arguments)))
        if arguments[0] == "kerasnets.train":
            touch(arguments[-1] / "metrics.json")
        else:
            touch(arguments[-1] / arguments[1].name / "1" / "saved_model.pb")


def touch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


@pytest.fixture
def options(tmp_path: Path) -> argparse.Namespace:
    return argparse.Namespace(models_dir=tmp_path / "models", runs_dir=tmp_path / "runs")


def test_what_is_missing_is_trained_and_exported_once(options: argparse.Namespace) -> None:
    children = Recorder()
    prepare("translation", options, children, Announcer())
    run_dir = options.runs_dir / "translation"
    assert children.commands == [
        ("kerasnets.train", "translation", "--preset", "quick", "--run-dir", str(run_dir)),
        ("kerasnets.export", str(run_dir), "--models-dir", str(options.models_dir)),
    ]
    prepare("translation", options, children, Announcer())
    assert len(children.commands) == 2


def test_a_finished_run_is_only_exported(options: argparse.Namespace) -> None:
    touch(options.runs_dir / "translation" / "metrics.json")
    children = Recorder()
    prepare("translation", options, children, Announcer())
    assert [command[0] for command in children.commands] == ["kerasnets.export"]


def test_exported_needs_a_whole_numbered_version(tmp_path: Path) -> None:
    assert not exported(tmp_path / "translation")
    touch(tmp_path / "translation" / "tmp-1" / "saved_model.pb")
    touch(tmp_path / "translation" / "1" / "variables")
    assert not exported(tmp_path / "translation")
    touch(tmp_path / "translation" / "1" / "saved_model.pb")
    assert exported(tmp_path / "translation")


def test_ready_means_all_three(client: FakeClient) -> None:
    assert all_ready(client)
    client.models["translation"] = [Version(1, "LOADING")]
    assert not all_ready(client)
    client.models["translation"] = [Version(1, "END", "INTERNAL", "broken file")]
    with pytest.raises(cli.Failed, match=r"could not load translation: broken file\."):
        all_ready(client)


def test_a_failing_program_is_named_with_its_status() -> None:
    with pytest.raises(cli.Failed, match="`python -m no_such_module x` ended with exit status 1"):
        Children().finish("no_such_module", "x")


def test_waiting_ends_when_a_child_does() -> None:
    children = Children()
    children.start("no_such_module")
    with pytest.raises(cli.Failed, match="no_such_module"):
        wait_for(lambda: False, children)


def test_waiting_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quickstart, "START_LIMIT", 0.0)
    with pytest.raises(cli.Failed, match="did not answer"):
        wait_for(lambda: False, Children())


@pytest.mark.parametrize("option", ["--port", "--grpc-port", "--rest-port"])
def test_a_port_in_use_is_said_before_anything_runs(
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


def run_with_stand_in(folder: Path, train: str, ports: list[str]) -> subprocess.Popen[str]:
    """Start the quick start in a folder whose own ``kerasnets.train`` is ``train``."""
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
    """Three free ports as options."""
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
    numbers = [listener.getsockname()[1] for listener in listeners]
    for listener in listeners:
        listener.close()
    names = ("--port", "--grpc-port", "--rest-port")
    return [f"{name}={number}" for name, number in zip(names, numbers, strict=True)]


def test_failed_training_ends_it_with_status_1(tmp_path: Path, ports: list[str]) -> None:
    with run_with_stand_in(tmp_path, "raise SystemExit(7)", ports) as program:
        output, errors = program.communicate(timeout=LIMIT)
    assert program.returncode == 1
    assert "image_classification: training" in output
    assert "kerasnets.train image_classification --preset quick --run-dir runs/quick/image_classification`" in errors
    assert "exit status 7" in errors
    assert errors.count("\n") == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_children(tmp_path: Path, ports: list[str], number: signal.Signals) -> None:
    train = """
import os, time
open("pid.new", "w").write(str(os.getpid()))
os.rename("pid.new", "pid")
time.sleep(600)
"""
    with run_with_stand_in(tmp_path, train, ports) as program:
        deadline = time.monotonic() + LIMIT
        while not (tmp_path / "pid").exists():
            assert program.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        program.send_signal(number)
        _, errors = program.communicate(timeout=LIMIT)
    assert program.returncode == 1
    assert "what is trained is kept" in errors
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


@pytest.mark.slow
def test_a_second_run_serves_what_is_exported_and_ends_cleanly(
    models_dir: Path, tmp_path: Path, ports: list[str]
) -> None:
    log = tmp_path / "output"
    command = [sys.executable, "-m", "demos.quickstart", f"--models-dir={models_dir}", f"--runs-dir={tmp_path}", *ports]
    with log.open("w") as output:
        program = subprocess.Popen(command, cwd=REPOSITORY, stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + quickstart.START_LIMIT + LIMIT
        while "Ready." not in log.read_text():
            assert program.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        children = children_of(program.pid)
        assert len(children) == 2
        numbers = [int(option.partition("=")[2]) for option in ports]
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://127.0.0.1:{numbers[0]}", timeout=LIMIT) as page:
            assert "kerasnets" in page.read().decode()
        program.send_signal(signal.SIGINT)
        assert program.wait(LIMIT) == 0, log.read_text()
    finally:
        program.terminate()  # it ends its children, which kill would leave behind
        program.wait(LIMIT)
    assert "training" not in log.read_text() and "Traceback" not in log.read_text()
    for child in children:
        with pytest.raises(ProcessLookupError):
            os.kill(child, 0)
    for number in numbers:
        with socket.socket() as visitor:
            assert visitor.connect_ex(("127.0.0.1", number)) != 0


def children_of(process: int) -> list[int]:
    """The programs that a process has started."""
    rows = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    pairs = [tuple(map(int, row.split())) for row in rows.splitlines()]
    return [child for child, parent in pairs if parent == process]
