"""New configurations for a running manager: by request and by file."""

import logging
import threading

import grpc
import numpy as np
import pytest
from google.protobuf import text_format
from manager_helpers import Loader, add_versions, latest, new_manager, refusal, states
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
def room(tmp_path):
    return Room(tmp_path)


@pytest.fixture
def manager(room):
    """Serves `a` and `b`, version 1 of each."""
    for name in ("a", "b"):
        add_versions(room.path / name, 1)
    models = [ModelConfig(name, str(room.path / name)) for name in ("a", "b")]
    manager = new_manager(lambda: models, room.loader, retries=0)
    manager.start()
    yield manager
    manager.stop()


class Room:
    """Directories of models, and configurations that name them."""

    def __init__(self, path):
        self.path, self.loader = path, Loader()

    def text(self, *names, more=""):
        return "model_config_list {" + " ".join(ENTRY.format(name, self.path / name, more) for name in names) + "}"

    def config(self, *names, more=""):
        return text_format.Parse(self.text(*names, more=more), ModelServerConfig())


def test_the_whole_list_is_replaced(manager, room):
    add_versions(room.path / "c", 4)
    manager.reload(room.config("b", "c"))
    assert manager.models() == ["b", "c"]
    assert (latest(manager, "b"), latest(manager, "c")) == (1, 4)
    wait_until(lambda: states(manager, "a") == {1: "END"})
    assert refusal(manager.use, "a") == "NOT_FOUND: Servable not found for request: Latest(a)"
    manager.reload(room.config("a"))  # it comes back, and the reload has waited for it
    assert latest(manager, "a") == 1
    manager.reload(text_format.Parse("model_config_list {}", ModelServerConfig()))
    wait_until(lambda: not any(manager._serving.values()))
    assert (manager.models(), manager.ready()) == ([], True)


def test_a_model_that_comes_back_while_it_is_unloaded_is_loaded_again(manager, room):
    manager._timing = type(manager._timing)(0)  # nothing but the reloads looks at the disk
    with manager.use("a"):
        manager.reload(room.config("b"))
        wait_until(lambda: states(manager, "a") == {1: "UNLOADING"})
        reloading = threading.Thread(target=manager.reload, args=(room.config("a", "b"),))
        reloading.start()
        wait_until(lambda: manager.models() == ["a", "b"])
    reloading.join(30)
    assert not reloading.is_alive()
    assert latest(manager, "a") == 1


def test_a_reload_waits_for_new_models(manager, room):
    add_versions(room.path / "c", 4)
    room.loader.admission.clear()
    reloading = threading.Thread(target=manager.reload, args=(room.config("a", "c"),))
    reloading.start()
    wait_until(lambda: states(manager, "c") == {4: "LOADING"})
    assert reloading.is_alive()
    assert not manager.ready()
    room.loader.admission.set()
    reloading.join(30)
    assert not reloading.is_alive()
    assert manager.ready()


def test_versions_of_known_models_are_not_waited_for(manager, room):
    add_versions(room.path / "a", 2)
    room.loader.admission.clear()
    manager.reload(room.config("a", "b"))
    assert latest(manager, "a") == 1
    room.loader.admission.set()


def test_a_new_model_that_cannot_be_loaded(manager, room):
    add_versions(room.path / "c", 4)
    room.loader.failures[4] = 100
    assert refusal(manager.reload, room.config("a", "b", "c")) == (
        "UNKNOWN: 1 model(s) did not become available: {{{name: c version: 4} due to error: DATA_LOSS: half written}, }"
    )
    assert (latest(manager, "a"), manager.models(), manager.ready()) == (1, ["a", "b", "c"], False)


def test_a_reload_without_end_is_ended_by_the_next(manager, room):
    errors = []
    config = room.config("a", "nowhere")  # its directory does not exist
    reloading = threading.Thread(target=lambda: errors.append(refusal(manager.reload, config)))
    reloading.start()
    wait_until(lambda: "nowhere" in manager.models())
    manager.reload(room.config("a", "b"))
    reloading.join(30)
    assert errors == ["ABORTED: Another configuration arrived before all models were available"]
    assert latest(manager, "a") == 1


def test_the_same_configuration_again_does_not_end_a_reload(manager, room):
    add_versions(room.path / "c", 4)
    room.loader.admission.clear()
    ended = []
    reloading = threading.Thread(target=lambda: ended.append(manager.reload(room.config("a", "c"))))
    reloading.start()
    wait_until(lambda: states(manager, "c") == {4: "LOADING"})
    manager.reload(room.config("a", "c"), wait=False)
    room.loader.admission.set()
    reloading.join(30)
    assert ended == [None]


def test_a_look_at_the_disk_that_began_before_a_reload_is_forgotten(manager, room):
    find, looking, go_on = manager._find, threading.Event(), threading.Event()

    def slow():
        looking.set()
        go_on.wait(30)
        return find()

    manager._find = slow
    assert looking.wait(30)  # the manager's own thread is there
    manager.reload(room.config("b"))
    go_on.set()
    polls, quick = [], manager._find
    manager._find = lambda: polls.append(manager.models()) or quick()
    wait_until(lambda: len(polls) > 1)
    assert polls[0] == polls[1] == ["b"]
    wait_until(lambda: states(manager, "a") == {1: "END"})


REFUSED = {
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


@pytest.mark.parametrize("text", REFUSED, ids=range(len(REFUSED)))
def test_refused_requests_change_nothing(manager, text):
    before = dict(manager._configs)
    request = ReloadConfigRequest(config=text_format.Parse(text, ModelServerConfig()))
    status = handle_reload(manager, request, lambda name: None).status
    code, message = REFUSED[text].split(": ", 1)
    assert (status.error_code, status.error_message) == (CODES[code], message)
    assert manager._configs == before
    assert (latest(manager, "a"), latest(manager, "b")) == (1, 1)


def test_the_older_way_to_name_the_platform(manager, room):
    text = f'model_config_list {{ config {{ name: "a" base_path: "{room.path}/a" model_type: TENSORFLOW }} }}'
    manager.reload(text_format.Parse(text, ModelServerConfig()))
    assert latest(manager, "a") == 1


def test_requests_are_not_logged(manager, room):
    request = ReloadConfigRequest(config=room.config("a", more="logging_config {}"))
    status = handle_reload(manager, request, lambda name: None).status
    assert (status.error_code, status.error_message) == (3, "No request-logger-creator provided.")
    file = room.path / "models.config"
    file.write_text(room.text("a", more="logging_config {}"))
    assert refusal(configured_models, Flags(model_config_file=str(file))) == (
        "INVALID_ARGUMENT: No request-logger-creator provided."
    )


def test_the_answer_tells_how_metrics_grew(manager, room):
    totals = {"loads": iter((3, 10)), "new": iter((None, 2))}
    request = ReloadConfigRequest(config=room.config("a"), metric_names=["loads", "new", "unknown"])
    response = handle_reload(manager, request, lambda name: next(totals[name]) if name in totals else None)
    assert (response.status.error_code, response.status.error_message) == (0, "")
    assert [(metric.name, metric.int64_value_increase) for metric in response.metric] == [("loads", 7), ("new", 2)]


def test_growth_is_summed_over_the_labels_of_a_metric(manager, room, monkeypatch):
    """Of counters and of what goes up and down; histograms have no sum."""
    metrics = Metrics()
    for path in ("/a/1", "/b/1"):
        metrics.record_load(path, "OK", 100)
    for model in ("a", "a", "b"):
        metrics.request_started(model)
    reload = manager.reload

    def reload_and_count(config):
        reload(config)
        metrics.record_load("/a/1", "OK", 5)  # labels that were there, and new ones
        metrics.record_load("/a/1", "DATA_LOSS", 6)
        metrics.record_load("/c/1", "OK", 7)
        metrics.request_finished("a")
        metrics.request_finished("b")
        metrics.record_examples("a", 3)
        metrics.record_examples("c", 4)

    monkeypatch.setattr(manager, "reload", reload_and_count)
    growth = {
        "/tensorflow/cc/saved_model/load_attempt_count": 3,
        "/tensorflow/cc/saved_model/load_latency": 18,
        "/serving/requests_in_flight": -2,
        "/tensorflow/serving/request_example_count_total": 7,
        "/tensorflow/serving/request_example_counts": 0,
    }
    names = [*growth, "/tensorflow/cc/saved_model/load_attempt_count", ":tensorflow:serving:request_count"]
    response = handle_reload(manager, ReloadConfigRequest(config=room.config("a"), metric_names=names), metrics.value)
    told = [(metric.name, metric.int64_value_increase) for metric in response.metric]
    assert told == [*growth.items(), (names[0], 3)], "as often as it was asked for; names that are unknown are left out"


@pytest.fixture
def poller(manager, room):
    return ConfigPoller(manager, str(room.path / "models.config"), 0.01)


def test_a_changed_file_is_applied(manager, room, poller):
    file = room.path / "models.config"
    file.write_text(room.text("a"))
    poller.start()
    wait_until(lambda: manager.models() == ["a"])
    add_versions(room.path / "c", 3)
    file.write_text(room.text("a", "c"))
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
def test_a_bad_file_is_logged_once_and_changes_nothing(manager, room, poller, caplog, content, reason):
    if content is not None:
        (room.path / "models.config").write_bytes(content)
    with caplog.at_level(logging.ERROR, "serving"):
        for _ in range(3):
            poller.poll()
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith(f"{room.path}/models.config changes nothing: ")
    assert reason in caplog.messages[0]
    assert (manager.models(), latest(manager, "a"), latest(manager, "b")) == (["a", "b"], 1, 1)
    (room.path / "models.config").write_text(room.text("b"))
    poller.poll()
    assert manager.models() == ["b"]


def test_an_empty_file_changes_nothing(manager, room, poller, caplog):
    (room.path / "models.config").write_text("")
    poller.poll()
    assert manager.models() == ["a", "b"]


def test_a_server_may_start_with_an_empty_file_and_get_models_later(room):
    (room.path / "models.config").write_text("# nothing yet\n")
    models = configured_models(Flags(model_config_file=str(room.path / "models.config")))
    assert models == []
    manager = new_manager(lambda: models)
    manager.start()
    assert (manager.models(), manager.ready()) == ([], True)
    add_versions(room.path / "c", 4)
    manager.reload(room.config("c"))
    assert latest(manager, "c") == 4
    manager.stop()


def test_a_label_is_tried_again_until_its_version_is_there(manager, room, poller):
    label = 'version_labels { key: "new" value: 2 }'
    (room.path / "models.config").write_text(room.text("a", more=label))
    poller.poll()
    assert manager.models() == ["a", "b"]
    add_versions(room.path / "a", 2)
    wait_until(lambda: states(manager, "a").get(2) == "AVAILABLE")
    poller.poll()
    assert manager.models() == ["a"]
    with manager.use("a", None, "new") as version:
        assert version.number == 2


@pytest.fixture
def stub(server):
    with grpc.insecure_channel(server.grpc) as channel:
        yield model_service_pb2_grpc.ModelServiceStub(channel)


def test_a_running_server_is_reloaded(server, store, stub):
    """Models come and go by request; the first configuration is put back in the end."""
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
    ("text", "refusal"),
    [
        ("custom_model_config {}", REFUSED["custom_model_config {}"]),
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
def test_a_refusal_is_the_status_of_the_call(server, stub, text, refusal):
    request = ReloadConfigRequest(config=text_format.Parse(text, ModelServerConfig()))
    with pytest.raises(grpc.RpcError) as caught:
        stub.HandleReloadConfigRequest(request, timeout=60)
    assert f"{caught.value.code().name}: {caught.value.details()}" == refusal
    with Client(server.grpc) as client:
        assert client.predict("example", {"x": np.zeros(1, np.float32)}, label="stable")["y"][0] == 2
