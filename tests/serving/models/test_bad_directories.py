"""Invalid model directories and configurations of a running server: it stays up and serves the other models."""

import contextlib
import os
import shutil
import signal
import stat
import subprocess
import sys

import numpy as np
import pytest
import urllib3
from serving_helpers import ROOT, START_SECONDS, Server, free_port, wait_until

from serving.client import Client

ENTRY = 'config {{ name: "{0}" base_path: "{1}/{0}" model_platform: "tensorflow" }}'


@contextlib.contextmanager
def start_server(directory, log, *arguments):
    """Start a server process; wait until it is ready."""
    grpc_port, rest_port = free_port(), free_port()
    command = [sys.executable, "-m", "serving", f"--port={grpc_port}", f"--rest_api_port={rest_port}", *arguments]
    command += ["--load_retry_interval_micros=300000", "--max_num_load_retries=1"]
    with log.open("w") as output:
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
    try:
        wait_until(lambda: "Exporting HTTP/REST API" in log.read_text() or process.poll() is not None, START_SECONDS)
        assert process.poll() is None, log.read_text()
        yield Server(process, f"127.0.0.1:{grpc_port}", f"http://127.0.0.1:{rest_port}", directory, log)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait(30)


class ConfiguredServer:
    """A server of a model `good`; each test adds a model through the configuration file."""

    def __init__(self, server, store):
        self.server, self.store, self.log = server, store, server.log
        self.config = server.models / "models.config"

    def configure(self, *names):
        self.config.write_text(config_text(self.server.models, *names))

    def add(self, name):
        """Add a model with version 1 and return its base path."""
        self.store.publish(self.store.number(1), self.server.models / name, 1)
        self.configure("good", name)
        wait_until(lambda: self.states(name) == {1: "AVAILABLE"}, 60)
        return self.server.models / name

    def statuses(self, name):
        response = urllib3.request("GET", f"{self.server.rest}/v1/models/{name}", timeout=60, retries=False).json()
        return {int(entry["version"]): entry for entry in response.get("model_version_status", ())}

    def states(self, name):
        return {number: entry["state"] for number, entry in self.statuses(name).items()}

    def served_version(self, name):
        """Return the version that runs a request, which is its output."""
        with Client(self.server.grpc) as client:
            return client.predict(name, {"x": np.zeros(1, np.float32)})["y"][0]


def config_text(models, *names):
    return "model_config_list {" + " ".join(ENTRY.format(name, models) for name in names) + "}"


@pytest.fixture(scope="module")
def shared_server(store, tmp_path_factory):
    models = tmp_path_factory.mktemp("bad")
    store.publish(store.number(3), models / "good", 3)
    config = models / "models.config"
    config.write_text(config_text(models, "good"))
    flags = [f"--model_config_file={config}", "--model_config_file_poll_wait_seconds=1"]
    with start_server(models, models / "server.log", *flags) as server:
        yield ConfiguredServer(server, store)


@pytest.fixture
def configured(shared_server):
    """The shared server; after each test it must still run and serve `good`."""
    shared_server.configure("good")
    yield shared_server
    assert shared_server.server.process.poll() is None, shared_server.log.read_text()
    assert shared_server.served_version("good") == 3


def unknown_operation(path):
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    model = SavedModel.FromString((path / "saved_model.pb").read_bytes())
    for meta_graph in model.meta_graphs:
        for node in meta_graph.graph_def.node:
            if node.op == "StatefulPartitionedCall":
                node.op = "NoSuchOperation"
    (path / "saved_model.pb").write_bytes(model.SerializeToString())


def cut_short(path):
    content = (path / "saved_model.pb").read_bytes()
    (path / "saved_model.pb").write_bytes(content[: len(content) // 2])


def replace_by_file(path):
    shutil.rmtree(path)
    path.write_text("not a directory")


BREAK = {
    "garbage": lambda path: (path / "saved_model.pb").write_bytes(b"\xff" * 1000),
    "empty": lambda path: (path / "saved_model.pb").write_bytes(b""),
    "cut": cut_short,
    "unknown_operation": unknown_operation,
    "no_graph": lambda path: (path / "saved_model.pb").unlink(),
    "no_variables": lambda path: shutil.rmtree(path / "variables"),
    "a_directory_as_graph": lambda path: (path / "saved_model.pb").unlink() or (path / "saved_model.pb").mkdir(),
    "file": replace_by_file,
}


@pytest.mark.parametrize("kind", BREAK)
def test_broken_version_ends_and_the_previous_one_stays(configured, store, kind):
    base_path = configured.add(f"broken_{kind}")
    temporary = store.publish(store.number(2), configured.server.models / f"aside_{kind}", 2)
    BREAK[kind](temporary)
    temporary.rename(base_path / "2")
    wait_until(lambda: configured.states(base_path.name) == {2: "END", 1: "AVAILABLE"}, 60)
    status = configured.statuses(base_path.name)[2]["status"]
    assert status["error_code"] not in ("OK", "INTERNAL") and status["error_message"], status
    assert (configured.served_version(base_path.name), configured.served_version("good")) == (1, 3)
    # A version added after the broken one was removed is loaded.
    shutil.rmtree(base_path / "2") if (base_path / "2").is_dir() else (base_path / "2").unlink()
    store.publish(store.number(2), base_path, 3)
    wait_until(lambda: configured.states(base_path.name).get(3) == "AVAILABLE", 60)
    assert configured.served_version(base_path.name) == 2


def test_deleted_versions_are_unloaded(configured, store):
    base_path = configured.add("deleted")
    store.publish(store.number(2), base_path, 2)
    wait_until(lambda: configured.states("deleted") == {2: "AVAILABLE", 1: "END"}, 60)
    shutil.rmtree(base_path / "2")
    wait_until(lambda: configured.states("deleted") == {2: "END", 1: "AVAILABLE"}, 60)
    assert configured.served_version("deleted") == 1
    shutil.rmtree(base_path / "1")
    wait_until(lambda: configured.states("deleted") == {2: "END", 1: "END"}, 60)
    response = urllib3.request("POST", f"{configured.server.rest}/v1/models/deleted:predict", body="{}", timeout=60)
    assert (response.status, response.json()) == (404, {"error": "Servable not found for request: Latest(deleted)"})


@pytest.mark.parametrize("replacement", ["nothing", "file"])
def test_missing_base_path_changes_nothing(configured, store, replacement):
    base_path = configured.add(f"lost_{replacement}")
    shutil.rmtree(base_path)
    if replacement == "file":
        base_path.write_text("not a directory")
    wait_until(
        lambda: f"cannot be read: [Errno {2 if replacement == 'nothing' else 20}]" in configured.log.read_text(), 60
    )
    assert (configured.served_version(base_path.name), configured.served_version("good")) == (1, 3)
    if replacement == "file":
        base_path.unlink()
    store.publish(store.number(2), base_path, 2)
    wait_until(lambda: configured.states(base_path.name) == {2: "AVAILABLE", 1: "END"}, 60)


def test_read_only_directory_is_served(configured, store):
    base_path = configured.add("read_only")
    path = store.publish(store.number(2), configured.server.models / "aside_read_only", 2)
    path = path.rename(base_path / "2")
    for directory, _, names in os.walk(path, topdown=False):
        for name in names:
            os.chmod(os.path.join(directory, name), stat.S_IREAD)
        os.chmod(directory, stat.S_IREAD | stat.S_IEXEC)
    try:
        wait_until(lambda: configured.states("read_only") == {2: "AVAILABLE", 1: "END"}, 60)
        assert configured.served_version("read_only") == 2
    finally:
        for directory, _, _ in os.walk(path):
            os.chmod(directory, stat.S_IRWXU)


def test_invalid_configurations_change_nothing(configured):
    configured.add("configured")
    for number, text in enumerate(
        (
            "model_config_list { config { nme: 'm' } }",
            "model_config_list {" + ENTRY.format("good", "/a") * 2 + "}",
            "model_config_list { config { name: 'other' base_path: 'relative' model_platform: 'tensorflow' } }",
            "model_config_list { config { name: 'other' base_path: '/other' model_platform: 'caffe' } }",
            "model_config_list { config { name: 'other' base_path: '/other' } }",
            "\x00",
        )
    ):
        before = configured.log.read_text().count("changes nothing: ")
        configured.config.write_text(text)
        wait_until(lambda: configured.log.read_text().count("changes nothing: ") > before, 60)  # noqa: B023
        assert (configured.served_version("configured"), configured.served_version("good")) == (1, 3), number
    configured.config.unlink()
    wait_until(lambda: "models.config; No such file or directory" in configured.log.read_text(), 60)
    assert (configured.served_version("configured"), configured.served_version("good")) == (1, 3)
    configured.configure("good")
    wait_until(lambda: configured.states("configured") == {1: "END"}, 60)


@pytest.mark.parametrize("name", ["..%2Fgood", "good%2F3", "%2E%2E", "good%00", ".%2Fgood", "%2Ftmp"])
def test_paths_are_not_accepted_as_model_names(configured, name):
    for target in (f"{name}:predict", f"{name}/versions/3:predict"):
        response = urllib3.request(
            "POST", f"{configured.server.rest}/v1/models/{target}", body='{"instances": [1]}', timeout=60
        )
        assert response.status == 404
        assert response.json()["error"].startswith("Servable not found for request: ")
    response = urllib3.request("GET", f"{configured.server.rest}/v1/models/{name}", timeout=60)
    assert response.status == 404


def test_two_servers_share_a_directory(configured, store, tmp_path):
    """Both servers change versions, and the end of one does not affect the other."""
    base_path = configured.add("twice")
    with start_server(
        configured.server.models, tmp_path / "second.log", f"--models_dir={configured.server.models}"
    ) as second:
        other = ConfiguredServer(second, store)
        assert (configured.served_version("twice"), other.served_version("twice"), other.served_version("good")) == (
            1,
            1,
            3,
        )
        store.publish(store.number(2), base_path, 2)
        for one in (configured, other):
            wait_until(lambda: one.states("twice") == {2: "AVAILABLE", 1: "END"}, 60)  # noqa: B023
            assert one.served_version("twice") == 2
    assert configured.served_version("twice") == 2
