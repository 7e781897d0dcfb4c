"""Start of the server: rejected flags and configurations, their messages, and versions that change while it runs."""

import asyncio
import logging
import re
import shutil
import socket
import subprocess
import sys
import threading
from importlib.metadata import version

import grpc
import numpy as np
import pytest
from serving_helpers import ROOT, START_SECONDS, add_warmup, free_port, wait_until

from serving.api.predict import Settings
from serving.client import Client, ServingError
from serving.errors import StatusError, UsageError
from serving.models.manager import ModelManager, Timing
from serving.server.loader import Loader
from serving.server.process import _bind, _SingleLineFormatter
from serving.settings.flags import Flags, parse, usage
from serving.settings.load_options import load_options_of
from serving.telemetry.metrics import Metrics


def empty_model(path):
    """Write a directory that looks like a version until it is loaded."""
    path.mkdir(parents=True)
    (path / "saved_model.pb").touch()


def run_server(*arguments):
    """Return exit status, stdout and stderr of a server whose start should fail."""
    command = [sys.executable, "-m", "serving", *arguments]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    return result.returncode, result.stdout, result.stderr


@pytest.mark.parametrize("flag", ["models_dir", "model_base_path"])
def test_missing_directory(tmp_path, flag):
    status, _, stderr = run_server(f"--{flag}={tmp_path}/nothing")
    assert status == 2
    assert stderr.startswith("error: ")
    assert stderr.count("\n") == 1
    assert f"{tmp_path}/nothing" in stderr


@pytest.mark.parametrize("flag", ["models_dir", "model_base_path"])
def test_empty_directory(tmp_path, flag):
    status, _, stderr = run_server(f"--{flag}={tmp_path}")
    assert (status, stderr.count("\n")) == (2, 1)
    assert re.search(r"contains no (model|version to serve): add", stderr)


@pytest.mark.parametrize("flag", ["port", "rest_api_port"])
def test_port_in_use(tmp_path, flag):
    empty_model(tmp_path / "m" / "1")
    ports = {"port": free_port(), "rest_api_port": free_port()}
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ports[flag] = listener.getsockname()[1]
        status, _, stderr = run_server(
            f"--models_dir={tmp_path}", *(f"--{name}={port}" for name, port in ports.items())
        )
    assert (status, stderr.count("\n")) == (2, 1)
    assert f"--{flag}={ports[flag]} cannot be used at 127.0.0.1 (Address already in use)" in stderr


@pytest.mark.parametrize("flag", ["port", "rest_api_port"])
def test_loading_server_reserves_its_ports(flag):
    reserved = _bind("127.0.0.1", 0, flag)
    with reserved, pytest.raises(UsageError, match="Address already in use"):
        _bind("127.0.0.1", reserved.getsockname()[1], flag).close()


def test_port_taken_before_listening_is_a_usage_error():
    from serving.rest.http.messages import Reply
    from serving.rest.http.server import HttpServer

    with socket.socket() as other, socket.socket() as own:
        for each in (other, own):
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", 0))
        own.bind(other.getsockname())
        other.listen()
        server = HttpServer(None, own, timeout=1.0, max_bytes=1, refusal=lambda size: Reply(413))
        with pytest.raises(UsageError, match="--rest_api_port=[0-9]+ cannot be used at 127.0.0.1"):
            asyncio.run(server.start())


def test_version_without_a_saved_model_fails_the_start(tmp_path):
    (tmp_path / "m" / "1").mkdir(parents=True)
    status, _, stderr = run_server(f"--models_dir={tmp_path}")
    assert (status, stderr.count("\n")) == (2, 1)
    assert f"the version {tmp_path}/m/1 of model m contains no SavedModel" in stderr


def test_no_model_configured():
    status, _, stderr = run_server()
    assert (status, stderr.count("\n")) == (2, 1)
    assert "--models_dir=DIR" in stderr


def test_invalid_configuration_file(tmp_path):
    config = tmp_path / "models.config"
    config.write_text("model_config_list { config { nme: 'm' } }")
    status, stdout, stderr = run_server(f"--model_config_file={config}")
    assert status == 255
    assert stdout == f"Failed to start server. Error: INVALID_ARGUMENT: Invalid protobuf file: '{config}'\n"
    assert stderr.startswith("Error parsing text-format tensorflow.serving.ModelServerConfig: 1:")


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (
            'config { name: "m" base_path: "/a" } config { name: "m" base_path: "/b" }',
            "INVALID_ARGUMENT: Illegal to list model m multiple times in config list",
        ),
        (
            'config { name: "m" base_path: "a" }',
            "INVALID_ARGUMENT: Expected model m to have an absolute path or URI; got base_path()=a",
        ),
        (
            'config {{ name: "m" base_path: "{path}" version_labels {{ key: "stable" value: 1 }} }}',
            (
                "FAILED_PRECONDITION: Request to assign label to version 1 of model m, "
                "which is not currently available for inference"
            ),
        ),
    ],
)
def test_rejected_configurations(tmp_path, text, error):
    empty_model(tmp_path / "m" / "1")
    config = tmp_path / "models.config"
    config.write_text(f"model_config_list {{ {text.format(path=tmp_path / 'm') if '{path}' in text else text} }}")
    status, stdout, _ = run_server(f"--model_config_file={config}")
    assert (status, stdout) == (255, f"Failed to start server. Error: {error}\n")


def test_shipped_configuration_is_valid():
    from serving.models.storage import models_of, read_config_file

    models = models_of(read_config_file(str(ROOT / "serving" / "config" / "models.config")))
    assert {model.name: model.base_path for model in models} == {
        name: f"/models/{name}" for name in ("image_classification", "text_generation", "translation")
    }


def test_flags():
    flags = parse(["--port=1", "--models_dir=a=b", "--enable_model_warmup=false", "--rest_api_enable_cors_support"])
    assert (flags.port, flags.models_dir) == (1, "a=b")
    assert (flags.enable_model_warmup, flags.rest_api_enable_cors_support) == (False, True)
    with pytest.raises(UsageError, match="--port is x; it must be a whole number"):
        parse(["--port=x"])


def test_unknown_flags_are_printed_and_skipped(capsys):
    assert parse(["--nonsense=1", "--port=7"]) == Flags(port=7)
    assert capsys.readouterr().err == "unknown argument: --nonsense=1\n" + usage()


def test_help_and_version():
    assert run_server("--help") == (0, usage(), "")
    assert run_server("--version")[:2] == (0, f"TensorFlow Library: {version('tensorflow')}\n")


@pytest.fixture
def make_manager():
    """make_manager(base_path, retries) -> a manager of the model `m` that loads real SavedModels."""
    managers = []

    def make_manager(base_path, retries=0, interval=0.1):
        from serving.models.storage import ModelConfig

        manager = ModelManager(
            lambda: [ModelConfig("m", str(base_path))],
            Loader(load_options_of(Flags()), Settings(), Metrics(), asyncio.new_event_loop(), None),
            Timing(0.05, retries, interval),
            load_threads=1,
        )
        managers.append(manager)
        return manager

    yield make_manager
    for manager in managers:
        manager.stop()


def failure(manager):
    with pytest.raises(StatusError) as caught:
        manager.start()
    return caught.value.message


def test_directory_without_a_saved_model(tmp_path, make_manager):
    (tmp_path / "1").mkdir()
    assert failure(make_manager(tmp_path)) == (
        "1 servable(s) did not become available: {{{name: m version: 1} due to error: NOT_FOUND: Could not find "
        f"SavedModel .pb or .pbtxt at supplied export directory path: {tmp_path}/1}}, }}"
    )


def test_corrupted_saved_model(tmp_path, make_manager):
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "saved_model.pb").write_bytes(b"\xff" * 100)
    assert f"DATA_LOSS: Can't parse {tmp_path}/1/saved_model.pb as binary proto" in failure(make_manager(tmp_path))


def test_failing_warmup_fails_the_load(tmp_path, store, make_manager):
    path = store.publish(store.number(1), tmp_path, 1)
    add_warmup(path, "nope", x=[1.0])
    assert 'FAILED_PRECONDITION: Serving signature key "nope" not found.' in failure(make_manager(tmp_path))


def test_half_written_saved_model_is_retried(tmp_path, store, make_manager):
    """The graph exists, and the variables are written later."""
    complete = store.publish(store.example, tmp_path / "temporary", 1)
    partial = tmp_path / "m" / "1"
    partial.mkdir(parents=True)
    shutil.copy(complete / "saved_model.pb", partial)
    manager = make_manager(tmp_path / "m", retries=1000)
    starting = threading.Thread(target=manager.start)
    starting.start()
    wait_until(lambda: [state for _, state, _ in manager.versions("m")] == ["LOADING"])
    shutil.copytree(complete, partial, dirs_exist_ok=True)
    starting.join(60)
    assert manager.versions("m")[0][1] == "AVAILABLE"


def test_warmup_was_replayed(server):
    assert "Replayed 1 warm-up requests of example version 1" in server.log.read_text()


def test_versions_change_without_failed_requests(server, store):
    """Version 2 replaces version 1 during requests; each request runs on one of them."""
    stop, outputs, failures = threading.Event(), [], []

    def send_requests():
        with Client(server.grpc) as client:
            while not stop.is_set():
                try:
                    outputs.append(client.predict("number", {"x": np.zeros(1, np.float32)})["y"][0])
                except ServingError as error:
                    failures.append(error)
                stop.wait(0.005)

    thread = threading.Thread(target=send_requests)
    thread.start()
    try:
        wait_until(lambda: 1 in outputs)
        store.publish(store.number(2), server.models / "number", 2)
        wait_until(lambda: 2 in outputs)
        with Client(server.rest) as client:
            wait_until(lambda: [s.state for s in client.status("number")] == ["AVAILABLE", "END"])
    finally:
        stop.set()
        thread.join(30)
    assert not failures
    assert set(outputs) == {1.0, 2.0}
    assert outputs == sorted(outputs), "no output of the old version after one of the new version"


def test_clients_cannot_forge_log_lines():
    record = logging.LogRecord("serving", logging.INFO, "", 0, "no model %s", ("a\n2026 I forged \x1b[31m",), None)
    assert _SingleLineFormatter("%(message)s").format(record) == "no model a\\n2026 I forged \\x1b[31m"


def test_health_watch_does_not_delay_shutdown(tmp_path, store):
    """Load balancers keep such a stream open, and the shutdown must not wait for it."""
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    store.publish(store.number(1), tmp_path / "models" / "m", 1)
    port, log = free_port(), tmp_path / "log"
    command = [sys.executable, "-m", "serving", f"--models_dir={tmp_path}/models", f"--port={port}"]
    with log.open("w") as output:
        process = subprocess.Popen(
            [*command, "--enable_grpc_healthcheck_service", "--drain_seconds=300"],
            cwd=ROOT,
            stdout=output,
            stderr=output,
        )
    try:
        wait_until(lambda: "Running gRPC" in log.read_text() or process.poll() is not None, START_SECONDS)
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=120)
            states = [next(watch).status]
            process.terminate()
            states.append(next(watch).status)
            assert process.wait(60) == 0
        assert states == [health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING]
    finally:
        process.kill()
        process.wait(30)
