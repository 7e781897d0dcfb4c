"""Exported models in programs without kerasnets: Keras, TensorFlow's command line, Apache Beam."""

import json
import os
import re
import shlex
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from small_runs import ROOT

BEAM = ROOT / ".venv-beam" / "bin" / "python"


@pytest.fixture(scope="module")
def translate(models_dir):
    model = tf.saved_model.load(str(models_dir / "translation" / "1"))
    return lambda *lines: model.signatures["serving_default"](text=tf.constant(lines))


# keras.layers.TFSMLayer


def test_a_signature_is_a_frozen_layer_in_a_keras_model(models_dir):
    from kerasnets.data.sources import load_images

    digits = load_images("digits")
    path = str(models_dir / "image_classification" / "1")
    classify = keras.layers.TFSMLayer(path, call_endpoint="pixels", trainable=False)
    keras.utils.set_random_seed(0)
    pixels = keras.Input((8, 8, 1))
    model = keras.Model(pixels, keras.layers.Dense(1)(classify(pixels)["probabilities"]))
    before = [weight.numpy() for weight in classify.weights]
    assert len(model.trainable_weights) == 2 and len(before) > 2
    model.compile(
        keras.optimizers.Adam(0.05),
        keras.losses.BinaryCrossentropy(from_logits=True),
        metrics=[keras.metrics.BinaryAccuracy(threshold=0)],
    )
    images, labels = digits.train
    model.fit(images, labels % 2 == 0, batch_size=128, epochs=8, verbose=0)
    images, labels = digits.test[0].astype("float32"), digits.test[1]
    assert model.evaluate(images, labels % 2 == 0, verbose=0)[1] > 0.9
    for weight, value in zip(classify.weights, before, strict=True):
        np.testing.assert_array_equal(weight, value)
    signature = tf.saved_model.load(path).signatures["pixels"]
    np.testing.assert_array_equal(
        classify(images[:3])["probabilities"],
        signature(pixels=tf.constant(images[:3]))["probabilities"],
    )


def test_a_signature_of_text_is_a_layer(models_dir, translate):
    path = str(models_dir / "translation" / "1")
    text = keras.Input((), dtype="string")
    prediction = keras.layers.TFSMLayer(path, call_endpoint="serving_default", trainable=False)(text)
    assert prediction["translation"].shape == prediction["score"].shape == (None,)
    model = keras.Model(text, prediction | {"doubtful": prediction["score"] < -1.0})
    outputs, expected = model(tf.constant(["twenty-three", "Monday"])), translate("twenty-three", "Monday")
    assert outputs["translation"].numpy().tolist() == expected["translation"].numpy().tolist()
    assert outputs["score"].numpy() == pytest.approx(expected["score"].numpy(), abs=1e-5)
    assert outputs["doubtful"].numpy().tolist() == (expected["score"].numpy() < -1.0).tolist()


# saved_model_cli


@pytest.fixture(scope="module")
def cli_outputs(models_dir):
    """-> the output of the commands `saved_model_cli show` and `saved_model_cli run` in docs/other_programs.md."""
    page = (ROOT / "docs" / "other_programs.md").read_text("utf-8")
    commands = re.findall(r"^saved_model_cli (.*)$", page, re.MULTILINE)
    cli = [sys.executable, "-m", "tensorflow.python.tools.saved_model_cli"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    programs = {
        arguments[0]: subprocess.Popen([*cli, *arguments], cwd=models_dir.parent, **pipes)
        for arguments in map(shlex.split, commands)
    }
    outputs = {name: program.communicate(timeout=240) for name, program in programs.items()}
    for name, program in programs.items():
        assert program.returncode == 0, outputs[name][1][-3000:]
    return {name: output for name, (output, _) in outputs.items()}


def test_saved_model_cli_shows_the_signatures(cli_outputs, models_dir):
    signatures = set(re.findall(r"signature_def\['(\w+)'\]", cli_outputs["show"]))
    loaded = tf.saved_model.load(str(models_dir / "translation" / "1"))
    assert signatures - {"__saved_model_init_op"} == set(loaded.signatures)
    assert "inputs['text'] tensor_info:\n        dtype: DT_STRING\n        shape: (-1)" in cli_outputs["show"]


def test_saved_model_cli_runs_a_signature(cli_outputs, translate):
    expected = translate("twenty-three")["translation"].numpy()
    assert f"Result for output key translation:\n{expected}" in cli_outputs["run"]


# Apache Beam


@pytest.fixture(scope="module")
def batch_job(models_dir, tmp_path_factory):
    """-> the predictions and the errors of a job over two files, by their input."""
    if not BEAM.exists():
        pytest.skip("Apache Beam needs its own environment, which `make test-pipelines` creates")
    directory = tmp_path_factory.mktemp("beam")
    (directory / "sentences1.txt").write_bytes(b"twenty-three\nMonday\n\n\xff\xfe no text\nten past six\n")
    (directory / "sentences2.txt").write_text("seven\n" + "one " * 500 + "\nzwölf\n", "utf-8")
    command = [BEAM, ROOT / "examples" / "beam_predict.py", f"--model={models_dir / 'translation' / '1'}"]
    command += [f"--input={directory}/sentences*.txt", f"--output={directory}/answers"]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    process = subprocess.run(
        command, cwd=directory, env=environment, capture_output=True, text=True, timeout=900, check=False
    )
    assert process.returncode == 0, process.stderr[-3000:]

    def read(pattern):
        rows = [json.loads(line) for path in directory.glob(pattern) for line in path.read_text("utf-8").splitlines()]
        return {row["text"]: row for row in rows}

    return read("answers-0*.jsonl"), read("answers-refused-0*.jsonl")


def test_a_batch_job_translates_every_line(batch_job, translate):
    predictions, _ = batch_job
    assert set(predictions) == {"twenty-three", "Monday", "ten past six", "seven", "zwölf"}
    expected = translate(*predictions)
    for n, row in enumerate(predictions.values()):
        assert row["translation"] == expected["translation"][n].numpy().decode()
        assert row["score"] == pytest.approx(float(expected["score"][n]), abs=1e-5)


def test_a_batch_job_writes_rejected_lines_with_the_error_to_another_file(batch_job):
    _, rejected = batch_job
    errors = {text: row["error"] for text, row in rejected.items()}
    assert set(errors) == {"", r"\xff\xfe no text", "one " * 500}
    assert "is empty" in errors[""]
    assert "UTF-8" in errors[r"\xff\xfe no text"]
    assert "more than the limit" in errors["one " * 500]
