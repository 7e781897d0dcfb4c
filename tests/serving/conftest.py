"""Fixtures for all tests of serving/: small SavedModels, and one server process."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from serving_helpers import (
    CONFIG,
    ROOT,
    START_SECONDS,
    Server,
    Store,
    add_warmup,
    build_example,
    build_heads,
    build_number,
    free_port,
    wait_until,
)

if TYPE_CHECKING:
    from serving.engine.servable import Servable


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(tmp_path_factory.mktemp("store"))
    build_example(store.example)
    add_warmup(store.example, "upper", text=["warm"])
    for number in (1, 2, 3):
        build_number(store.number(number), number)
    return store


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servable]:
    """Version 7 of a model of many signatures, loaded in this process."""
    from tensorflow.core.protobuf import config_pb2

    from serving.engine.servable import Servable

    path = tmp_path_factory.mktemp("heads") / "7"
    build_heads(path)
    servable = Servable(str(path), ["serve"], config_pb2.ConfigProto())
    yield servable
    servable.close()


@pytest.fixture(scope="session")
def server(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of `example` (versions 1 and 2) and `number` (latest version; tests add versions)."""
    models = tmp_path_factory.mktemp("models")
    store.publish(store.example, models / "example", 1)
    store.publish(store.number(2), models / "example", 2)
    store.publish(store.number(1), models / "number", 1)
    config = models / "models.config"
    config.write_text(CONFIG.format(models=models))
    grpc_port, rest_port = free_port(), free_port()
    log = models / "server.log"
    command = [sys.executable, "-m", "serving", f"--model_config_file={config}", f"--port={grpc_port}"]
    command += [f"--rest_api_port={rest_port}", "--allow_version_labels_for_unavailable_models"]
    command += ["--load_retry_interval_micros=200000", "--rest_api_enable_cors_support"]
    with log.open("w") as output:
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
    try:
        wait_until(lambda: "Exporting HTTP/REST API" in log.read_text() or process.poll() is not None, START_SECONDS)
        assert process.poll() is None, log.read_text()
        # The start waits for only one version per model.
        wait_until(lambda: log.read_text().count("Successfully loaded servable version") == 3, START_SECONDS)
        yield Server(process, f"127.0.0.1:{grpc_port}", f"http://127.0.0.1:{rest_port}", models, log)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0, "SIGTERM must end the server cleanly"
    finally:
        process.kill()
        process.wait(30)
