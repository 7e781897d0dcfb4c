"""Logs that cannot be written, because the disk is full or the reader has gone, do not affect requests."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from serving_helpers import ROOT, START_SECONDS, Server, Store, free_port, wait_until
from survival_helpers import (
    assert_answers,
    assert_clean_log,
    command_of,
    exchange,
    publish,
    request_bytes,
    running,
    stop,
)

FULL = Path("/dev/full")
pytestmark = pytest.mark.skipif(not FULL.exists(), reason="only Linux has a file that is always full")
METRICS = request_bytes("GET", "/metrics")


@pytest.fixture
def models(store: Store, tmp_path: Path) -> Path:
    publish(store, tmp_path)
    (tmp_path / "monitoring").write_text('prometheus_config { enable: true path: "/metrics" }')
    return tmp_path


def test_access_log_on_a_full_disk(models):
    with running(models, f"--access_log_file={FULL}", f"--monitoring_config_file={models}/monitoring") as server:
        for _ in range(20):
            assert_answers(server)
        wait_until(lambda: b"access_log_lines_lost{} 20" in exchange(server, METRICS)[2])
        assert server.log.read_text().count("No space left on device") == 1, "reported once"
        assert stop(server) == 0
        assert_clean_log(server)


@contextmanager
def unwritable_descriptor(kind: str) -> Iterator[int]:
    """Yield a file descriptor that cannot be written."""
    if kind == "full":
        descriptor = os.open(FULL, os.O_WRONLY)
    else:
        reader, descriptor = os.pipe()
        os.close(reader)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("kind", ["full", "closed"])
def test_unwritable_standard_output_and_error(models, kind):
    """They cannot be written from the start on."""
    grpc_port, rest_port = free_port(), free_port()
    with unwritable_descriptor(kind) as descriptor:
        command = command_of(models, grpc_port, rest_port, "--access_log_file=-")
        process = subprocess.Popen(command, cwd=ROOT, stdout=descriptor, stderr=descriptor)
    server = Server(process, f"127.0.0.1:{grpc_port}", f"http://127.0.0.1:{rest_port}", models, models / "none")
    try:
        wait_until(lambda: process.poll() is not None or is_open(server), START_SECONDS)
        for _ in range(20):
            assert_answers(server)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait(30)


def is_open(server: Server) -> bool:
    try:
        return exchange(server, request_bytes("GET", "/v1/models/example"))[0] == 200
    except ConnectionError:
        return False
