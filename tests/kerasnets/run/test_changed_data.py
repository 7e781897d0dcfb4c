"""Programs on data that have changed since the training, and on run directories with damaged files."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from PIL import Image
from small_runs import small_config

from kerasnets.checks import RequestError
from kerasnets.config.image_networks import ConvNetOptions
from kerasnets.describe import describe
from kerasnets.evaluate import evaluate
from kerasnets.export import export, report_changes
from kerasnets.loading import open_model
from kerasnets.run.lock import locked
from kerasnets.train import train

TASK = "image_classification"


def config(epochs=1):
    quick = small_config(TASK)
    training = dataclasses.replace(quick.training, epochs=epochs, batch_size=4, warmup_steps=0)
    model = ConvNetOptions(filters=(4,))
    return dataclasses.replace(quick, dataset="folder:photos", augmentation=0, model=model, training=training)


def save_image(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 8, 3), value, np.uint8)).save(path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with `photos` of two classes, split into train and test, and a finished `run` on them."""
    folder = tmp_path_factory.mktemp("trained")
    for split, count in (("train", 10), ("test", 3)):
        for n in range(count):
            save_image(folder / "photos" / split / "blue" / f"{n}.png", (n, 0, 200 + n))
            save_image(folder / "photos" / split / "red" / f"{n}.png", (200 + n, 0, n))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        train(TASK, "quick", config(), folder / "run")
    return folder


@pytest.fixture
def copied(trained, tmp_path, monkeypatch):
    """A copy of `trained`, which tests may change; it is the working directory."""
    shutil.copytree(trained, tmp_path / "copied")
    monkeypatch.chdir(tmp_path / "copied")
    return tmp_path / "copied"


def test_every_program_detects_a_renamed_class(copied, capsys):
    for split in ("train", "test"):
        (copied / "photos" / split / "blue").rename(copied / "photos" / split / "zebra")
    (copied / "run" / "metrics.json").unlink()  # as if it had been interrupted
    message = "class 'blue' is now 'zebra'"
    with pytest.raises(
        RequestError, match=f"folder:photos has changed since .*/run was created: {message}; restore the data, or"
    ):
        train(TASK, "quick", config(), copied / "run")
    with pytest.raises(RequestError, match=f"{message}; restore the data or train again"):
        evaluate(copied / "run")
    assert not (copied / "run" / "evaluation-test.json").exists()
    with pytest.raises(
        RequestError, match=f"folder:photos has changed since the training: {message}.*--weights float32"
    ):
        export(copied / "run", copied / "models", storage="int8")
    assert not list((copied / "models" / TASK).iterdir())


def test_an_added_class_and_a_changed_file_are_detected(copied):
    (copied / "run" / "metrics.json").unlink()
    save_image(copied / "photos" / "train" / "red" / "7.png", 9)
    with pytest.raises(RequestError, match=r"was created: 1 file changed \(train/red/7.png\); restore"):
        train(TASK, "quick", config(), copied / "run")
    save_image(copied / "photos" / "train" / "apricot" / "1.png", 9)  # it would get the label of blue
    (copied / "run" / "data.json").unlink()
    with pytest.raises(RequestError, match="class 'apricot' was added"):
        train(TASK, "quick", config(), copied / "run")
    with pytest.raises(RequestError, match="class 'apricot' was added"):
        evaluate(copied / "run")


def test_a_larger_test_split_is_scored_with_a_message(copied, capsys):
    save_image(copied / "photos" / "test" / "red" / "9.png", (209, 0, 9))
    metrics = evaluate(copied / "run")
    message = "1 file was added (test/red/9.png), test has 7 images and had 6"
    assert metrics["examples"] == 7 and metrics["data_changes"] == message
    assert f"folder:photos has changed since the training: {message}." in capsys.readouterr().err
    assert json.loads((copied / "run" / "evaluation-test.json").read_text()) == metrics
    assert "data_changes" not in evaluate(copied / "run", "validation")


@pytest.mark.usefixtures("verify_in_process")
def test_runs_with_missing_or_changed_data_can_be_exported(copied, capsys):
    (copied / "photos" / "train" / "red" / "7.png").unlink()
    version = export(copied / "run", copied / "models")
    message = "1 file was removed (train/red/7.png), validation has 1 image and had 2; the model was"
    assert f"folder:photos has changed since the training: {message}" in capsys.readouterr().err
    assert "7.png" not in (version / "assets.extra" / "data.json").read_text()
    shutil.rmtree(copied / "photos")
    report_changes(open_model(copied / "run").task, copied / "run", measure=False)
    report_changes(open_model(copied / "run").task, copied / "run", measure=True)  # the card will lack its numbers
    assert "has changed" not in capsys.readouterr().err
    (version / "saved_model.pb").write_bytes((version / "saved_model.pb").read_bytes()[:5000])
    with pytest.raises(RequestError, match=r"models/image_classification/1 is damaged or cut off \(.*\); export it"):
        open_model(version)


def test_labels_follow_the_class_names(copied):
    task = open_model(copied / "run").task
    expected = task.data.test[1].tolist()
    file = copied / "run" / "classes.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"classes": ["red", "blue"]}))
    data = open_model(copied / "run").task.data
    assert data.classes == ("red", "blue") and data.test[1].tolist() == [1 - label for label in expected]


def test_only_one_training_runs_in_a_directory(copied):
    (copied / "run" / "metrics.json").unlink()
    with locked(copied / "run"), pytest.raises(RequestError, match=r"another training \(process \d+\) runs in"):
        train(TASK, "quick", config(), copied / "run")
    assert train(TASK, "quick", config(), copied / "run")["steps"] == 4


def test_a_run_resumes_with_overridden_options(copied):
    (copied / "run" / "metrics.json").unlink()
    with pytest.raises(RequestError, match=r"resume with these values: --resume-with training.epochs=2\.$"):
        train(TASK, "quick", config(2), copied / "run")
    metrics = train(TASK, "quick", config(), copied / "run", resume_with={"training.epochs": "2"})
    assert metrics["last"]["epoch"] == 2
    assert (copied / "run" / "calibration.json").exists()
    (copied / "run" / "metrics.json").rename(copied / "metrics.json")
    with pytest.raises(RequestError, match="training.epochs is 1; it must be 2 or more"):
        train(TASK, "quick", config(), copied / "run", resume_with={"training.epochs": "1"})
    (copied / "metrics.json").rename(copied / "run" / "metrics.json")
    assert train(TASK, "quick", config(2), copied / "run")["last"] == metrics["last"]  # config.toml has them now
    log = [json.loads(line) for line in (copied / "run" / "log.jsonl").read_text().splitlines()]
    assert [entry["training.epochs"] for entry in log if entry["kind"] == "options"] == [[1, 2]]


FILES = {
    "config.toml": "config.toml is (cut off|not the configuration of a run)",
    "classes.json": "classes.json is damaged or cut off; put it back from a copy",
    "examples.json": "examples.json is damaged or cut off; put it back from a copy",
    "data.json": "data.json is damaged or cut off; remove it to skip the check",
    "calibration.json": "calibration.json (is damaged|has no temperature).*remove it to disable calibration",
    "metrics.json": "metrics.json is damaged or cut off; remove it and run the train command",
    "evaluation-test.json": "evaluation-test.json is damaged or cut off; remove it and evaluate again",
    "model.keras": "model.keras is damaged or cut off; run the train command again",
}


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_reported_with_a_remedy(copied, name):
    path = copied / "run" / name
    content = path.read_bytes() if path.exists() else b'{"accuracy": 0.5}'
    readers = [lambda: export(copied / "run", copied / "models")]
    if name in ("config.toml", "classes.json", "data.json", "calibration.json", "model.keras"):
        readers.append(lambda: evaluate(copied / "run"))
    if name in ("config.toml", "classes.json"):
        readers.append(lambda: describe(str(copied / "run")))
    if name in ("config.toml", "metrics.json"):
        readers.append(lambda: train(TASK, "quick", config(), copied / "run"))
    for damaged in (content[: len(content) // 2], b""):
        path.write_bytes(damaged)
        for read in readers:
            with pytest.raises(RequestError, match=FILES[name]):
                read()
    if name == "model.keras":  # follow the message
        train(TASK, "quick", config(), copied / "run")
        assert evaluate(copied / "run")["examples"] == 6
