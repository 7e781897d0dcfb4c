"""Cross-entropy with label smoothing, and the divergence of predictions."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from layer_checks import assert_close

from kerasnets.tasks.losses import cross_entropy, symmetric_divergence


def log_softmax(logits):
    logits = np.asarray(logits, np.float64)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("shape", [(5,), (2, 3)])
def test_cross_entropy_equals_that_of_keras(shape, smoothing):
    rng = np.random.default_rng(0)
    logits = tf.constant(rng.normal(0, 3, (*shape, 7)).astype(np.float32))
    targets = tf.constant(rng.integers(0, 7, shape).astype(np.int32))
    upstream = tf.constant(rng.normal(0, 1, shape).astype(np.float32))

    def keras_loss():
        return keras.losses.categorical_crossentropy(
            tf.one_hot(targets, 7), logits, from_logits=True, label_smoothing=smoothing
        )

    def gradient(function):
        with tf.GradientTape() as tape:
            tape.watch(logits)
            losses = function()
        return losses, tape.gradient(losses, logits, upstream)

    ours, expected = gradient(lambda: cross_entropy(logits, targets, smoothing)), gradient(keras_loss)
    assert ours[0].shape == shape
    assert_close(ours, expected)
    negative_log = -log_softmax(logits)
    target_losses = np.take_along_axis(negative_log, targets.numpy()[..., np.newaxis], -1)[..., 0]
    assert_close(ours[0], (1 - smoothing) * target_losses + smoothing * negative_log.mean(-1))


def test_cross_entropy_of_extreme_logits_is_finite():
    logits = tf.constant([[1e4, -1e4, 0.0]])
    assert_close(cross_entropy(logits, tf.constant([1])), np.array([2e4]))
    assert np.isfinite(cross_entropy(logits, tf.constant([1]), 0.1)).all()


def test_cross_entropy_in_a_graph_of_unknown_shape():
    @tf.function(input_signature=[tf.TensorSpec([None, None, 4]), tf.TensorSpec([None, None], tf.int32)])
    def value_and_gradient(logits, targets):
        losses = cross_entropy(logits, targets, 0.2)
        return losses, tf.gradients(losses, logits)[0]

    logits, targets = tf.random.stateless_normal((2, 3, 4), [1, 2]), tf.constant([[0, 1, 2], [3, 3, 0]])
    losses, gradient = value_and_gradient(logits, targets)
    assert_close(losses, cross_entropy(logits, targets, 0.2), 1e-6)
    assert_close(
        tf.reduce_sum(gradient, axis=-1), np.zeros((2, 3)), 1e-6
    )  # predicted and target probabilities both sum to 1


def test_symmetric_divergence_equals_that_of_keras():
    logits, others = (np.random.default_rng(seed).normal(0, 3, (2, 3, 7)).astype(np.float32) for seed in (0, 1))
    p, q = tf.nn.softmax(logits), tf.nn.softmax(others)
    expected = (keras.losses.kl_divergence(p, q) + keras.losses.kl_divergence(q, p)) / 2
    assert_close(symmetric_divergence(logits, others), expected, 1e-4)
    assert_close(symmetric_divergence(others, logits), expected, 1e-4)
    assert_close(symmetric_divergence(logits, logits), np.zeros((2, 3)), 1e-6)
    assert np.isfinite(symmetric_divergence(1e3 * logits, others)).all()
