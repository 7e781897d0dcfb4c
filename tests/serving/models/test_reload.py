"""New configurations for a running manager, by request and by file."""

import logging
import threading

import grpc
import numpy as np
import pytest
from google.protobuf import text_format
from manager_helpers import FakeLoader, add_versions, latest, new_manager, states, status_error
from serving_helpers import CONFIG, wait_until
from tensorflow_serving.apis import model_service_pb2_grpc
from tensorflow_serving.apis.model_management_pb2 import ReloadConfigRequest

from serving.client import Client
from serving.models.reload import ConfigPoller, handle_reload
from serving.models.storage import ModelConfig, ModelServerConfig, configured_models
from serving.protocol import CODES
from serving.settings.flags import Flags
from serving.telemetry.metrics import Metrics

ENTRY = 'config {{ name: "{0}" base_path: "{1}" model_platform: "tensorflow" {2} }}'


@pytest.fixture
def directories(tmp_path):
    return ModelDirectories(tmp_path)


@pytest.fixture
def manager(directories):
    """A started manager of version 1 of `a` and `b`."""
    for name in ("a", "b"):
        add_versions(directories.path / name, 1)
    models = [ModelConfig(name, str(directories.path / name)) for name in ("a", "b")]
    manager = new_manager(lambda: models, directories.loader, retries=0)
    manager.start()
    yield manager
    manager.stop()


class ModelDirectories:
    """Directories of models, and configurations for them."""

    def __init__(self, path):
        self.path, self.loader = path, FakeLoader()

    def text(self, *names, extra=""):
        return "model_config_list {" + " ".join(ENTRY.format(name, self.path / name, extra) for name in names) + "}"

    def config(self, *names, extra=""):
        return text_format.Parse(self.text(*names, extra=extra), ModelServerConfig())


def test_reload_replaces_the_whole_list(manager, directories):
    add_versions(directories.path / "c", 4)
    manager.reload(directories.config("b", "c"))
    assert manager.models() == ["b", "c"]
    assert (latest(manager, "b"), latest(manager, "c")) == (1, 4)
    wait_until(lambda: states(manager, "a") == {1: "END"})
    assert status_error(manager.use, "a") == "NOT_FOUND: Servable not found for request: Latest(a)"
    manager.reload(directories.config("a"))  # loaded again, and the reload waits for it
    assert latest(manager, "a") == 1
    manager.reload(text_format.Parse("model_config_list {}", ModelServerConfig()))
    wait_until(lambda: not any(manager._serving.values()))
    assert (manager.models(), manager.ready()) == ([], True)


def test_model_configured_again_while_unloading_is_reloaded(manager, directories):
    manager._timing = type(manager._timing)(0)  # only reloads poll the disk
    with manager.use("a"):
        manager.reload(directories.config("b"))
        wait_until(lambda: states(manager, "a") == {1: "UNLOADING"})
        reloading = threading.Thread(target=manager.reload, args=(directories.config("a", "b"),))
        reloading.start()
        wait_until(lambda: manager.models() == ["a", "b"])
    reloading.join(30)
    assert not reloading.is_alive()
    assert latest(manager, "a") == 1


def test_reload_waits_for_new_models(manager, directories):
    add_versions(directories.path / "c", 4)
    directories.loader.proceed.clear()
    reloading = threading.Thread(target=manager.reload, args=(directories.config("a", "c"),))
    reloading.start()
    wait_until(lambda: states(manager, "c") == {4: "LOADING"})
    assert reloading.is_alive()
    assert not manager.ready()
    directories.loader.proceed.set()
    reloading.join(30)
    assert not reloading.is_alive()
    assert manager.ready()


def test_reload_does_not_wait_for_new_versions(manager, directories):
    add_versions(directories.path / "a", 2)
    directories.loader.proceed.clear()
    manager.reload(directories.config("a", "b"))
    assert latest(manager, "a") == 1
    directories.loader.proceed.set()


def test_new_model_that_fails_to_load(manager, directories):
    add_versions(directories.path / "c", 4)
    directories.loader.failures[4] = 100
    assert status_error(manager.reload, directories.config("a", "b", "c")) == (
        "UNKNOWN: 1 model(s) did not become available: {{{name: c version: 4} due to error: DATA_LOSS: half written}, }"
    )
    assert (latest(manager, "a"), manager.models(), manager.ready()) == (1, ["a", "b", "c"], False)


def test_waiting_reload_is_aborted_by_the_next(manager, directories):
    errors = []
    config = directories.config("a", "nowhere")  # its directory does not exist
    reloading = threading.Thread(target=lambda: errors.append(status_error(manager.reload, config)))
    reloading.start()
    wait_until(lambda: "nowhere" in manager.models())
    manager.reload(directories.config("a", "b"))
    reloading.join(30)
    assert errors == ["ABORTED: Another configuration arrived before all models were available"]
    assert latest(manager, "a") == 1


def test_same_configuration_does_not_abort_a_reload(manager, directories):
    add_versions(directories.path / "c", 4)
    directories.loader.proceed.clear()
    ended = []
    reloading = threading.Thread(target=lambda: ended.append(manager.reload(directories.config("a", "c"))))
    reloading.start()
    wait_until(lambda: states(manager, "c") == {4: "LOADING"})
    manager.reload(directories.config("a", "c"), wait=False)
    directories.loader.proceed.set()
    reloading.join(30)
    assert ended == [None]


def test_poll_that_began_before_a_reload_is_discarded(manager, directories):
    find, polling, proceed = manager._find, threading.Event(), threading.Event()

    def slow():
        polling.set()
        proceed.wait(30)
        return find()

    manager._find = slow
    assert polling.wait(30)  # in the manager's own thread
    manager.reload(directories.config("b"))
    proceed.set()
    polls, quick = [], manager._find
    manager._find = lambda: polls.append(manager.models()) or quick()
    wait_until(lambda: len(polls) > 1)
    assert polls[0] == polls[1] == ["b"]
    wait_until(lambda: states(manager, "a") == {1: "END"})


REJECTED_CONFIGS = {
    "": "INVALID_ARGUMENT: ServerModelConfig type not supported by HandleReloadConfigRequest. Only ModelConfigList "
    "is currently supported",
    "custom_model_config {}": "INVALID_ARGUMENT: ServerModelConfig type not supported by HandleReloadConfigRequest. "
    "Only ModelConfigList is currently supported",
    "model_config_list {" + ENTRY.format("a", "/a", "") * 2 + "}": (
        "INVALID_ARGUMENT: Illegal to list model a multiple times in config list"
    ),
    "model_config_list {" + ENTRY.format("c", "../c", "") + "}": (
        "INVALID_ARGUMENT: Expected model c to have an absolute path or URI; got base_path()=../c"
    ),
    'model_config_list { config { name: "a" base_path: "/a" model_platform: "caffe" } }': (
        "INVALID_ARGUMENT: Illegal to change a model's platform. For model a platform was tensorflow and new "
        "platform requested is caffe"
    ),
    'model_config_list { config { name: "c" base_path: "/c" model_platform: "caffe" } }': (
        "INVALID_ARGUMENT: Model c requests unsupported platform caffe"
    ),
    'model_config_list { config { name: "c" base_path: "/c" } }': (
        "INVALID_ARGUMENT: Illegal setting neither ModelServerConfig::model_type (deprecated) nor "
        "ModelServerConfig::model_platform, model name is c"
    ),
    'model_config_list { config { name: "c" base_path: "/c" model_type: TENSORFLOW model_platform: "tensorflow" } }': (
        "INVALID_ARGUMENT: Illegal setting both ModelServerConfig::model_type (deprecated) and "
        "ModelServerConfig::model_platform."
    ),
    'model_config_list { config { name: "c" base_path: "/c" model_type: OTHER } }': (
        "INVALID_ARGUMENT: ModelServerConfig::model_type choice 2 not supported."
    ),
    "model_config_list {" + ENTRY.format("a", "/a", 'version_labels { key: "l" value: 7 }') + "}": (
        "FAILED_PRECONDITION: Request to assign label to version 7 of model a, which is not currently available "
        "for inference"
    ),
}


@pytest.mark.parametrize("text", REJECTED_CONFIGS, ids=range(len(REJECTED_CONFIGS)))
def test_rejected_requests_change_nothing(manager, text):
    before = dict(manager._configs)
    request = ReloadConfigRequest(config=text_format.Parse(text, ModelServerConfig()))
    status = handle_reload(manager, request, lambda name: None).status
    code, message = REJECTED_CONFIGS[text].split(": ", 1)
    assert (status.error_code, status.error_message) == (CODES[code], message)
    assert manager._configs == before
    assert (latest(manager, "a"), latest(manager, "b")) == (1, 1)


def test_deprecated_model_type_is_accepted(manager, directories):
    text = f'model_config_list {{ config {{ name: "a" base_path: "{directories.path}/a" model_type: TENSORFLOW }} }}'
    manager.reload(text_format.Parse(text, ModelServerConfig()))
    assert latest(manager, "a") == 1


def test_request_logging_is_rejected(manager, directories):
    request = ReloadConfigRequest(config=directories.config("a", extra="logging_config {}"))
    status = handle_reload(manager, request, lambda name: None).status
    assert (status.error_code, status.error_message) == (3, "No request-logger-creator provided.")
    file = directories.path / "models.config"
    file.write_text(directories.text("a", extra="logging_config {}"))
    assert status_error(configured_models, Flags(model_config_file=str(file))) == (
        "INVALID_ARGUMENT: No request-logger-creator provided."
    )


def test_response_contains_metric_increases(manager, directories):
    totals = {"loads": iter((3, 10)), "new": iter((None, 2))}
    request = ReloadConfigRequest(config=directories.config("a"), metric_names=["loads", "new", "unknown"])
    response = handle_reload(manager, request, lambda name: next(totals[name]) if name in totals else None)
    assert (response.status.error_code, response.status.error_message) == (0, "")
    assert [(metric.name, metric.int64_value_increase) for metric in response.metric] == [("loads", 7), ("new", 2)]


def test_metric_increases_are_summed_over_labels(manager, directories, monkeypatch):
    """This applies to counters and gauges; histograms have no sum."""
    metrics = Metrics()
    for path in ("/a/1", "/b/1"):
        metrics.record_load(path, "OK", 100)
    for model in ("a", "a", "b"):
        metrics.request_started(model)
    reload = manager.reload

    def reload_and_count(config):
        reload(config)
        metrics.record_load("/a/1", "OK", 5)  # existing labels and new ones
        metrics.record_load("/a/1", "DATA_LOSS", 6)
        metrics.record_load("/c/1", "OK", 7)
        metrics.request_finished("a")
        metrics.request_finished("b")
        metrics.record_examples("a", 3)
        metrics.record_examples("c", 4)

    monkeypatch.setattr(manager, "reload", reload_and_count)
    expected_increases = {
        "/tensorflow/cc/saved_model/load_attempt_count": 3,
        "/tensorflow/cc/saved_model/load_latency": 18,
        "/serving/requests_in_flight": -2,
        "/tensorflow/serving/request_example_count_total": 7,
        "/tensorflow/serving/request_example_counts": 0,
    }
    names = [*expected_increases, "/tensorflow/cc/saved_model/load_attempt_count", ":tensorflow:serving:request_count"]
    response = handle_reload(
        manager, ReloadConfigRequest(config=directories.config("a"), metric_names=names), metrics.value
    )
    increases = [(metric.name, metric.int64_value_increase) for metric in response.metric]
    assert increases == [*expected_increases.items(), (names[0], 3)], "once per requested name, without unknown names"


@pytest.fixture
def poller(manager, directories):
    return ConfigPoller(manager, str(directories.path / "models.config"), 0.01)


def test_changed_file_is_applied(manager, directories, poller):
    file = directories.path / "models.config"
    file.write_text(directories.text("a"))
    poller.start()
    wait_until(lambda: manager.models() == ["a"])
    add_versions(directories.path / "c", 3)
    file.write_text(directories.text("a", "c"))
    wait_until(lambda: states(manager, "c") == {3: "AVAILABLE"})
    poller.stop()
    poller._thread.join(30)
    assert not poller._thread.is_alive()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"model_config_list { config { nme: 'm' } }", "Invalid protobuf file: '"),
        (b"\xff\xfe\x00", "Invalid protobuf file: '"),
        (None, "No such file or directory"),
        (b"model_config_list { config { name: 'm' base_path: 'm' } }", "to have an absolute path"),
        (b"custom_model_config {}", "Cannot transition to requested config."),
    ],
)
def test_invalid_file_is_logged_once_and_changes_nothing(manager, directories, poller, caplog, content, reason):
    if content is not None:
        (directories.path / "models.config").write_bytes(content)
    with caplog.at_level(logging.ERROR, "serving"):
        for _ in range(3):
            poller.poll()
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith(f"{directories.path}/models.config changes nothing: ")
    assert reason in caplog.messages[0]
    assert (manager.models(), latest(manager, "a"), latest(manager, "b")) == (["a", "b"], 1, 1)
    (directories.path / "models.config").write_text(directories.text("b"))
    poller.poll()
    assert manager.models() == ["b"]


def test_empty_file_changes_nothing(manager, directories, poller, caplog):
    (directories.path / "models.config").write_text("")
    poller.poll()
    assert manager.models() == ["a", "b"]


def test_server_can_start_with_an_empty_file(directories):
    (directories.path / "models.config").write_text("# nothing yet\n")
    models = configured_models(Flags(model_config_file=str(directories.path / "models.config")))
    assert models == []
    manager = new_manager(lambda: models)
    manager.start()
    assert (manager.models(), manager.ready()) == ([], True)
    add_versions(directories.path / "c", 4)
    manager.reload(directories.config("c"))
    assert latest(manager, "c") == 4
    manager.stop()


def test_label_is_retried_until_its_version_is_available(manager, directories, poller):
    label = 'version_labels { key: "new" value: 2 }'
    (directories.path / "models.config").write_text(directories.text("a", extra=label))
    poller.poll()
    assert manager.models() == ["a", "b"]
    add_versions(directories.path / "a", 2)
    wait_until(lambda: states(manager, "a").get(2) == "AVAILABLE")
    poller.poll()
    assert manager.models() == ["a"]
    with manager.use("a", None, "new") as version:
        assert version.number == 2


@pytest.fixture
def stub(server):
    with grpc.insecure_channel(server.grpc) as channel:
        yield model_service_pb2_grpc.ModelServiceStub(channel)


def test_running_server_is_reloaded(server, store, stub):
    """Add a model by request; restore the first configuration in the end."""
    first = text_format.Parse(CONFIG.format(models=server.models), ModelServerConfig())
    config = ModelServerConfig()
    config.CopyFrom(first)
    store.publish(store.number(3), server.models / "added", 3)
    config.model_config_list.config.add(
        name="added", base_path=str(server.models / "added"), model_platform="tensorflow", version_labels={"new": 3}
    )
    loads = "/tensorflow/cc/saved_model/load_attempt_count"
    try:
        response = stub.HandleReloadConfigRequest(ReloadConfigRequest(config=config, metric_names=[loads]), timeout=60)
        assert (response.status.error_code, response.status.error_message) == (0, "")
        assert [(metric.name, metric.int64_value_increase > 0) for metric in response.metric] == [(loads, True)]
        with Client(server.grpc) as client:
            for choice in ({}, {"version": 3}, {"label": "new"}):
                assert client.predict("added", {"x": np.zeros(1, np.float32)}, **choice)["y"][0] == 3
    finally:
        stub.HandleReloadConfigRequest(ReloadConfigRequest(config=first), timeout=60)
    with Client(server.grpc) as client:
        wait_until(lambda: [status.state for status in client.status("added")] == ["END"])
        assert client.predict("example", {"x": np.zeros(1, np.float32)}, label="stable")["y"][0] == 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("custom_model_config {}", REJECTED_CONFIGS["custom_model_config {}"]),
        (
            'model_config_list { config { name: "number" base_path: "/n" model_platform: "caffe" } }',
            "INVALID_ARGUMENT: Illegal to change a model's platform. For model number platform was tensorflow and new "
            "platform requested is caffe",
        ),
        (
            "model_config_list {" + ENTRY.format("example", "/e", 'version_labels { key: "stable" value: 7 }') + "}",
            "FAILED_PRECONDITION: Request to assign label to version 7 of model example, which is not currently "
            "available for inference",
        ),
    ],
)
def test_rejection_is_the_status_of_the_call(server, stub, text, expected):
    request = ReloadConfigRequest(config=text_format.Parse(text, ModelServerConfig()))
    with pytest.raises(grpc.RpcError) as caught:
        stub.HandleReloadConfigRequest(request, timeout=60)
    assert f"{caught.value.code().name}: {caught.value.details()}" == expected
    with Client(server.grpc) as client:
        assert client.predict("example", {"x": np.zeros(1, np.float32)}, label="stable")["y"][0] == 2
