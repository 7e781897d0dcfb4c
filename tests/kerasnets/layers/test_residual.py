"""The residual connection: the position of its normalization, and its dropout."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from layer_checks import assert_close, check_layer, normal, randomize, value_and_gradients

from kerasnets.layers import Residual


def test_residual_passes_layer_checks(tmp_path):
    arguments = {"norm": "pre", "dropout": 0.1}
    check_layer(Residual, arguments, lambda b, t: {"x": normal(b, t, 6)}, tmp_path, sublayer=keras.activations.tanh)


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_residual_equals_stock_normalization(norm):
    residual = Residual(norm)
    residual.build((None, None, 6))
    randomize(residual)
    stock = keras.layers.LayerNormalization(epsilon=1e-6)
    x = tf.constant(normal(2, 4, 6))
    stock.build(x.shape)
    stock.set_weights(residual.normalization.get_weights())

    def plain_residual():
        return x + tf.sin(stock(x)) if norm == "pre" else stock(x + tf.sin(x))

    ours, gradients = value_and_gradients(lambda: residual(x, sublayer=tf.sin), [x, *residual.trainable_variables])
    theirs, expected = value_and_gradients(plain_residual, [x, *stock.trainable_variables])
    assert_close(ours, theirs)
    assert_close(gradients, expected)


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_residual_drops_sublayer_outputs_in_training_only(norm):
    residual = Residual(norm, dropout=0.5)
    x = tf.constant(normal(2, 40, 6))
    residual.build(x.shape)
    nothing_added = residual(x, sublayer=tf.zeros_like, training=False)
    with_all = residual(x, sublayer=tf.ones_like, training=False)
    assert_close(residual(x, sublayer=tf.ones_like, training=False), with_all, 0)
    dropped = residual(x, sublayer=tf.ones_like, training=True)
    if norm == "pre":
        assert_close(nothing_added, x, 0)
        added = np.asarray(dropped - x).round(4)
        assert set(np.unique(added)) == {0.0, 2.0}
        assert 0.3 < (added == 0).mean() < 0.7
    else:
        assert np.abs(dropped - with_all).max() > 0.1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Residual("middle"), "norm is 'middle'"),
        (lambda: Residual(dropout=1.5), r"dropout is 1\.5"),
    ],
)
def test_invalid_arguments_raise_value_error(make, message):
    with pytest.raises(ValueError, match=message):
        make()
