"""The lock of a run directory."""

import os
import subprocess
import sys

import pytest
from small_runs import ROOT

from kerasnets.checks import RequestError
from kerasnets.run.lock import locked

HOLDER = """
import pathlib, sys
from kerasnets.run.lock import locked
with locked(pathlib.Path(sys.argv[1])):
    print("locked", flush=True)
    sys.stdin.read()
"""


def test_a_second_training_is_rejected_with_the_first_ones_process_id(tmp_path):
    message = rf"another training \(process {os.getpid()}\) runs in"
    with locked(tmp_path), pytest.raises(RequestError, match=message), locked(tmp_path):
        pass
    with locked(tmp_path):
        assert (tmp_path / ".lock").read_text() == str(os.getpid())


def test_a_killed_process_releases_the_lock(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "locked\n"
        with pytest.raises(RequestError, match=f"process {holder.pid}"), locked(tmp_path):
            pass
        holder.kill()
        holder.wait()
        with locked(tmp_path):
            assert (tmp_path / ".lock").read_text() == str(os.getpid())


def test_a_file_system_without_locks_causes_a_warning(tmp_path, monkeypatch, capsys):
    def flock(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", flock)
    with locked(tmp_path):
        pass
    assert "cannot be locked (Operation not supported)" in capsys.readouterr().err
