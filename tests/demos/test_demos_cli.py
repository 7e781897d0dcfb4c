"""``python -m demos``: wrong requests get one sentence; the program starts, waits and ends cleanly."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

from demos import cli
from demos.__main__ import main


def complaint(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What is said about a wrong request."""
    try:
        status: object = main(arguments)
    except SystemExit as stop:
        status = stop.code
    assert status == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


@pytest.mark.parametrize("text", ["localhost", "localhost:", ":8500", "localhost:0", "localhost:70000", "http://a:1"])
def test_a_bad_server_address(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    error = complaint(["--server", text], capsys)
    assert repr(text) in error
    assert "localhost:8500" in error


@pytest.mark.parametrize("text", ["0", "65536", "x", "-1"])
def test_a_bad_port(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "port" in complaint([f"--port={text}"], capsys)


def test_a_missing_models_dir(capsys: pytest.CaptureFixture[str]) -> None:
    assert "'nowhere' is not a directory" in complaint(["--models-dir", "nowhere"], capsys)


def test_an_unknown_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--colour" in complaint(["--colour", "red"], capsys)


def test_a_port_in_use(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        number = listener.getsockname()[1]
        error = complaint(["--port", str(number)], capsys)
    assert f"port {number} on 127.0.0.1 is in use; choose another with --port" in error


@pytest.mark.parametrize("name", ["NO_PROXY", "no_proxy"])
def test_this_machine_is_asked_without_a_proxy(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv(name, "example.org, localhost")
    cli.without_proxy("127.0.0.1", "localhost")
    assert os.environ["NO_PROXY"] == os.environ["no_proxy"] == "example.org,localhost,127.0.0.1"


def test_it_starts_without_a_server_and_ends_with_status_0(port: int) -> None:
    proxies = dict.fromkeys(("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy"), "http://127.0.0.1:1")
    environment = {**os.environ, **proxies, "NO_PROXY": "", "no_proxy": ""}
    command = [sys.executable, "-m", "demos", f"--port={port}", "--server=127.0.0.1:1"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True) as program:
        try:
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            wait_for_page(opener, f"http://127.0.0.1:{port}", program)
        finally:
            program.send_signal(signal.SIGTERM)
            output, errors = program.communicate(timeout=120)
    assert program.returncode == 0
    assert f"Demos: http://127.0.0.1:{port}" in output
    assert "Traceback" not in errors


def wait_for_page(opener: urllib.request.OpenerDirector, url: str, program: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 300  # a busy machine imports Gradio slowly
    while program.poll() is None and time.monotonic() < deadline:
        try:
            with opener.open(url, timeout=60) as page:
                assert page.status == 200
                return
        except urllib.error.URLError:
            time.sleep(0.2)
    raise AssertionError("the page did not open")


def test_help_is_quick_because_gradio_waits() -> None:
    code = "import sys, demos.__main__; sys.exit(bool({'gradio', 'grpc', 'tensorflow'} & {*sys.modules}))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
