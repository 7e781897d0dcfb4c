"""Life cycle of versions, with a fake loader: without TensorFlow and ports."""

import logging
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from manager_helpers import FakeLoader, InlineExecutor, add_versions, latest, new_manager, states, status_error
from serving_helpers import wait_until

from serving.errors import MAX_MESSAGE_CHARACTERS, StatusError
from serving.models.storage import ModelConfig, VersionPolicy, aspired_versions, find_models, find_versions

ALL = VersionPolicy(all=VersionPolicy.All())


@pytest.fixture
def make_manager(tmp_path):
    """make_manager(*versions, **config) -> a started manager of the model `m`, whose directory is tmp_path / "m"."""
    managers = []

    def make_manager(*versions, loader=None, start=True, poll=0.05, retries=5, load_threads=0, **config):
        add_versions(tmp_path / "m", *versions)
        models = [ModelConfig("m", str(tmp_path / "m"), **config)]
        managers.append(new_manager(lambda: models, loader, poll, retries, load_threads=load_threads))
        if start:
            managers[-1].start()
        return managers[-1]

    yield make_manager
    for manager in managers:
        manager.stop()


@pytest.fixture
def make_unstarted(tmp_path):
    """make_unstarted(a=[1], b=[]) -> a manager, not started, of models with these versions."""
    managers = []

    def make_unstarted(loader=None, **versions):
        models = [ModelConfig(name, str(add_versions(tmp_path / name, *numbers))) for name, numbers in versions.items()]
        managers.append(new_manager(lambda: models, loader, retries=0))
        return managers[-1]

    yield make_unstarted
    for manager in managers:
        manager.stop()


def test_version_directory_names(tmp_path):
    for name in ("1", "00000123", "-5", "v2", "3.0", "99999999999999999999", "temporary"):
        (tmp_path / name).mkdir()
    assert set(find_versions(str(tmp_path))) == {1, 123, -5}


def test_models_directory(tmp_path):
    for path in ("a/1", "b/2", "empty", "notes/text"):
        (tmp_path / path).mkdir(parents=True)
    assert [model.name for model in find_models(str(tmp_path))] == ["a", "b"]


@pytest.mark.parametrize(
    ("policy", "aspired"),
    [
        (VersionPolicy(), {3}),
        (VersionPolicy(latest=VersionPolicy.Latest(num_versions=2)), {2, 3}),
        (VersionPolicy(all=VersionPolicy.All()), {1, 2, 3}),
        (VersionPolicy(specific=VersionPolicy.Specific(versions=[1, 3, 8])), {1, 3}),
    ],
)
def test_version_policies(policy, aspired):
    assert aspired_versions(policy, [2, 3, 1]) == aspired


def test_new_version_is_loaded_before_the_old_one_is_unloaded(make_manager, tmp_path):
    loader = FakeLoader()
    manager = make_manager(1, loader=loader)
    loader.proceed.clear()
    (tmp_path / "m" / "2").mkdir()
    wait_until(lambda: states(manager).get(2) == "LOADING")
    assert latest(manager) == 1
    loader.proceed.set()
    wait_until(lambda: states(manager) == {2: "AVAILABLE", 1: "END"})
    assert latest(manager) == 2
    assert loader.loaded[1].closed


def test_version_is_unloaded_after_its_requests_in_flight(make_manager, tmp_path):
    loader = FakeLoader()
    manager = make_manager(1, loader=loader)
    with manager.use("m") as version:
        (tmp_path / "m" / "2").mkdir()
        wait_until(lambda: states(manager) == {2: "AVAILABLE", 1: "UNLOADING"})
        with pytest.raises(StatusError, match=r"Servable not found for request: Specific\(m, 1\)"):
            manager.use("m", 1)
        assert not version.servable.closed
    wait_until(lambda: states(manager)[1] == "END")


def test_removing_the_newest_version_reloads_the_previous_one(make_manager, tmp_path):
    manager = make_manager(1, 2)
    assert states(manager) == {2: "AVAILABLE"}
    (tmp_path / "m" / "2").rmdir()
    wait_until(lambda: states(manager) == {2: "END", 1: "AVAILABLE"})


def test_removed_versions_are_unloaded_and_may_return(make_manager, tmp_path):
    manager = make_manager(1)
    (tmp_path / "m" / "1").rmdir()
    wait_until(lambda: states(manager) == {1: "END"})
    with pytest.raises(StatusError, match=r"Latest\(m\)"):
        manager.use("m")
    (tmp_path / "m" / "1").mkdir()
    wait_until(lambda: states(manager) == {1: "AVAILABLE"})


def test_version_aspired_again_while_unloading_is_reloaded(make_manager, tmp_path):
    manager = make_manager(1)
    with manager.use("m"):
        (tmp_path / "m" / "1").rmdir()
        wait_until(lambda: states(manager) == {1: "UNLOADING"})
        (tmp_path / "m" / "1").mkdir()
        manager._poll()
        assert states(manager) == {1: "UNLOADING"}
    wait_until(lambda: states(manager) == {1: "AVAILABLE"})


def test_missing_base_path_changes_nothing(make_manager, tmp_path):
    manager = make_manager(1)
    (tmp_path / "m").rename(tmp_path / "away")
    manager._poll()
    assert states(manager) == {1: "AVAILABLE"}


def test_failed_loads_are_retried(make_manager, tmp_path):
    loader = FakeLoader()
    manager = make_manager(1, loader=loader)
    loader.failures[2] = 2
    (tmp_path / "m" / "2").mkdir()
    wait_until(lambda: states(manager).get(2) == "AVAILABLE")


def test_version_ends_with_its_error_after_the_last_retry(make_manager, tmp_path):
    loader = FakeLoader()
    manager = make_manager(1, loader=loader, retries=1)
    loader.failures[2] = 100
    (tmp_path / "m" / "2").mkdir()
    wait_until(lambda: states(manager).get(2) == "END")
    assert latest(manager) == 1
    assert str(manager.versions("m")[0][2]) == "DATA_LOSS: half written"


def test_failed_start_names_model_and_cause(make_manager):
    loader = FakeLoader()
    loader.failures[1] = 100
    with pytest.raises(StatusError) as caught:
        make_manager(1, loader=loader, retries=0)
    assert str(caught.value) == (
        "UNKNOWN: 1 servable(s) did not become available: "
        "{{{name: m version: 1} due to error: DATA_LOSS: half written}, }"
    )


def test_models_found_later_are_loaded(tmp_path):
    add_versions(tmp_path / "a", 1)
    manager = new_manager(lambda: find_models(str(tmp_path)))
    manager.start()
    assert (manager.models(), manager.ready()) == (["a"], True)
    add_versions(tmp_path / "b", 7)
    wait_until(lambda: states(manager, "b") == {7: "AVAILABLE"})
    assert (manager.models(), manager.ready()) == (["a", "b"], True)
    (tmp_path / "a" / "1").rmdir()
    wait_until(lambda: states(manager, "a") == {1: "END"})
    assert manager.models() == ["b"]
    manager.stop()


def test_failed_start_counts_the_failed_models(make_unstarted):
    loader = FakeLoader()
    loader.failures.update({1: 1, 2: 1})
    manager = make_unstarted(loader, a=[1], b=[2], c=[3])
    assert status_error(manager.start) == (
        "UNKNOWN: 2 servable(s) did not become available: {{{name: a version: 1} due to error: DATA_LOSS: half written"
        "}, {{name: b version: 2} due to error: DATA_LOSS: half written}, }"
    )


def test_start_requires_one_version_per_model(make_manager):
    loader = FakeLoader()
    loader.failures[2] = 1
    manager = make_manager(1, 2, loader=loader, retries=0, policy=ALL)
    assert latest(manager) == 1
    wait_until(lambda: states(manager) == {2: "END", 1: "AVAILABLE"})


def test_start_waits_for_a_model_without_versions(make_unstarted, tmp_path):
    manager = make_unstarted(a=[1], b=[])
    polls, find = [], manager._find
    manager._find = lambda: polls.append(None) or find()
    starting = threading.Thread(target=manager.start)
    starting.start()
    wait_until(lambda: len(polls) > 3 and states(manager, "a") == {1: "AVAILABLE"})
    assert starting.is_alive()
    assert not manager.ready()
    add_versions(tmp_path / "b", 4)
    starting.join(30)
    assert not starting.is_alive()
    assert manager.ready()


def test_waiting_start_can_be_stopped(make_unstarted):
    manager, errors = make_unstarted(a=[]), []
    starting = threading.Thread(target=lambda: errors.append(status_error(manager.start)))
    starting.start()
    wait_until(lambda: "a" in manager._models)
    manager.stop()
    starting.join(30)
    assert errors == ["CANCELLED: The server stopped before all models were available"]


def test_start_loads_in_parallel_and_later_loads_are_sequential(make_unstarted, tmp_path):
    barrier, later_loads = threading.Barrier(2, timeout=30), FakeLoader()
    later_loads.proceed.clear()

    def load(model, number, path):
        if number == 1:
            barrier.wait()  # fails unless both models are loaded at the same time
            return None
        return later_loads(model, number, path)

    manager = make_unstarted(load, a=[1], b=[1])
    manager.start()
    assert manager.ready()
    for name in ("a", "b"):
        add_versions(tmp_path / name, 2)
    wait_until(lambda: states(manager, "a").get(2) == states(manager, "b").get(2) == "LOADING")
    manager._poll()
    assert later_loads.order == [2]
    later_loads.proceed.set()
    wait_until(lambda: states(manager, "a").get(2) == states(manager, "b").get(2) == "AVAILABLE")


def test_highest_version_is_loaded_first(make_manager, tmp_path):
    loader = FakeLoader()
    make_manager(1, loader=loader, policy=ALL)
    loader.proceed.clear()
    add_versions(tmp_path / "temporary", 2, 3, 4)
    (tmp_path / "m").rename(tmp_path / "old")  # the three versions appear at the same time
    (tmp_path / "temporary" / "1").mkdir()
    (tmp_path / "temporary").rename(tmp_path / "m")
    loader.proceed.set()
    wait_until(lambda: len(loader.order) == 4)
    assert loader.order == [1, 4, 3, 2]


def test_one_old_version_stays_until_an_aspired_one_is_available(make_manager, tmp_path):
    loader = FakeLoader()
    manager = make_manager(1, 2, loader=loader, policy=VersionPolicy(latest=VersionPolicy.Latest(num_versions=2)))
    wait_until(lambda: states(manager) == {2: "AVAILABLE", 1: "AVAILABLE"})
    loader.proceed.clear()
    add_versions(tmp_path / "temporary", 3)
    (tmp_path / "m").rename(tmp_path / "old")
    (tmp_path / "temporary").rename(tmp_path / "m")
    wait_until(lambda: states(manager) == {3: "LOADING", 2: "AVAILABLE", 1: "END"})
    manager._poll()
    assert latest(manager) == 2
    loader.proceed.set()
    wait_until(lambda: states(manager) == {3: "AVAILABLE", 2: "END", 1: "END"})


def test_failed_version_is_retried_after_it_was_removed(make_manager, tmp_path):
    loader = FakeLoader()
    loader.failures[2] = 1
    manager = make_manager(1, loader=loader, retries=0)
    (tmp_path / "m" / "2").mkdir()
    wait_until(lambda: states(manager) == {2: "END", 1: "AVAILABLE"})
    manager._poll()
    assert states(manager)[2] == "END"
    (tmp_path / "m" / "2").rmdir()
    manager._poll()
    (tmp_path / "m" / "2").mkdir()
    wait_until(lambda: states(manager) == {2: "AVAILABLE", 1: "END"})
    assert manager.versions("m")[0][2] is None


def test_version_removed_during_retries_ends(make_manager, tmp_path):
    loader = FakeLoader()
    loader.failures[2] = 1000
    manager = make_manager(1, loader=loader, retries=1000)
    (tmp_path / "m" / "2").mkdir()
    wait_until(lambda: loader.order.count(2) > 1)
    (tmp_path / "m" / "2").rmdir()
    wait_until(lambda: states(manager) == {2: "END", 1: "AVAILABLE"})


def test_duplicate_versions_are_reported_once(make_manager, tmp_path, caplog):
    (tmp_path / "m" / "001").mkdir(parents=True)
    loader = FakeLoader()
    with caplog.at_level(logging.WARNING, "serving"):
        manager = make_manager(1, loader=loader)
        for _ in range(3):
            manager._poll()
    assert loader.loaded[1].path == str(tmp_path / "m" / "1")
    assert caplog.messages == [
        f"{tmp_path}/m/001 and {tmp_path}/m/1 are the same version of model m; {tmp_path}/m/1 is served"
    ]


def test_missing_specific_version_is_reported_once(make_manager, tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "serving"):
        manager = make_manager(1, 2, policy=VersionPolicy(specific=VersionPolicy.Specific(versions=[1, 5])))
        manager._poll()
    assert states(manager) == {1: "AVAILABLE"}
    assert caplog.messages == [f"Version 5 of model m, required by its version policy, is not in {tmp_path}/m"]


@pytest.mark.parametrize("replacement", ["nothing", "file"])
def test_missing_base_path_stops_changes_of_all_models(make_unstarted, tmp_path, replacement):
    manager = make_unstarted(a=[1], b=[1])
    manager.start()
    (tmp_path / "a").rename(tmp_path / "away")
    if replacement == "file":
        (tmp_path / "a").write_text("not a directory")
    add_versions(tmp_path / "b", 2)
    for _ in range(3):
        manager._poll()
    assert (states(manager, "a"), states(manager, "b")) == ({1: "AVAILABLE"}, {1: "AVAILABLE"})
    if replacement == "file":
        (tmp_path / "a").unlink()
    (tmp_path / "away").rename(tmp_path / "a")
    wait_until(lambda: states(manager, "b") == {2: "AVAILABLE", 1: "END"})
    assert states(manager, "a") == {1: "AVAILABLE"}


def test_zero_poll_interval_polls_once(make_manager, tmp_path):
    manager = make_manager(1, poll=0)
    polls, ticks, advance = [], [], manager._advance
    manager._find = lambda: polls.append(None) or []
    manager._advance = lambda model: ticks.append(None) or advance(model)
    add_versions(tmp_path / "m", 2)
    wait_until(lambda: len(ticks) > 3)
    assert (polls, states(manager)) == ([], {1: "AVAILABLE"})


def test_negative_poll_interval_never_polls(make_manager):
    manager = make_manager(1, poll=-1, start=False)
    starting = threading.Thread(target=status_error, args=(manager.start,))
    starting.start()
    wait_until(lambda: "m" in manager._models)
    manager.stop()
    starting.join(30)
    assert states(manager) == {}


def test_version_ends_even_if_closing_fails(make_manager, tmp_path):
    class FailingServable:
        def close(self):
            raise RuntimeError("no")

    manager = make_manager(1, loader=lambda *_: FailingServable())
    (tmp_path / "m" / "2").mkdir()
    wait_until(lambda: states(manager) == {2: "AVAILABLE", 1: "END"})


def test_forgotten_use_does_not_keep_its_version(make_manager, tmp_path):
    manager = make_manager(1)
    use = manager.use("m")
    (tmp_path / "m" / "2").mkdir()
    wait_until(lambda: states(manager) == {2: "AVAILABLE", 1: "UNLOADING"})
    del use
    wait_until(lambda: states(manager) == {2: "AVAILABLE", 1: "END"})


def test_no_request_sees_a_closed_version(make_manager, tmp_path):
    """Versions change during requests. Each request finds a version, which stays open until the request ends."""
    manager, stop, failures, served = make_manager(1), threading.Event(), [], set()

    def send_requests():
        while not stop.is_set():
            try:
                with manager.use("m") as version:
                    served.add(version.number)
                    if version.servable is None or version.servable.closed:
                        failures.append(version.number)
            except StatusError as error:
                failures.append(error)

    threads = [threading.Thread(target=send_requests) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for number in range(2, 12):
            add_versions(tmp_path / "m", number)
            wait_until(lambda: states(manager).get(number - 1) == "END")  # noqa: B023
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)
    assert not failures
    assert served == set(range(1, 12))
    assert all(not version.references for version in manager._models["m"].versions.values())


@pytest.mark.parametrize("name", ["..", "../m", "m/1", "/", "m\0", "a" * 100_000, "ünï", "m ", "%2e%2e", "."])
def test_model_names_never_become_paths(make_manager, name):
    manager = make_manager(1)
    for arguments, code, message in [
        ((name,), "NOT_FOUND", f"Servable not found for request: Latest({name})"),
        (("m", None, name), "INVALID_ARGUMENT", f"Unrecognized servable version label: {name}"),
    ]:
        truncated = len(message) > MAX_MESSAGE_CHARACTERS
        assert status_error(manager.use, *arguments) == f"{code}: {message[:MAX_MESSAGE_CHARACTERS]}{'...' * truncated}"
    assert manager.versions(name) == []


@pytest.mark.parametrize("name", ["../m", "ünï cödé", "a:b", "x/y"])
def test_unusual_model_names_can_be_served(tmp_path, name):
    add_versions(tmp_path / "m", 1)
    manager = new_manager(lambda: [ModelConfig(name, str(tmp_path / "m"))])
    manager.start()
    assert latest(manager, name) == 1
    manager.stop()


NUMBERS = st.frozensets(st.integers(1, 5))
POLICIES = st.sampled_from([ALL, VersionPolicy(), VersionPolicy(latest=VersionPolicy.Latest(num_versions=2))])


@given(st.lists(st.tuples(NUMBERS, POLICIES, NUMBERS), min_size=1, max_size=6))
def test_loadable_aspired_versions_become_available(tmp_path_factory, steps):
    """Versions appear and vanish, policies change, loads fail: in the end all loadable aspired versions are available.

    Once a version is available, at least one stays available, unless no version is aspired.
    """
    base_path = tmp_path_factory.mktemp("steps")
    loader, config = FakeLoader(), []
    manager = new_manager(lambda: config, loader, retries=0)
    manager._load_pool = manager._unload_pool = InlineExecutor()
    before, failed = set(), set()
    for present, policy, broken in steps:
        for path in base_path.iterdir():
            path.rmdir()
        add_versions(base_path, *present)
        config[:] = [ModelConfig("m", str(base_path), policy)]
        loader.failures = dict.fromkeys(broken, 1000)
        aspired = aspired_versions(policy, present)
        failed = {number for number in aspired if number in failed or (number in broken and number not in before)}
        manager._poll()
        for _ in range(12):
            served = {number for number, state in states(manager).items() if state == "AVAILABLE"}
            assert served or not before or not aspired
            with manager._changed:
                manager._advance(manager._models["m"])
        served = {number for number, state in states(manager).items() if state == "AVAILABLE"}
        loadable = aspired - failed
        if loadable or not aspired:
            assert served == loadable
        else:  # no aspired version loads: one of the previous versions stays
            assert served <= before and len(served) == min(len(before), 1)
        assert set(manager._serving.get("m", {})) - {None} == served
        assert not served or latest(manager) == max(served)
        assert {number for number, loaded in loader.loaded.items() if not loaded.closed} == served
        before = served
