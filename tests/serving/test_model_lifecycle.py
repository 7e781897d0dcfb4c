"""Versions come and go, with a stand-in for the loader: no TensorFlow, no ports."""

import threading

import pytest
from serving_helpers import wait_until

from serving.errors import StatusError
from serving.lifecycle import ModelManager, Timing
from serving.storage import ModelConfig, VersionPolicy, aspired_versions, find_models, find_versions


class Loaded:
    def __init__(self, path):
        self.path, self.closed = path, False

    def close(self):
        self.closed = True


class Loader:
    """Loads anything; a test can hold it up or let it fail."""

    def __init__(self):
        self.loaded, self.failures, self.gate = {}, {}, threading.Event()
        self.gate.set()

    def __call__(self, model, number, path):
        self.gate.wait(30)
        if self.failures.get(number, 0) > 0:
            self.failures[number] -= 1
            raise StatusError("DATA_LOSS", "half written")
        self.loaded[number] = Loaded(path)
        return self.loaded[number]


@pytest.fixture
def make(tmp_path):
    """make(*versions, **config) -> a started manager of the model `m`, whose directory is tmp_path / "m"."""
    managers = []

    def make(*versions, loader=None, retries=5, start=True, **config):
        for number in versions:
            (tmp_path / "m" / str(number)).mkdir(parents=True)
        models = [ModelConfig("m", str(tmp_path / "m"), **config)]
        timing = Timing(poll=0.05, retries=retries, retry_interval=0.05)
        manager = ModelManager(lambda: models, loader or Loader(), timing, load_threads=2)
        managers.append(manager)
        if start:
            manager.start()
        return manager

    yield make
    for manager in managers:
        manager.stop()


def states(manager, name="m"):
    return {number: state for number, state, _ in manager.versions(name)}


def latest(manager):
    with manager.use("m") as version:
        return version.number


def test_names_of_versions(tmp_path):
    for name in ("1", "00000123", "-5", "v2", "3.0", "99999999999999999999", "temporary"):
        (tmp_path / name).mkdir()
    assert set(find_versions(str(tmp_path))) == {1, 123, -5}


def test_models_directory(tmp_path):
    for path in ("a/1", "b/2", "empty", "notes/text"):
        (tmp_path / path).mkdir(parents=True)
    assert [model.name for model in find_models(str(tmp_path))] == ["a", "b"]


@pytest.mark.parametrize(
    ("policy", "wanted"),
    [
        (VersionPolicy(), {3}),
        (VersionPolicy(latest=VersionPolicy.Latest(num_versions=2)), {2, 3}),
        (VersionPolicy(all=VersionPolicy.All()), {1, 2, 3}),
        (VersionPolicy(specific=VersionPolicy.Specific(versions=[1, 3, 8])), {1, 3}),
    ],
)
def test_policies(policy, wanted):
    assert aspired_versions(policy, [2, 3, 1]) == wanted


def test_a_new_version_is_loaded_before_the_old_one_goes(make, tmp_path):
    loader = Loader()
    manager = make(1, loader=loader)
    loader.gate.clear()
    (tmp_path / "m" / "2").mkdir()
    wait_until(lambda: states(manager).get(2) == "LOADING")
    assert latest(manager) == 1
    loader.gate.set()
    wait_until(lambda: states(manager) == {2: "AVAILABLE", 1: "END"})
    assert latest(manager) == 2
    assert loader.loaded[1].closed


def test_requests_in_flight_end_before_the_version_goes(make, tmp_path):
    loader = Loader()
    manager = make(1, loader=loader)
    with manager.use("m") as version:
        (tmp_path / "m" / "2").mkdir()
        wait_until(lambda: states(manager) == {2: "AVAILABLE", 1: "UNLOADING"})
        with pytest.raises(StatusError, match=r"Servable not found for request: Specific\(m, 1\)"):
            manager.use("m", 1)
        assert not version.servable.closed
    wait_until(lambda: states(manager)[1] == "END")


def test_removing_the_newest_version_brings_back_the_one_below(make, tmp_path):
    manager = make(1, 2)
    assert states(manager) == {2: "AVAILABLE"}
    (tmp_path / "m" / "2").rmdir()
    wait_until(lambda: states(manager) == {2: "END", 1: "AVAILABLE"})


def test_removing_all_versions_unloads_the_model_and_they_can_come_back(make, tmp_path):
    manager = make(1)
    (tmp_path / "m" / "1").rmdir()
    wait_until(lambda: states(manager) == {1: "END"})
    with pytest.raises(StatusError, match=r"Latest\(m\)"):
        manager.use("m")
    (tmp_path / "m" / "1").mkdir()
    wait_until(lambda: states(manager) == {1: "AVAILABLE"})


def test_a_version_wanted_again_while_it_goes_comes_back(make, tmp_path):
    manager = make(1)
    with manager.use("m"):
        (tmp_path / "m" / "1").rmdir()
        wait_until(lambda: states(manager) == {1: "UNLOADING"})
        (tmp_path / "m" / "1").mkdir()
        manager._poll()
        assert states(manager) == {1: "UNLOADING"}
    wait_until(lambda: states(manager) == {1: "AVAILABLE"})


def test_a_missing_base_path_changes_nothing(make, tmp_path):
    manager = make(1)
    (tmp_path / "m").rename(tmp_path / "away")
    manager._poll()
    assert states(manager) == {1: "AVAILABLE"}


def test_half_written_versions_are_tried_again(make, tmp_path):
    loader = Loader()
    manager = make(1, loader=loader)
    loader.failures[2] = 2
    (tmp_path / "m" / "2").mkdir()
    wait_until(lambda: states(manager).get(2) == "AVAILABLE")


def test_a_version_that_keeps_failing_ends_with_its_error(make, tmp_path):
    loader = Loader()
    manager = make(1, loader=loader, retries=1)
    loader.failures[2] = 100
    (tmp_path / "m" / "2").mkdir()
    wait_until(lambda: states(manager).get(2) == "END")
    assert latest(manager) == 1
    assert str(manager.versions("m")[0][2]) == "DATA_LOSS: half written"


def test_a_start_that_fails_says_which_model_and_why(make):
    loader = Loader()
    loader.failures[1] = 100
    with pytest.raises(StatusError) as caught:
        make(1, loader=loader, retries=0)
    assert str(caught.value) == (
        "UNKNOWN: 1 servable(s) did not become available: "
        "{{{name: m version: 1} due to error: DATA_LOSS: half written}, }"
    )


def test_models_found_later_are_loaded(tmp_path):
    (tmp_path / "a" / "1").mkdir(parents=True)
    timing = Timing(poll=0.05)
    manager = ModelManager(lambda: find_models(str(tmp_path)), Loader(), timing, load_threads=2)
    manager.start()
    (tmp_path / "b" / "7").mkdir(parents=True)
    wait_until(lambda: states(manager, "b") == {7: "AVAILABLE"})
    manager.stop()
