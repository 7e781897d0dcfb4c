"""The files of a run directory: written atomically, and rejected with a message if they are damaged."""

import errno
import json
import zipfile

import pytest

from kerasnets.checks import RequestError
from kerasnets.run import config_file
from kerasnets.run import files as run_files
from kerasnets.run.files import RESULTS, check_json, check_model, is_intact_model, read_json, write
from kerasnets.tasks.presets import load_preset


def test_write_is_atomic(tmp_path, monkeypatch):
    path = tmp_path / "classes.json"
    write(path, "before")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(run_files.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write(path, "after")
    assert path.read_text() == "before"
    assert [entry.name for entry in tmp_path.iterdir()] == ["classes.json"]


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("classes.json", "put it back from a copy, or train again with another --run-dir."),
        ("metrics.json", "remove it and run the train command again, which rewrites it."),
        ("evaluation-test.json", "remove it and evaluate again."),
        ("calibration.json", "remove it to disable calibration."),
    ],
)
def test_truncated_json_is_rejected(tmp_path, name, remedy):
    text = json.dumps({"classes": ["blau", "grün"], "shape": [8, 8, 3]}, ensure_ascii=False).encode()
    for length in range(len(text)):
        (tmp_path / name).write_bytes(text[:length])
        with pytest.raises(RequestError, match=rf"{name} is damaged or cut off; {remedy}"):
            read_json(tmp_path / name)
    (tmp_path / name).unlink()
    with pytest.raises(RequestError, match=rf"{name} is missing; {remedy}"):
        read_json(tmp_path / name)


def test_required_files_must_exist_and_all_files_be_valid_json(tmp_path):
    with pytest.raises(RequestError, match=r"characters.json is missing"):
        check_json(tmp_path, ["characters.json"])
    (tmp_path / "characters.json").write_text("{}")
    check_json(tmp_path, ["characters.json"], RESULTS)
    with pytest.raises(RequestError, match=r"examples.json is missing"):
        check_json(tmp_path, ["characters.json", "examples.json"])
    (tmp_path / "evaluation-train.json").write_text('{"loss": 1.')
    with pytest.raises(RequestError, match=r"evaluation-train.json is damaged"):
        check_json(tmp_path, ["characters.json"], RESULTS)


def test_damaged_models_are_rejected(tmp_path):
    path = tmp_path / "model.keras"
    assert not is_intact_model(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model.weights.h5", bytes(range(256)))
    intact = path.read_bytes()
    check_model(path)
    changed = intact[:100] + b"x" + intact[101:]
    for damaged in (b"", intact[:20], intact[: len(intact) // 2], intact[:-1], changed):
        path.write_bytes(damaged)
        with pytest.raises(RequestError, match="model.keras is damaged or cut off; run the train command again"):
            check_model(path)


def test_a_truncated_configuration_is_not_completed_with_defaults(tmp_path):
    path = tmp_path / "config.toml"
    config_file.save(path, "translation", "quick", load_preset("translation", "quick"))
    text = path.read_text()
    for length in [*range(0, text.index("[model]"), 7), *range(text.index("[model]"), len(text))]:
        if length and text[length - 1] == "\n" and "[model]\n" in text[:length]:
            continue  # the end of an option of the network: that others followed cannot be detected
        path.write_text(text[:length])
        with pytest.raises(RequestError, match=r"config.toml is (cut off|not the configuration of a run)"):
            config_file.load(path)
