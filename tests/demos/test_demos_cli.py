"""``python -m demos``: invalid options are one-line errors; the program starts, waits and stops cleanly."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys

import pytest

from demos.__main__ import main

TIMEOUT = 120.0  # seconds, for operations that take one on an idle machine


def error_message(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Return the error message of an invalid command line."""
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
    error = error_message(["--server", text], capsys)
    assert repr(text) in error
    assert "localhost:8500" in error


@pytest.mark.parametrize("text", ["0", "65536", "x", "-1"])
def test_a_bad_port(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "port" in error_message([f"--port={text}"], capsys)


def test_a_missing_models_dir(capsys: pytest.CaptureFixture[str]) -> None:
    assert "'nowhere' is not a directory" in error_message(["--models-dir", "nowhere"], capsys)


def test_an_unknown_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--colour" in error_message(["--colour", "red"], capsys)


def test_a_port_in_use(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        number = listener.getsockname()[1]
        error = error_message(["--port", str(number)], capsys)
    assert f"port {number} on 127.0.0.1 is in use; choose another with --port" in error


@pytest.mark.parametrize("text", ["http://a", "a:80", "a b", "a,b/c", "*"])
def test_bad_host_names(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "it must be a name as in the browser's address bar" in error_message(["--allowed-hosts", text], capsys)


@pytest.mark.parametrize("host", ["..", "a" * 70, "no-such-host.invalid", "192.0.2.1"])
def test_a_host_of_another_machine(host: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert host in error_message(["--host", host], capsys)


def test_the_page_starts_without_a_server_and_stops_while_a_browser_is_connected(port: int) -> None:
    proxies = dict.fromkeys(("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy"), "http://127.0.0.1:1")
    environment = {**os.environ, **proxies, "NO_PROXY": "", "no_proxy": ""}
    command = [sys.executable, "-m", "demos", f"--port={port}", "--server=127.0.0.1:1", "--allowed-hosts=a.example,b"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True) as program:
        assert program.stdout is not None
        line = program.stdout.readline()  # printed when the page is ready
        open_page = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
        try:
            assert status_for("a.example", port) == 200
            assert status_for("b:80", port) == 200
            assert status_for("c.example", port) == 403
            open_page.request("GET", "/gradio_api/heartbeat/a")
            assert open_page.getresponse().read(5) == b"data:"
        finally:
            program.send_signal(signal.SIGTERM)
            _, errors = program.communicate(timeout=TIMEOUT)
            open_page.close()
    assert program.returncode == 0
    assert line.startswith(f"Demos: http://127.0.0.1:{port}")
    assert errors == ""


def status_for(host: str, port: int) -> int:
    """Return the HTTP status of the page under a host name."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
    connection.request("GET", "/", headers={"Host": host})
    status = connection.getresponse().status
    connection.close()
    return status


def test_help_does_not_import_gradio() -> None:
    code = "import sys, demos.__main__; sys.exit(bool({'gradio', 'grpc', 'tensorflow'} & {*sys.modules}))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
