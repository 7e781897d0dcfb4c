"""Versions come and go, with a stand-in for the loader: no TensorFlow, no ports."""

import logging
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from manager_helpers import Inline, Loader, add_versions, latest, new_manager, refusal, states
from serving_helpers import wait_until

from serving.errors import MAX_MESSAGE_CHARACTERS, StatusError
from serving.models.storage import ModelConfig, VersionPolicy, aspired_versions, find_models, find_versions

ALL = VersionPolicy(all=VersionPolicy.All())


@pytest.fixture
def make(tmp_path):
    """make(*versions, **config) -> a started manager of the model `m`, whose directory is tmp_path / "m"."""
    managers = []

    def make(*versions, loader=None, start=True, poll=0.05, retries=5, load_threads=0, **config):
        add_versions(tmp_path / "m", *versions)
        models = [ModelConfig("m", str(tmp_path / "m"), **config)]
        managers.append(new_manager(lambda: models, loader, poll, retries, load_threads=load_threads))
        if start:
            managers[-1].start()
        return managers[-1]

    yield make
    for manager in managers:
        manager.stop()


@pytest.fixture
def make_several(tmp_path):
    """make_several(a=[1], b=[]) -> a manager, not started, of models with these versions."""
    managers = []

    def make_several(loader=None, **versions):
        models = [ModelConfig(name, str(add_versions(tmp_path / name, *numbers))) for name, numbers in versions.items()]
        managers.append(new_manager(lambda: models, loader, retries=0))
        return managers[-1]

    yield make_several
    for manager in managers:
        manager.stop()


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
    loader.admission.clear()
    (tmp_path / "m" / "2").mkdir()
    wait_until(lambda: states(manager).get(2) == "LOADING")
    assert latest(manager) == 1
    loader.admission.set()
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


def test_a_start_counts_the_models_that_failed(make_several):
    loader = Loader()
    loader.failures.update({1: 1, 2: 1})
    manager = make_several(loader, a=[1], b=[2], c=[3])
    assert refusal(manager.start) == (
        "UNKNOWN: 2 servable(s) did not become available: {{{name: a version: 1} due to error: DATA_LOSS: half written"
        "}, {{name: b version: 2} due to error: DATA_LOSS: half written}, }"
    )


def test_a_start_needs_one_version_of_a_model(make):
    loader = Loader()
    loader.failures[2] = 1
    manager = make(1, 2, loader=loader, retries=0, policy=ALL)
    assert latest(manager) == 1
    wait_until(lambda: states(manager) == {2: "END", 1: "AVAILABLE"})


def test_a_start_waits_for_a_model_without_versions(make_several, tmp_path):
    manager = make_several(a=[1], b=[])
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


def test_a_start_that_waits_can_be_stopped(make_several):
    manager, errors = make_several(a=[]), []
    starting = threading.Thread(target=lambda: errors.append(refusal(manager.start)))
    starting.start()
    wait_until(lambda: "a" in manager._models)
    manager.stop()
    starting.join(30)
    assert errors == ["CANCELLED: The server stopped before all models were available"]


def test_the_start_loads_at_once_and_later_loads_come_one_by_one(make_several, tmp_path):
    both, later = threading.Barrier(2, timeout=30), Loader()
    later.admission.clear()

    def load(model, number, path):
        if number == 1:
            both.wait()  # fails unless the other model is loaded at the same time
            return None
        return later(model, number, path)

    manager = make_several(load, a=[1], b=[1])
    manager.start()
    assert manager.ready()
    for name in ("a", "b"):
        add_versions(tmp_path / name, 2)
    wait_until(lambda: states(manager, "a").get(2) == states(manager, "b").get(2) == "LOADING")
    manager._poll()
    assert later.order == [2]
    later.admission.set()
    wait_until(lambda: states(manager, "a").get(2) == states(manager, "b").get(2) == "AVAILABLE")


def test_the_highest_version_is_loaded_first(make, tmp_path):
    loader = Loader()
    make(1, loader=loader, policy=ALL)
    loader.admission.clear()
    add_versions(tmp_path / "aside", 2, 3, 4)
    (tmp_path / "m").rename(tmp_path / "old")  # the three appear in one moment
    (tmp_path / "aside" / "1").mkdir()
    (tmp_path / "aside").rename(tmp_path / "m")
    loader.admission.set()
    wait_until(lambda: len(loader.order) == 4)
    assert loader.order == [1, 4, 3, 2]


def test_of_several_unwanted_versions_one_stays_until_a_wanted_one_is_there(make, tmp_path):
    loader = Loader()
    manager = make(1, 2, loader=loader, policy=VersionPolicy(latest=VersionPolicy.Latest(num_versions=2)))
    wait_until(lambda: states(manager) == {2: "AVAILABLE", 1: "AVAILABLE"})
    loader.admission.clear()
    add_versions(tmp_path / "aside", 3)
    (tmp_path / "m").rename(tmp_path / "old")
    (tmp_path / "aside").rename(tmp_path / "m")
    wait_until(lambda: states(manager) == {3: "LOADING", 2: "AVAILABLE", 1: "END"})
    manager._poll()
    assert latest(manager) == 2
    loader.admission.set()
    wait_until(lambda: states(manager) == {3: "AVAILABLE", 2: "END", 1: "END"})


def test_a_version_that_failed_comes_back_after_it_was_gone(make, tmp_path):
    loader = Loader()
    loader.failures[2] = 1
    manager = make(1, loader=loader, retries=0)
    (tmp_path / "m" / "2").mkdir()
    wait_until(lambda: states(manager) == {2: "END", 1: "AVAILABLE"})
    manager._poll()
    assert states(manager)[2] == "END"
    (tmp_path / "m" / "2").rmdir()
    manager._poll()
    (tmp_path / "m" / "2").mkdir()
    wait_until(lambda: states(manager) == {2: "AVAILABLE", 1: "END"})
    assert manager.versions("m")[0][2] is None


def test_a_version_that_went_while_it_was_retried_ends(make, tmp_path):
    loader = Loader()
    loader.failures[2] = 1000
    manager = make(1, loader=loader, retries=1000)
    (tmp_path / "m" / "2").mkdir()
    wait_until(lambda: loader.order.count(2) > 1)
    (tmp_path / "m" / "2").rmdir()
    wait_until(lambda: states(manager) == {2: "END", 1: "AVAILABLE"})


def test_duplicate_versions_are_warned_of_once(make, tmp_path, caplog):
    (tmp_path / "m" / "001").mkdir(parents=True)
    loader = Loader()
    with caplog.at_level(logging.WARNING, "serving"):
        manager = make(1, loader=loader)
        for _ in range(3):
            manager._poll()
    assert loader.loaded[1].path == str(tmp_path / "m" / "1")
    assert caplog.messages == [
        f"{tmp_path}/m/001 and {tmp_path}/m/1 are the same version of model m; {tmp_path}/m/1 is served"
    ]


def test_a_specific_version_that_is_missing_is_warned_of_once(make, tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "serving"):
        manager = make(1, 2, policy=VersionPolicy(specific=VersionPolicy.Specific(versions=[1, 5])))
        manager._poll()
    assert states(manager) == {1: "AVAILABLE"}
    assert caplog.messages == [f"Version 5 of model m, required by its version policy, is not in {tmp_path}/m"]


@pytest.mark.parametrize("replacement", ["nothing", "file"])
def test_a_missing_base_path_stops_changes_of_every_model(make_several, tmp_path, replacement):
    manager = make_several(a=[1], b=[1])
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


def test_a_poll_time_of_zero_looks_once(make, tmp_path):
    manager = make(1, poll=0)
    looks, ticks, advance = [], [], manager._advance
    manager._find = lambda: looks.append(None) or []
    manager._advance = lambda model: ticks.append(None) or advance(model)
    add_versions(tmp_path / "m", 2)
    wait_until(lambda: len(ticks) > 3)
    assert (looks, states(manager)) == ([], {1: "AVAILABLE"})


def test_a_negative_poll_time_never_looks(make):
    manager = make(1, poll=-1, start=False)
    starting = threading.Thread(target=refusal, args=(manager.start,))
    starting.start()
    wait_until(lambda: "m" in manager._models)
    manager.stop()
    starting.join(30)
    assert states(manager) == {}


def test_a_version_whose_closing_fails_is_gone_all_the_same(make, tmp_path):
    class Stubborn:
        def close(self):
            raise RuntimeError("no")

    manager = make(1, loader=lambda *_: Stubborn())
    (tmp_path / "m" / "2").mkdir()
    wait_until(lambda: states(manager) == {2: "AVAILABLE", 1: "END"})


def test_a_use_that_is_forgotten_does_not_keep_its_version(make, tmp_path):
    manager = make(1)
    use = manager.use("m")
    (tmp_path / "m" / "2").mkdir()
    wait_until(lambda: states(manager) == {2: "AVAILABLE", 1: "UNLOADING"})
    del use
    wait_until(lambda: states(manager) == {2: "AVAILABLE", 1: "END"})


def test_no_request_sees_a_closed_version(make, tmp_path):
    """Versions change under requests of several threads: each finds one, and it stays open while it is held."""
    manager, stop, failures, served = make(1), threading.Event(), [], set()

    def ask():
        while not stop.is_set():
            try:
                with manager.use("m") as version:
                    served.add(version.number)
                    if version.servable is None or version.servable.closed:
                        failures.append(version.number)
            except StatusError as error:
                failures.append(error)

    threads = [threading.Thread(target=ask) for _ in range(4)]
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
def test_names_are_looked_up_and_never_become_paths(make, name):
    manager = make(1)
    for arguments, code, message in [
        ((name,), "NOT_FOUND", f"Servable not found for request: Latest({name})"),
        (("m", None, name), "INVALID_ARGUMENT", f"Unrecognized servable version label: {name}"),
    ]:
        long = len(message) > MAX_MESSAGE_CHARACTERS
        assert refusal(manager.use, *arguments) == f"{code}: {message[:MAX_MESSAGE_CHARACTERS]}{'...' * long}"
    assert manager.versions(name) == []


@pytest.mark.parametrize("name", ["../m", "ünï cödé", "a:b", "x/y"])
def test_odd_names_can_be_served(tmp_path, name):
    add_versions(tmp_path / "m", 1)
    manager = new_manager(lambda: [ModelConfig(name, str(tmp_path / "m"))])
    manager.start()
    assert latest(manager, name) == 1
    manager.stop()


NUMBERS = st.frozensets(st.integers(1, 5))
POLICIES = st.sampled_from([ALL, VersionPolicy(), VersionPolicy(latest=VersionPolicy.Latest(num_versions=2))])


@given(st.lists(st.tuples(NUMBERS, POLICIES, NUMBERS), min_size=1, max_size=6))
def test_whatever_happens_what_is_wanted_and_loads_is_served(tmp_path_factory, steps):
    """Versions come and go, policies change, loads fail: in the end all that is wanted and loads is available.

    Once something is, something stays so, unless nothing is wanted any more.
    """
    base_path = tmp_path_factory.mktemp("steps")
    loader, config = Loader(), []
    manager = new_manager(lambda: config, loader, retries=0)
    manager._load_pool = manager._unload_pool = Inline()
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
        good = aspired - failed
        if good or not aspired:
            assert served == good
        else:  # nothing that is wanted loads: one of those before goes on
            assert served <= before and len(served) == min(len(before), 1)
        assert set(manager._serving.get("m", {})) - {None} == served
        assert not served or latest(manager) == max(served)
        assert {number for number, loaded in loader.loaded.items() if not loaded.closed} == served
        before = served
