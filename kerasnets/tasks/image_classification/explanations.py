"""Heatmaps of the evidence for an image's best class. Rows do not depend on each other.

B images of Y × X pixels with C channels, K maps of Y' × X'
"""

from collections.abc import Callable
from typing import Protocol

import tensorflow as tf

from kerasnets.models import SequenceClassifier


class FeatureMapNetwork(Protocol):
    """A network whose last feature maps have positions in the image: those of convolutions, or of patches."""

    def feature_maps(self, pixels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """pixels [B, Y, X, C] -> feature maps of the first and of the last block, without dropout."""

    def classify_maps(self, maps: tf.Tensor) -> tf.Tensor:
        """Last feature maps [B, Y', X', K] -> the network's outputs."""


def grad_cam(
    network: FeatureMapNetwork, classify: Callable[[tf.Tensor], tf.Tensor], pixels: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Grad-CAM (Selvaraju et al. 2017, section 3): the positive part of the sum of the last feature maps A, each
    weighted by the mean gradient of the best class's logit y.

        α_k = mean of ∂y / ∂A_k over its positions         equation 1
        heatmap = relu(Σ_k α_k A_k)                        equation 2

    For a Vision Transformer, whose maps are averaged before the last layer, the sum is each patch's share of the logit,
    up to a factor (Zhou et al. 2016: CAM). Unlike attention rollout (Abnar & Zuidema 2020) it depends on the class.

    Args: classify: network output -> logits [B, classes]; pixels [B, Y, X, C].
    Returns: logits; heatmap [B, Y, X], 0..1, with maximum 1 in every image with positive evidence; the first block's
        maps [B, y, x, n].
    """
    first, last = network.feature_maps(pixels)
    with tf.GradientTape() as tape:
        tape.watch(last)
        logits = classify(network.classify_maps(last))
        best = best_logit(logits)
    weights = tf.reduce_mean(tape.gradient(best, last), axis=(1, 2), keepdims=True)
    maps = tf.cast(last, tf.float32)
    heat = tf.nn.relu(tf.reduce_sum(tf.cast(weights, tf.float32) * maps, axis=-1, keepdims=True))
    heat = tf.image.resize(heat, pixels.shape[1:3])
    return logits, divide_by_maximum(heat[..., 0]), tf.cast(first, tf.float32)


def gradient_times_input(network: SequenceClassifier, pixels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """|Σ_C x ∂y / ∂x| of each pixel x, where 0 is black (Shrikumar et al. 2017, section 2.2): for networks without
    convolutions.

    Returns: logits; heatmap [B, Y, X] as in `grad_cam`; the top LSTM's outputs after each row, as maps [B, Y, 1, U].
    """
    with tf.GradientTape() as tape:
        tape.watch(pixels)
        logits, outputs = network.run(pixels, training=False)
        best = best_logit(logits)
    heat = tf.abs(tf.reduce_sum(tape.gradient(best, pixels) * pixels, axis=-1))
    return logits, divide_by_maximum(heat), tf.cast(outputs, tf.float32)[:, :, tf.newaxis]


def best_logit(logits: tf.Tensor) -> tf.Tensor:
    return tf.gather(logits, tf.argmax(logits, axis=1), batch_dims=1)


def divide_by_maximum(heat: tf.Tensor) -> tf.Tensor:
    """-> heat [B, Y, X] divided by each image's maximum; an image of zeros stays unchanged."""
    return tf.math.divide_no_nan(heat, tf.reduce_max(heat, axis=(1, 2), keepdims=True))
