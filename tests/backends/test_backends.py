"""Layers and models on the backend KERAS_BACKEND: `make test-backends` runs these tests with JAX and PyTorch, in an
environment without TensorFlow. If `.venv` exists, their outputs are compared with those of TensorFlow."""

import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from cases import LAYERS, MODELS, build_with_fixed_weights, normal, outputs, tokens
from keras import ops

from kerasnets import layers, models

ROOT = Path(__file__).parents[2]
WITH_TENSORFLOW = ROOT / ".venv" / "bin" / "python"
BACKEND = keras.backend.backend()
CASES = LAYERS | MODELS


def numpy(x):
    return np.asarray(ops.convert_to_numpy(x))


def test_tensorflow_is_not_imported():
    assert BACKEND == "tensorflow" or "tensorflow" not in sys.modules


def test_every_layer_and_model_has_a_case():
    used = {type(case.make()).__name__ for case in CASES.values()}
    inside_others = {"Residual", "SimpleRNNCell", "LSTMCell", "PixelRows"}
    for name in {*layers.__all__, *models.__all__} - inside_others:
        if name[0].isupper():
            assert name in used, f"{name} has no case in cases.py"


@pytest.fixture(scope="session")
def reference(tmp_path_factory):
    if not WITH_TENSORFLOW.exists():
        pytest.skip(".venv with TensorFlow does not exist: make .venv")
    path = tmp_path_factory.mktemp("reference") / "tensorflow.npz"
    environment = os.environ | {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"}
    environment.pop("PYTHONPATH", None)
    program = Path(__file__).with_name("reference.py")
    subprocess.run([WITH_TENSORFLOW, program, path], check=True, env=environment, capture_output=True)
    return np.load(path)


@pytest.mark.skipif(BACKEND == "tensorflow", reason="TensorFlow is the reference")
@pytest.mark.parametrize("name", CASES)
def test_outputs_equal_tensorflow(name, reference):
    for n, ours in enumerate(outputs(CASES[name])):
        theirs = reference[f"{name}/{n}"]
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * max(1.0, np.abs(theirs).max()))


class Probe(keras.Model):
    """A model that reduces all outputs of a layer to a few numbers per row."""

    def __init__(self, layer, case):
        super().__init__()
        self.layer, self.case = layer, case

    def call(self, inputs, training=None):
        flag = {"training": training} if "training" in self.layer.call.__code__.co_varnames else {}
        results = keras.tree.flatten(self.layer(**inputs, **self.case.call, **flag))
        rows = [ops.cast(ops.reshape(x, (2, -1)), "float32") for x in results]
        return ops.stack(
            [ops.mean(x * ops.convert_to_tensor(normal(*x.shape, seed=n)), axis=1) for n, x in enumerate(rows)], axis=1
        )


@pytest.mark.parametrize("name", CASES)
def test_training_moves_every_weight(name):
    case = CASES[name]
    layer = build_with_fixed_weights(case)
    model = Probe(layer, case)
    model.compile(keras.optimizers.SGD(1.0), loss=lambda labels, outputs: ops.mean(outputs, axis=-1))
    before = [numpy(v) for v in layer.trainable_variables]
    model.fit(case.inputs, np.zeros((2, 1), np.float32), batch_size=2, verbose=0)
    for variable, old in zip(layer.trainable_variables, before, strict=True):
        assert np.isfinite(numpy(variable)).all(), variable.path
        if not variable.path.endswith("key/bias"):  # it shifts all scores of a query alike, which a softmax ignores
            assert np.abs(numpy(variable) - old).max() > 0, variable.path


@pytest.mark.parametrize("name", ["ConvNet", "CharLSTM", "Seq2SeqLSTM additive", "Transformer rotary"])
def test_models_load_without_custom_objects(name, tmp_path):
    case = MODELS[name]
    model = build_with_fixed_weights(case)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(numpy(loaded(**case.inputs)), numpy(model(**case.inputs)))


@pytest.mark.parametrize("name", ["Seq2SeqLSTM additive", "Transformer rotary", "Transformer learned"])
def test_steps_equal_one_call(name):
    case = MODELS[name]
    model, pair = build_with_fixed_weights(case), case.inputs["inputs"]
    expected = numpy(model(pair))
    memory, cache = model.start(pair["source"], 6)
    for t in range(pair["target"].shape[1]):
        logits, cache = model.step(pair["target"][:, t], t, memory, cache)
        np.testing.assert_allclose(numpy(logits), expected[:, t], atol=2e-5)


def test_fit_lowers_the_loss():
    keras.utils.set_random_seed(0)
    source = tokens(16, 4)
    model = models.Transformer(9, 16, 2, 32, 1, dropout=0.1, norm="pre")
    model.compile(keras.optimizers.Adam(0.02), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    inputs = {"source": source, "target": np.pad(source[:, :-1], [(0, 0), (1, 0)], constant_values=1)}
    losses = model.fit(inputs, source, batch_size=8, epochs=10, verbose=0).history["loss"]
    assert losses[-1] < 0.7 * losses[0]


# Stock layers of the same backend with the same weights.


def test_lstm_equals_the_stock_layer():
    ours, theirs = layers.LSTM(5), keras.layers.LSTM(5, return_sequences=True, return_state=True)
    for layer in (ours, theirs):
        layer.build((None, None, 4))
    ours.set_weights([normal(*w.shape, seed=n) for n, w in enumerate(ours.weights)])
    theirs.set_weights(ours.get_weights())
    x = normal(3, 7, 4)
    hs, states = ours(x)
    for a, b in zip([hs, *states], theirs(x), strict=True):
        np.testing.assert_allclose(numpy(a), numpy(b), atol=1e-5)


def test_attention_equals_the_stock_layer():
    ours, theirs = layers.MultiHeadAttention(2), keras.layers.MultiHeadAttention(2, 3)
    x = normal(3, 5, 6)
    ours.build(x.shape)
    theirs.build(x.shape, x.shape)
    ours.set_weights([normal(*w.shape, seed=n) for n, w in enumerate(ours.weights)])
    theirs.set_weights([w.reshape(v.shape) for w, v in zip(ours.get_weights(), theirs.weights, strict=True)])
    np.testing.assert_allclose(numpy(ours(x)), numpy(theirs(x, x)), atol=1e-5)


@pytest.mark.parametrize(
    ("make", "argument"),
    [
        (lambda: layers.LSTM(4), "valid"),
        (lambda: layers.Bidirectional(layers.LSTM(4, layer_norm=True)), "valid"),
        (lambda: layers.MultiHeadAttention(2), "attention_mask"),
        (lambda: layers.EncoderBlock(2, 8), "attention_mask"),
    ],
)
def test_mask_of_keras_equals_explicit_mask(make, argument):
    ids = np.array([[3, 1, 4, 1], [0, 2, 5, 0]], np.int32)
    valid, layer, embedding = ids != 0, make(), keras.layers.Embedding(9, 6, mask_zero=True)
    x = numpy(embedding(ids))
    mask = valid if argument == "valid" else valid[:, None]
    expected, outputs = layer(x, **{argument: mask}), layer(embedding(ids))
    for a, b in zip(keras.tree.flatten(outputs), keras.tree.flatten(expected), strict=True):
        np.testing.assert_allclose(numpy(a), numpy(b), atol=1e-6)
