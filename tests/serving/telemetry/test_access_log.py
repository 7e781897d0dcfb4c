"""The access log: contents of its lines, and requests that never wait for the disk."""

from __future__ import annotations

import json
import logging
import os
import re
import threading
from dataclasses import dataclass
from pathlib import Path

import pytest
from serving_helpers import wait_until

from serving.errors import UsageError
from serving.telemetry.access_log import MAX_QUEUED_LINES, MAX_TEXT_LENGTH, AccessLog
from serving.telemetry.metrics import Metrics


@dataclass
class Request:
    protocol: str = "REST"
    method: str = "Predict"
    model: str = "half"
    version: int | None = 3
    signature: str = "serving_default"
    code: str = "OK"
    request_bytes: int = 40
    response_bytes: int = 25
    peer: str = "127.0.0.1:4242"


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


def lost_lines(metrics: Metrics) -> int:
    return metrics.access_log_lines_lost.value()


def entries(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text("ascii").splitlines()]


def test_line_contains_the_attributes_of_a_request(tmp_path, metrics):
    log = AccessLog(str(tmp_path / "log"), metrics)
    log.write(Request(), 1.23456)
    log.write(Request(version=None, code="NOT_FOUND"), 2)
    log.close()
    first, second = entries(tmp_path / "log")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", first.pop("time"))
    assert first == {
        "protocol": "REST",
        "method": "Predict",
        "model": "half",
        "version": 3,
        "signature": "serving_default",
        "code": "OK",
        "milliseconds": 1.235,
        "request_bytes": 40,
        "response_bytes": 25,
        "peer": "127.0.0.1:4242",
    }
    assert second["version"] is None and second["code"] == "NOT_FOUND"
    assert lost_lines(metrics) == 0


@pytest.mark.parametrize("name", ['x"}\n{"model": "y', "\ud800", "модель", "\x00\x1b[31m", "\u2028"])
def test_names_cannot_break_a_line(tmp_path, metrics, name):
    log = AccessLog(str(tmp_path / "log"), metrics)
    log.write(Request(model=name, signature="s" * 10 * MAX_TEXT_LENGTH), 2)
    log.close()
    [entry] = entries(tmp_path / "log")
    assert entry["model"] == name and entry["signature"] == "s" * MAX_TEXT_LENGTH


def test_close_writes_complete_lines_of_all_threads(tmp_path, metrics):
    log = AccessLog(str(tmp_path / "log"), metrics)

    def work(thread: int) -> None:
        for number in range(1000):
            log.write(Request(model=f"{thread}", version=number), 2)

    threads = [threading.Thread(target=work, args=(thread,)) for thread in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.close()
    found = entries(tmp_path / "log")
    for thread in range(8):
        assert [e["version"] for e in found if e["model"] == str(thread)] == list(range(1000)), "in order"
    assert lost_lines(metrics) == 0
    log.write(Request(), 1.23456)
    assert lost_lines(metrics) == 1, "lines after close are lost"


def test_lines_are_appended_to_an_existing_file(tmp_path, metrics):
    path = tmp_path / "log"
    path.write_text('{"model": "before"}\n')
    log = AccessLog(str(path), metrics)
    log.write(Request(), 1.23456)
    log.close()
    assert [entry["model"] for entry in entries(path)] == ["before", "half"]


def test_renamed_file_is_created_again(tmp_path, metrics):
    path, old = tmp_path / "log", tmp_path / "log.1"
    log = AccessLog(str(path), metrics)
    log.write(Request(), 1.23456)
    wait_until(lambda: path.read_text())
    path.rename(old)
    log.write(Request(model="second"), 2)
    wait_until(lambda: path.exists() and path.read_text())
    path.unlink()
    log.write(Request(model="third"), 2)
    wait_until(lambda: path.exists() and path.read_text())
    log.close()
    assert [entry["model"] for entry in entries(old)] == ["half"]
    assert [entry["model"] for entry in entries(path)] == ["third"]
    assert lost_lines(metrics) == 0


def test_standard_error(capfd, metrics):
    log = AccessLog("-", metrics)
    log.write(Request(), 1.23456)
    log.close()
    assert json.loads(capfd.readouterr().err)["model"] == "half"
    os.fstat(2)  # it is still open


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="only Linux has /dev/full")
def test_full_disk_loses_lines_and_is_reported_once(metrics, caplog):
    with caplog.at_level(logging.INFO, "serving"):
        log = AccessLog("/dev/full", metrics)
        for expected in (1, 2, 3):
            log.write(Request(), 1.23456)
            wait_until(lambda expected=expected: lost_lines(metrics) == expected)
        log.close()
    assert [record.getMessage() for record in caplog.records] == [
        "Lines of the access log are lost: /dev/full: No space left on device"
    ]


def test_disk_full_within_a_line_keeps_other_lines_complete(tmp_path, metrics, caplog, monkeypatch):
    path = tmp_path / "log"
    log = AccessLog(str(path), metrics)
    free_bytes, write = [150], os.write

    def limited(file: int, data: memoryview) -> int:
        if not free_bytes[0]:
            raise OSError(28, "No space left on device")
        written = write(file, data[: free_bytes[0]])
        free_bytes[0] -= written
        return written

    with caplog.at_level(logging.INFO, "serving"):
        monkeypatch.setattr(os, "write", limited)
        log.write(Request(model="lost"), 2)
        wait_until(lambda: lost_lines(metrics) == 1)
        log.write(Request(model="lost"), 2)
        wait_until(lambda: lost_lines(metrics) == 2)
        free_bytes[0] = 10**6
        log.write(Request(model="after"), 2)
        log.close()
    incomplete, *complete = path.read_text().splitlines()
    assert len(incomplete) == 150 and [json.loads(line)["model"] for line in complete] == ["after"]
    assert lost_lines(metrics) == 2
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"], "failure, then recovery"


def test_missing_directory_loses_lines_until_it_returns(tmp_path, metrics):
    directory = tmp_path / "logs"
    directory.mkdir()
    path = directory / "log"
    log = AccessLog(str(path), metrics)
    directory.rename(tmp_path / "away")
    log.write(Request(), 1.23456)
    wait_until(lambda: lost_lines(metrics) == 1)
    directory.mkdir()
    log.write(Request(), 1.23456)
    log.close()
    assert len(entries(path)) == 1 and lost_lines(metrics) == 1


def test_blocked_pipe_does_not_block_requests(tmp_path, metrics):
    """A pipe without a reader behaves like a disk that hangs."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDWR)  # with both ends open, opening does not block
    try:
        log = AccessLog(str(path), metrics)
        written = 2 * MAX_QUEUED_LINES
        for _ in range(written):
            log.write(Request(), 1.23456)
        assert 0 < lost_lines(metrics) < written
        log.close(0.2)
    finally:
        os.close(reader)


def test_unwritable_file_is_rejected(tmp_path, metrics):
    path = tmp_path / "missing" / "log"
    with pytest.raises(UsageError) as caught:
        AccessLog(str(path), metrics)
    assert str(caught.value) == (
        f"--access_log_file={path} cannot be written (No such file or directory); it must be a file in an existing "
        "directory, or - for standard error."
    )
