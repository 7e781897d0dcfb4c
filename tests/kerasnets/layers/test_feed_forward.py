"""The feed-forward network: its equations."""

import math

import numpy as np
import pytest
from layer_checks import assert_close, check_layer, normal, randomize

from kerasnets.layers import FeedForward


def test_feed_forward_passes_layer_checks(tmp_path):
    arguments = {"hidden_units": 12, "activation": "swiglu", "dropout": 0.3}
    check_layer(FeedForward, arguments, lambda b, t: {"x": normal(b, t, 6)}, tmp_path)


def phi(x):
    return np.vectorize(math.erf)(x / np.sqrt(2)) / 2 + 0.5


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


EQUATIONS = {
    "relu": lambda h, gate: np.maximum(h, 0),
    "gelu": lambda h, gate: h * phi(h),
    "swiglu": lambda h, gate: h * sigmoid(h) * gate,
}


@pytest.mark.parametrize("activation", EQUATIONS)
def test_feed_forward_equals_its_equation(activation):
    layer = FeedForward(5, activation)
    layer.build((None, None, 4))
    randomize(layer)
    weights = {w.path.split("/", 1)[1]: w.numpy().astype(np.float64) for w in layer.weights}
    x = normal(2, 3, 4)
    hidden = x @ weights["hidden/kernel"] + weights["hidden/bias"]
    gate = x @ weights["gate/kernel"] + weights["gate/bias"] if activation == "swiglu" else None
    expected = EQUATIONS[activation](hidden, gate) @ weights["out/kernel"] + weights["out/bias"]
    assert_close(layer(x), expected.astype(np.float32))


@pytest.mark.parametrize("activation", EQUATIONS)
def test_dropout_zeroes_hidden_units_after_the_activation(activation):
    layer = FeedForward(6, activation, dropout=0.5)
    layer.build((None, None, 6))
    randomize(layer)
    layer.out.kernel.assign(np.eye(6, dtype=np.float32))
    layer.out.bias.assign(np.zeros(6, np.float32))
    x = normal(3, 5, 6)
    hidden, dropped = np.asarray(layer(x)), np.asarray(layer(x, training=True))
    kept = dropped != 0
    assert 0.2 < kept[hidden != 0].mean() < 0.8
    assert_close(dropped, 2 * hidden * kept)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FeedForward(0), "hidden_units is 0"),
        (lambda: FeedForward(8, dropout=1.0), r"dropout is 1\.0"),
        (lambda: FeedForward(8, "tanh"), "activation is 'tanh'; it must be one of relu, gelu, swiglu"),
    ],
)
def test_invalid_arguments_raise_value_error(make, message):
    with pytest.raises(ValueError, match=message):
        make()
