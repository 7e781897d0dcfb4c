"""Version labels: which versions they may point to, and look-ups by label."""

import pytest
from manager_helpers import add_versions, new_manager, states, status_error
from serving_helpers import wait_until

from serving.models.storage import ModelConfig, ModelServerConfig, VersionPolicy, configured_models
from serving.settings.flags import Flags

ALL = VersionPolicy(all=VersionPolicy.All())


def config(path, **labels):
    result = ModelServerConfig()
    model = result.model_config_list.config.add(
        name="m", base_path=str(path), model_platform="tensorflow", model_version_policy=ALL
    )
    model.version_labels.update(labels)
    return result


def unavailable(number):
    return (
        f"FAILED_PRECONDITION: Request to assign label to version {number} of model m, "
        "which is not currently available for inference"
    )


@pytest.fixture
def make_manager(tmp_path):
    """make_manager(free_labels, **labels) -> a started manager of versions 1 and 2 of `m`."""
    managers = []

    def make_manager(free_labels=False, **labels):
        path = str(add_versions(tmp_path / "m", 1, 2))
        models = [ModelConfig("m", path, ALL, labels)]
        managers.append(new_manager(lambda: models, free_labels=free_labels))
        managers[-1].start()
        wait_until(lambda: states(managers[-1]) == {1: "AVAILABLE", 2: "AVAILABLE"})
        return managers[-1]

    yield make_manager
    for manager in managers:
        manager.stop()


def labelled_version(manager, label):
    with manager.use("m", None, label) as version:
        return version.number


def test_requests_find_versions_by_label(make_manager):
    manager = make_manager(stable=1, canary=2, gone=9)
    assert (labelled_version(manager, "stable"), labelled_version(manager, "canary")) == (1, 2)
    assert (manager.labels("m"), manager.labels("unknown")) == ({"stable": 1, "canary": 2, "gone": 9}, {})
    assert status_error(manager.use, "m", None, "gone") == "NOT_FOUND: Servable not found for request: Specific(m, 9)"
    for name in ("m", "unknown"):
        expected = "INVALID_ARGUMENT: Unrecognized servable version label: nope"
        assert status_error(manager.use, name, None, "nope") == expected
    assert status_error(manager.use, "m", None, "") == "INVALID_ARGUMENT: Unrecognized servable version label: "


def test_first_configuration_rejects_labels(tmp_path):
    file = tmp_path / "models.config"
    file.write_text(str(config("/m", stable=1)))
    assert status_error(configured_models, Flags(model_config_file=str(file))) == unavailable(1)
    flags = Flags(model_config_file=str(file), allow_version_labels_for_unavailable_models=True)
    assert configured_models(flags)[0].labels == {"stable": 1}


def test_labels_point_to_available_versions(make_manager, tmp_path):
    manager = make_manager(stable=1)
    assert status_error(manager.reload, config(tmp_path / "m", stable=3)) == unavailable(3)
    assert labelled_version(manager, "stable") == 1
    manager.reload(config(tmp_path / "m", stable=2, old=1))
    assert (labelled_version(manager, "stable"), labelled_version(manager, "old")) == (2, 1)


def test_new_labels_may_point_anywhere_if_allowed(make_manager, tmp_path):
    manager = make_manager(True, stable=1, future=8)
    manager.reload(config(tmp_path / "m", stable=1, future=8, canary=9))
    assert status_error(manager.use, "m", None, "canary") == "NOT_FOUND: Servable not found for request: Specific(m, 9)"
    assert status_error(manager.reload, config(tmp_path / "m", stable=9)) == unavailable(9)  # it is in use
    assert labelled_version(manager, "stable") == 1
    manager.reload(config(tmp_path / "m", stable=2))
    assert labelled_version(manager, "stable") == 2


def test_reload_replaces_all_labels(make_manager, tmp_path):
    manager = make_manager(stable=1, canary=2)
    manager.reload(config(tmp_path / "m", canary=1))
    assert labelled_version(manager, "canary") == 1
    assert status_error(manager.use, "m", None, "stable").endswith("Unrecognized servable version label: stable")
    manager.reload(config(tmp_path / "m"))
    assert status_error(manager.use, "m", None, "canary").endswith("Unrecognized servable version label: canary")


def test_label_moves_to_a_loaded_version(make_manager, tmp_path):
    manager = make_manager(stable=2)
    add_versions(tmp_path / "m", 3)
    wait_until(lambda: states(manager).get(3) == "AVAILABLE")
    manager.reload(config(tmp_path / "m", stable=3))
    assert labelled_version(manager, "stable") == 3
