"""The programs train, evaluate, export and predict: their files, outputs and error messages."""

import functools
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from small_runs import ROOT, TASKS, small_config

from kerasnets.checks import RequestError
from kerasnets.evaluate import evaluate, format_example, table
from kerasnets.predict import main as predict_program
from kerasnets.predict import predict
from kerasnets.run import config_file
from kerasnets.run.examples import load
from kerasnets.tasks.presets import load_preset
from kerasnets.train import train

METRIC_NAMES = {"task", "preset", "dataset", "splits", "parameters", "seed", "steps", "seconds", "examples_per_second"}
METRIC_NAMES |= {"data_wait", "best", "last", "packages"}


def run_program(*arguments: str, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    command, env = [sys.executable, "-m", *arguments], os.environ | environment
    return subprocess.run(
        command, cwd=ROOT, input=stdin, env=env, capture_output=True, text=True, check=False, timeout=600
    )


@pytest.mark.parametrize("task", TASKS)
def test_files_and_metrics_of_a_run_directory(runs, task):
    run = runs[task]
    metrics = json.loads((run / "metrics.json").read_text())
    assert set(metrics) >= METRIC_NAMES
    assert metrics["task"] == task and metrics["steps"] > 0 and 0 <= metrics["data_wait"] < 1
    assert metrics["packages"]["tensorflow"].startswith("2.")
    assert metrics["splits"]["train"] > metrics["splits"]["validation"] > 0
    assert re.match(
        r"[\d,]+ (images in 10 classes \(0 178|characters in|pairs of sentences)", metrics["splits"]["read"]
    )
    assert metrics["splits"]["left_out"] == {}
    assert {path.name for path in run.iterdir()} >= {
        "config.toml", "metrics.json", "log.jsonl", "checkpoints", "logs", "model.keras", "examples.json", "curves.png",
    }  # fmt: skip
    values = tomllib.loads((run / "config.toml").read_text())
    assert values["task"] == task
    assert config_file.load(run / "config.toml")[2] == small_config(task)
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    losses = [entry["loss"] for entry in log if entry["kind"] == "training"]
    assert losses[-1] < losses[0]
    assert list((run / "logs").glob("events*"))


def test_each_task_learns(runs):
    def best(task):
        return json.loads((runs[task] / "metrics.json").read_text())["best"]

    assert best("image_classification")["accuracy"] > 0.93
    assert best("text_generation")["loss"] < 2.6  # chance is 4.6, for a hundred characters
    assert best("translation")["loss"] < 3.0  # chance is 6.4, for six hundred subwords


def test_training_a_finished_run_again_changes_nothing(runs):
    before = (runs["image_classification"] / "metrics.json").read_bytes()
    metrics = train("image_classification", "quick", small_config("image_classification"), runs["image_classification"])
    assert metrics == json.loads(before)
    assert (runs["image_classification"] / "metrics.json").read_bytes() == before


def test_a_run_of_another_task_or_with_other_options_is_rejected(runs):
    with pytest.raises(RequestError, match="holds a run of translation, not of text_generation"):
        train("text_generation", "quick", small_config("text_generation"), runs["translation"])
    with pytest.raises(RequestError, match="model.width was 64 and is now 96"):
        train("translation", "quick", load_preset("translation", "quick"), runs["translation"])


def test_a_directory_with_other_files_is_rejected(tmp_path):
    (tmp_path / "diary.txt").write_text("private")
    with pytest.raises(RequestError, match="holds files but no run"):
        train("translation", "quick", small_config("translation"), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["diary.txt"]


@pytest.fixture(scope="module")
def evaluate_run(runs):
    """`evaluate_run(task)`: the metrics of a task's run on the test split, computed once."""
    return functools.cache(lambda task: evaluate(runs[task], "test"))


@pytest.mark.parametrize("task", TASKS)
def test_evaluation_of_a_run(runs, evaluate_run, task):
    metrics = evaluate_run(task)
    assert json.loads((runs[task] / "evaluation-test.json").read_text()) == metrics
    lines = table(metrics)
    files = sorted(path.name for path in runs[task].glob("*-test.*"))
    page = (runs[task] / "worst-test.md").read_text("utf-8")
    assert page.count("\n## ") == len(metrics["worst_examples"]) > 3
    printed = [format_example(example) in lines for example in metrics["worst_examples"]]
    assert printed[:3] == [True] * 3 and not any(printed[3:])
    if task == "image_classification":
        confusion = np.array(metrics["confusion_matrix"])
        assert confusion.sum() == metrics["examples"]
        assert confusion.trace() / confusion.sum() == pytest.approx(metrics["accuracy"])
        assert "confusion matrix" in lines
        assert files == ["confusion-test.png", "evaluation-test.json", "worst-test.md", "worst-test.png"]
    elif task == "text_generation":
        assert metrics["bits_per_character"] == pytest.approx(metrics["loss"] / np.log(2))
        assert re.match(r"characters [\d,]+ to [\d,]+ of [\d,]+", metrics["scored"])
        assert metrics["window_loss"] > 0
        losses = [example["loss"] for example in metrics["worst_examples"]]
        assert losses == sorted(losses, reverse=True) and losses[0] > metrics["window_loss"]
        assert files == ["evaluation-test.json", "worst-test.md"]
    else:
        assert 0 <= metrics["bleu"] <= 100 and 0 < metrics["chrf"] <= 100
        assert "tok:13a" in metrics["bleu_signature"] and "case:mixed" in metrics["bleu_signature"]
        assert sum(b["sentences"] for b in metrics["length_bins"]) == metrics["sentences"]
        assert files == ["evaluation-test.json", "lengths-test.png", "worst-test.md"]


@pytest.mark.parametrize("task", ["image_classification", "translation"])
def test_a_saved_model_scores_as_its_run(evaluate_run, models_dir, task):
    of_run, of_export = evaluate_run(task), evaluate(models_dir / task / "1", "test")
    name = "accuracy" if task == "image_classification" else "bleu"
    assert of_export[name] == of_run[name]
    assert not list((models_dir / task / "1").glob("*-test.*"))


def test_evaluation_counts_sentences_that_the_model_rejects(runs, monkeypatch):
    from kerasnets.data.splits import PairSplits
    from kerasnets.loading import open_model

    loaded = open_model(runs["translation"])
    pairs = ["twenty-three", "one " * 500, " "], ["dreiundzwanzig", "eins " * 500, ""]
    loaded.task.data = PairSplits(pairs, pairs, pairs, "three pairs")
    metrics = loaded.task.evaluate(loaded.signatures, "test", loaded.model)
    assert metrics["sentences"] == 3 and metrics["refused"] == 2
    assert [example["source"] for example in metrics["worst_examples"]] == ["twenty-three"]
    assert loaded.task.examples() == [{"text": "twenty-three"}]


def test_predictions(runs, models_dir, tmp_path):
    import tensorflow as tf

    image = tmp_path / "digit.png"
    image.write_bytes(load(runs["image_classification"] / "examples.json")[3]["image_bytes"])
    (prediction,) = predict(models_dir / "image_classification" / "1", [str(image)])
    assert prediction.split("\t")[1].startswith("3 ")
    (prediction,) = predict(runs["text_generation"], ["The "])
    assert prediction.startswith("The ") and len(prediction) == 204
    assert list(predict(models_dir / "text_generation" / "1", ["The "])) == [prediction]
    assert len(list(predict(runs["translation"], ["twenty-three", "Monday"]))) == 2
    assert tf.config.list_physical_devices("CPU")


@pytest.mark.parametrize("task", TASKS)
def test_explanations_of_runs_and_saved_models(runs, models_dir, task, tmp_path, capsys):
    value = "twenty-three"
    if task == "image_classification":
        image = tmp_path / "digit.png"
        image.write_bytes(load(runs[task] / "examples.json")[3]["image_bytes"])
        value = str(image)
    saved_model = models_dir / task / "1"
    (prediction,) = predict(saved_model, [value])
    first_bytes = {"a.png": b"\x89PNG", "b.SVG": b"<?xml"}
    for path, name in zip((runs[task], saved_model), first_bytes, strict=True):
        picture = tmp_path / "pictures" / name
        picture.parent.mkdir(exist_ok=True)
        picture.write_text("an older picture")
        predict_program([str(path), value, f"--explain={picture}"])
        assert picture.read_bytes().startswith(first_bytes[name])
        assert capsys.readouterr().out == f"{prediction}\n"
    assert {path.name for path in (tmp_path / "pictures").iterdir()} == set(first_bytes)


def test_a_rejected_input_leaves_the_older_picture(models_dir, tmp_path):
    picture = tmp_path / "a.png"
    picture.write_text("an older picture")
    for task, value, reason in (
        ("translation", "one " * 1000, "the input ('one one .*: it is"),
        ("text_generation", "", "the input ('') is rejected: it is empty"),
        ("image_classification", str(picture), "is rejected: it is not a PNG"),
        ("image_classification", "no such file", "the input is rejected: no such file cannot be read"),
    ):
        with pytest.raises(RequestError, match=reason.replace("(", r"\(").replace(")", r"\)")):
            predict_program([str(models_dir / task / "1"), value, f"--explain={picture}"])
    assert picture.read_text() == "an older picture"


def test_rejected_inputs_do_not_stop_the_others(runs, models_dir, tmp_path, monkeypatch, capsys):
    """Every task prints a line for each input line; errors have the number of the input."""

    def run(task, stdin=b"", inputs=()):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        with pytest.raises(RequestError) as error:
            predict_program([str(models_dir / task / "1"), *inputs])
        printed = capsys.readouterr()
        errors = [line for line in printed.err.splitlines() if line.startswith(("line", "input"))]
        return printed.out.split("\n")[:-1], errors, str(error.value)

    expected = list(predict(models_dir / "translation" / "1", ["twenty-three", "forty-two"]))
    stdin = b"\xef\xbb\xbftwenty-three\r\n\nforty-two\ncaf\xe9\n" + b"one " * 1000 + b"\nforty-two"
    lines, errors, end = run("translation", stdin)
    assert lines == [expected[0], "", expected[1], "", "", expected[1]]
    assert errors[:2] == [
        "line 2 ('') is rejected: it is empty; give at least one character",
        "line 4 ('caf\\udce9') is rejected: it is not UTF-8; encode it as UTF-8",
    ]
    assert errors[2].startswith("line 5 ('one one") and len(errors[2]) < 300 and len(errors) == 3
    assert end == "3 of 6 inputs were rejected."

    lines, errors, end = run("text_generation", b"The \n\nFor ")
    assert len(lines) == 3 and lines[0].startswith("The ") and lines[2].startswith("For ") and lines[1] == ""
    assert len(errors) == 1 and "line 2 ('') is rejected" in errors[0]

    good, bad = tmp_path / "digit.png", tmp_path / "bad.png"
    good.write_bytes(load(runs["image_classification"] / "examples.json")[3]["image_bytes"])
    bad.write_text("not an image")
    lines, errors, end = run("image_classification", inputs=[str(bad), str(good), str(tmp_path / "none.png")])
    assert lines[0] == lines[2] == "" and lines[1].split("\t")[1].startswith("3 ")
    assert "input 1 " in errors[0] and "is rejected: it is not a PNG, JPEG, GIF, BMP or WebP file" in errors[0]
    assert "input 3 is rejected" in errors[1] and "cannot be read (No such file or directory)" in errors[1]


WRONG = {
    "no task": (["kerasnets.train"], "name the task to train"),
    "unknown task": (["kerasnets.train", "poetry"], "choose one of image_classification, text_generation, translation"),
    "unknown preset": (
        ["kerasnets.train", "translation", "--preset", "huge"],
        "choose one of base, big, lstm, quick, tiny",
    ),
    "unknown strategy": (["kerasnets.train", "translation", "--strategy=tpu"], "mirrored, multi_worker, one_device"),
    "unknown option": (["kerasnets.train", "translation", "--model.layers", "2"], "unrecognized arguments"),
    "wrong type": (["kerasnets.train", "translation", "--seed", "first"], "seed"),
    "out of range": (["kerasnets.train", "translation", "--training.epochs", "0"], "must be 1 or more"),
    "option first": (["kerasnets.train", "--seed", "x", "translation"], "seed"),
    "no heads": (["kerasnets.train", "translation", "--model.num-heads", "0"], "model.num_heads is 0; it must be 1"),
    "dropout": (["kerasnets.train", "text_generation", "--model.dropout", "1.5"], "it must be in [0, 1)"),
    "sequence": (["kerasnets.train", "text_generation", "--sequence-length", "0"], "sequence_length is 0"),
    "file as run": (["kerasnets.train", "translation", "--run-dir", "README.md"], "README.md is a file"),
    "heads": (["kerasnets.train", "translation", "--model.num-heads", "5"], "multiple of model.num_heads"),
    "no run": (["kerasnets.evaluate", "nowhere"], "there is no directory nowhere"),
    "not a run": (["kerasnets.predict", "tests"], "neither a SavedModel nor a run directory"),
    "two pictures": (["kerasnets.predict", "tests", "a", "b", "--explain=a.png"], "draws one input, and 2 are given"),
    "no picture": (["kerasnets.predict", "tests", "a", "--explain=a.tar"], "'a.tar'; its suffix must be one of ."),
    "no folder": (["kerasnets.predict", "tests", "a", "--explain=no/a.png"], "there is no directory no; create it"),
    "no split": (["kerasnets.evaluate", "nowhere", "--split", "dev"], "choose one of test, train, validation"),
    "no model": (["kerasnets.export", "tests"], "has no config.toml"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_request_is_a_one_line_error_with_status_2(case):
    arguments, text = WRONG[case]
    process = run_program(*arguments)
    assert process.returncode == 2, process.stderr
    assert text in process.stderr and "Traceback" not in process.stderr
    assert len(process.stderr.splitlines()) == 1


@pytest.mark.slow
def test_missing_data_is_an_error_and_creates_no_run(tmp_path):
    run = tmp_path / "run"
    process = run_program(
        "kerasnets.train", "translation", "--dataset", "no_such_set", "--data-dir", str(tmp_path), "--run-dir", str(run)
    )
    assert process.returncode == 2 and "Traceback" not in process.stderr
    assert "no_such_set" in process.stderr and "cldr" in process.stderr
    assert not run.exists()


@pytest.mark.slow
def test_train_evaluate_and_export_with_other_keras_defaults(tmp_path):
    """The programs ignore the user's own defaults for Keras."""
    defaults = {"backend": "jax", "image_data_format": "channels_first", "floatx": "float64", "epsilon": 0.1}
    (tmp_path / "keras.json").write_text(json.dumps(defaults))
    environment = {"KERAS_HOME": str(tmp_path), "KERAS_BACKEND": ""}
    run, models = str(tmp_path / "run"), str(tmp_path / "models")
    options = ["--preset", "quick", "--run-dir", run, "--training.epochs=2"]
    process = run_program("kerasnets.train", "image_classification", *options, **environment)
    assert process.returncode == 0, process.stderr
    assert "epoch 2/2" in process.stderr and "accuracy" in process.stderr and "left" in process.stderr
    assert json.loads(Path(run, "metrics.json").read_text())["steps"] == 44
    process = run_program(
        "kerasnets.evaluate", run, "--split", "validation", **environment | {"KERAS_BACKEND": "torch"}
    )
    assert process.returncode == 0 and "accuracy" in process.stdout, process.stderr
    assert "KERAS_BACKEND is torch; this program needs tensorflow" in process.stderr
    process = run_program("kerasnets.export", run, "--models-dir", models, **environment)
    assert process.returncode == 0 and "exported and verified" in process.stdout, process.stderr


@pytest.mark.usefixtures("verify_in_process")
def test_a_dry_run_includes_an_export_and_leaves_no_files(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train("image_classification", "quick", small_config("image_classification"), Path("run"), dry_run=True)
    printed, errors = capsys.readouterr()
    assert "read 1,797 images in 10 classes (0 178, 1 182, " in errors
    assert "train 1,445, validation 176, test 176" in errors
    for line in ("parameters", "later steps", "peak memory", "exported and verified", "validation accuracy"):
        assert line in printed
    assert re.search(r"^training.epochs +12 +command line$", printed, re.MULTILINE)
    assert re.search(r"^training.batch_size +64 +preset quick$", printed, re.MULTILINE)
    assert re.search(r"^estimated run +\d+:\d\d: \d+:\d\d for 12 epochs, \d+:\d\d for their", printed, re.MULTILINE)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_run_resumes_with_the_same_result(tmp_path, runs, monkeypatch):
    """See test_training for bit-for-bit equality, with an LSTM's states and dropout."""
    import kerasnets.training.loop as loop

    uninterrupted = runs["image_classification"]
    run = tmp_path / "run"
    save, calls = loop.Loop.save, []

    def save_and_fail(self, step):
        save(self, step)
        calls.append(step)
        if len(calls) == 5:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop.Loop, "save", save_and_fail)
        with pytest.raises(KeyboardInterrupt):
            train("image_classification", "quick", small_config("image_classification"), run)
    assert not (run / "metrics.json").exists()
    metrics = train("image_classification", "quick", small_config("image_classification"), run)
    expected = json.loads((uninterrupted / "metrics.json").read_text())
    assert metrics["best"] == expected["best"] and metrics["last"] == expected["last"]
    shutil.rmtree(run)
