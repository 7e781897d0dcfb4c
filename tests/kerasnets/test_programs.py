"""The four programs: what they write, what they refuse, and how."""

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
from small_runs import ROOT, TASKS, small

from kerasnets.checks import RequestError
from kerasnets.evaluate import evaluate, table
from kerasnets.predict import main as predict_program
from kerasnets.predict import predict
from kerasnets.run import config_file
from kerasnets.run.examples import load
from kerasnets.tasks.presets import load_preset
from kerasnets.train import train

CONTRACT = {"task", "preset", "dataset", "splits", "parameters", "seed", "steps", "seconds", "examples_per_second"}
CONTRACT |= {"data_wait", "best", "last", "packages"}


def run_program(*arguments: str, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    command, env = [sys.executable, "-m", *arguments], os.environ | environment
    return subprocess.run(
        command, cwd=ROOT, input=stdin, env=env, capture_output=True, text=True, check=False, timeout=600
    )


@pytest.mark.parametrize("task", TASKS)
def test_a_run_directory_keeps_the_contract(runs, task):
    run = runs[task]
    metrics = json.loads((run / "metrics.json").read_text())
    assert set(metrics) >= CONTRACT
    assert metrics["task"] == task and metrics["steps"] > 0 and 0 <= metrics["data_wait"] < 1
    assert metrics["packages"]["tensorflow"].startswith("2.")
    assert metrics["splits"]["train"] > metrics["splits"]["validation"] > 0
    assert re.match(
        r"[\d,]+ (images in 10 classes \(0 178|characters in|pairs of sentences)", metrics["splits"]["read"]
    )
    assert metrics["splits"]["left_out"] == {}
    assert {path.name for path in run.iterdir()} >= {
        "config.toml", "metrics.json", "log.jsonl", "checkpoints", "logs", "model.keras", "examples.json",
    }  # fmt: skip
    values = tomllib.loads((run / "config.toml").read_text())
    assert values["task"] == task
    assert config_file.load(run / "config.toml")[2] == small(task)
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    losses = [entry["loss"] for entry in log if entry["kind"] == "training"]
    assert losses[-1] < losses[0]
    assert list((run / "logs").glob("events*"))


def test_each_task_learns(runs):
    def last(task):
        return json.loads((runs[task] / "metrics.json").read_text())["best"]

    assert last("image_classification")["accuracy"] > 0.93
    assert last("text_generation")["loss"] < 2.6  # 4.6 is chance among a hundred characters
    assert last("translation")["loss"] < 3.0  # 6.4 is chance among six hundred subwords


def test_training_a_finished_run_again_changes_nothing(runs):
    before = (runs["image_classification"] / "metrics.json").read_bytes()
    metrics = train("image_classification", "quick", small("image_classification"), runs["image_classification"])
    assert metrics == json.loads(before)
    assert (runs["image_classification"] / "metrics.json").read_bytes() == before


def test_a_run_directory_of_another_task_or_with_other_options_is_refused(runs):
    with pytest.raises(RequestError, match="holds a run of translation, not of text_generation"):
        train("text_generation", "quick", small("text_generation"), runs["translation"])
    with pytest.raises(RequestError, match="model.width was 64 and is now 96"):
        train("translation", "quick", load_preset("translation", "quick"), runs["translation"])


def test_a_directory_with_other_files_is_not_taken(tmp_path):
    (tmp_path / "diary.txt").write_text("mine")
    with pytest.raises(RequestError, match="holds files but no run"):
        train("translation", "quick", small("translation"), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["diary.txt"]


@pytest.fixture(scope="module")
def scored(runs):
    """`scored(task)`: the metrics of its run on the test split."""
    return functools.cache(lambda task: evaluate(runs[task], "test"))


@pytest.mark.parametrize("task", TASKS)
def test_evaluation_of_a_run(runs, scored, task):
    metrics = scored(task)
    assert json.loads((runs[task] / "evaluation-test.json").read_text()) == metrics
    lines = table(metrics)
    if task == "image_classification":
        confusion = np.array(metrics["confusion_matrix"])
        assert confusion.sum() == metrics["examples"]
        assert confusion.trace() / confusion.sum() == pytest.approx(metrics["accuracy"])
        assert "confusion matrix" in lines
    elif task == "text_generation":
        assert metrics["bits_per_character"] == pytest.approx(metrics["loss"] / np.log(2))
        assert re.match(r"characters [\d,]+ to [\d,]+ of [\d,]+", metrics["scored"])
        assert metrics["window_loss"] > 0
    else:
        assert 0 <= metrics["bleu"] <= 100 and 0 < metrics["chrf"] <= 100
        assert "tok:13a" in metrics["bleu_signature"] and "case:mixed" in metrics["bleu_signature"]


@pytest.mark.parametrize("task", ["image_classification", "translation"])
def test_a_saved_model_scores_as_its_run(scored, models_dir, task):
    of_run, of_export = scored(task), evaluate(models_dir / task / "1", "test")
    name = "accuracy" if task == "image_classification" else "bleu"
    assert of_export[name] == of_run[name]
    assert not (models_dir / task / "1" / "evaluation-test.json").exists()


def test_sentences_that_the_model_refuses_are_counted_and_not_fatal(runs, monkeypatch):
    from kerasnets.data.splits import PairSplits
    from kerasnets.loading import open_model

    opened = open_model(runs["translation"])
    pairs = ["twenty-three", "one " * 500, " "], ["dreiundzwanzig", "eins " * 500, ""]
    opened.task.data = PairSplits(pairs, pairs, pairs, "three pairs")
    metrics = opened.task.evaluate(opened.signatures, "test", opened.model)
    assert metrics["sentences"] == 3 and metrics["refused"] == 2
    assert opened.task.examples() == [{"text": "twenty-three"}]


def test_predictions(runs, models_dir, tmp_path):
    import tensorflow as tf

    picture = tmp_path / "digit.png"
    picture.write_bytes(load(runs["image_classification"] / "examples.json")[3]["image_bytes"])
    (answer,) = predict(models_dir / "image_classification" / "1", [str(picture)])
    assert answer.split("\t")[1].startswith("3 ")
    (answer,) = predict(runs["text_generation"], ["The "])
    assert answer.startswith("The ") and len(answer) == 204
    assert list(predict(models_dir / "text_generation" / "1", ["The "])) == [answer]
    assert len(list(predict(runs["translation"], ["twenty-three", "Monday"]))) == 2
    assert tf.config.list_physical_devices("CPU")


def test_what_is_refused_does_not_stop_the_others(runs, models_dir, tmp_path, monkeypatch, capsys):
    """A line out for each line in, in every task; what is refused is told with its number."""

    def answers(task, stdin=b"", inputs=()):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        with pytest.raises(RequestError) as error:
            predict_program([str(models_dir / task / "1"), *inputs])
        printed = capsys.readouterr()
        told = [line for line in printed.err.splitlines() if line.startswith(("line", "input"))]
        return printed.out.split("\n")[:-1], told, str(error.value)

    expected = list(predict(models_dir / "translation" / "1", ["twenty-three", "forty-two"]))
    stdin = b"\xef\xbb\xbftwenty-three\r\n\nforty-two\ncaf\xe9\n" + b"one " * 1000 + b"\nforty-two"
    lines, told, end = answers("translation", stdin)
    assert lines == [expected[0], "", expected[1], "", "", expected[1]]
    assert told[:2] == [
        "line 2 ('') is refused: it is empty; give at least one character",
        "line 4 ('caf\\udce9') is refused: it is not UTF-8; encode it as UTF-8",
    ]
    assert told[2].startswith("line 5 ('one one") and len(told[2]) < 300 and len(told) == 3
    assert end == "3 of 6 inputs had no answer."

    lines, told, end = answers("text_generation", b"The \n\nFor ")
    assert len(lines) == 3 and lines[0].startswith("The ") and lines[2].startswith("For ") and lines[1] == ""
    assert len(told) == 1 and "line 2 ('') is refused" in told[0]

    good, bad = tmp_path / "digit.png", tmp_path / "bad.png"
    good.write_bytes(load(runs["image_classification"] / "examples.json")[3]["image_bytes"])
    bad.write_text("no image")
    lines, told, end = answers("image_classification", inputs=[str(bad), str(good), str(tmp_path / "none.png")])
    assert lines[0] == lines[2] == "" and lines[1].split("\t")[1].startswith("3 ")
    assert "input 1 " in told[0] and "is refused: it is no PNG, JPEG, GIF, BMP or WebP file" in told[0]
    assert "input 3 is refused" in told[1] and "cannot be read (No such file or directory)" in told[1]


WRONG = {
    "no task": (["kerasnets.train"], "name the task to train"),
    "unknown task": (["kerasnets.train", "poetry"], "choose one of image_classification, text_generation, translation"),
    "unknown preset": (
        ["kerasnets.train", "translation", "--preset", "huge"],
        "choose one of base, big, lstm, quick, tiny",
    ),
    "unknown strategy": (["kerasnets.train", "translation", "--strategy=tpu"], "auto, mirrored, one_device"),
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
    "no split": (["kerasnets.evaluate", "nowhere", "--split", "dev"], "choose one of test, train, validation"),
    "no model": (["kerasnets.export", "tests"], "has no config.toml"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_request_is_one_sentence_and_status_2(case):
    arguments, text = WRONG[case]
    done = run_program(*arguments)
    assert done.returncode == 2, done.stderr
    assert text in done.stderr and "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.slow
def test_missing_data_is_one_sentence_and_leaves_nothing(tmp_path):
    run = tmp_path / "run"
    done = run_program(
        "kerasnets.train", "translation", "--dataset", "no_such_set", "--data-dir", str(tmp_path), "--run-dir", str(run)
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "no_such_set" in done.stderr and "cldr" in done.stderr
    assert not run.exists()


@pytest.mark.slow
def test_the_command_line_from_end_to_end(tmp_path):
    """For a user who has other defaults for Keras, which the programs do not use."""
    defaults = {"backend": "jax", "image_data_format": "channels_first", "floatx": "float64", "epsilon": 0.1}
    (tmp_path / "keras.json").write_text(json.dumps(defaults))
    keras = {"KERAS_HOME": str(tmp_path), "KERAS_BACKEND": ""}
    run, models = str(tmp_path / "run"), str(tmp_path / "models")
    options = ["--preset", "quick", "--run-dir", run, "--training.epochs=2"]
    done = run_program("kerasnets.train", "image_classification", *options, **keras)
    assert done.returncode == 0, done.stderr
    assert "epoch 2/2" in done.stderr and "accuracy" in done.stderr and "left" in done.stderr
    assert json.loads(Path(run, "metrics.json").read_text())["steps"] == 44
    done = run_program("kerasnets.evaluate", run, "--split", "validation", **keras | {"KERAS_BACKEND": "torch"})
    assert done.returncode == 0 and "accuracy" in done.stdout, done.stderr
    assert "KERAS_BACKEND is torch; this program needs tensorflow" in done.stderr
    done = run_program("kerasnets.export", run, "--models-dir", models, **keras)
    assert done.returncode == 0 and "exported and verified" in done.stdout, done.stderr


@pytest.mark.usefixtures("verified_here")
def test_dry_run_tries_everything_and_leaves_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train("image_classification", "quick", small("image_classification"), Path("run"), dry_run=True)
    printed, told = capsys.readouterr()
    assert "read 1,797 images in 10 classes (0 178, 1 182, " in told and "train 1,445, validation 176, test 176" in told
    for line in ("parameters", "later steps", "memory", "exported and verified", "validation accuracy"):
        assert line in printed
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_run_goes_on_and_ends_as_if_nothing_had_been(tmp_path, runs):
    """The LSTM's states, dropout and the order of the data go on exactly; see test_training for the bits."""
    import kerasnets.training.loop as loop

    whole = runs["image_classification"]
    run = tmp_path / "run"
    save, calls = loop.Trainer.save, []

    def save_and_fail(self, checkpoints, step):
        save(self, checkpoints, step)
        calls.append(step)
        if len(calls) == 5:
            raise KeyboardInterrupt

    loop.Trainer.save = save_and_fail
    try:
        with pytest.raises(KeyboardInterrupt):
            train("image_classification", "quick", small("image_classification"), run)
    finally:
        loop.Trainer.save = save
    assert not (run / "metrics.json").exists()
    metrics = train("image_classification", "quick", small("image_classification"), run)
    expected = json.loads((whole / "metrics.json").read_text())
    assert metrics["best"] == expected["best"] and metrics["last"] == expected["last"]
    shutil.rmtree(run)
