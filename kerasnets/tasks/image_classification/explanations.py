"""What in a picture speaks for its best class. Rows do not depend on each other.

B pictures of Y × X pixels with C channels, K maps of Y' × X'
"""

from collections.abc import Callable

import tensorflow as tf

from kerasnets.models import ConvNet, SequenceClassifier


def grad_cam(
    network: ConvNet, answer: Callable[[tf.Tensor], tf.Tensor], pixels: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Grad-CAM (Selvaraju et al. 2017, section 3): the last convolution's maps A, each weighted by how much the best
    class's logit y grows with it, as far as their sum speaks for the class.

        α_k = mean of ∂y / ∂A_k over its places            equation 1
        heatmap = relu(Σ_k α_k A_k)                        equation 2

    Args: answer, which turns what comes out of the network into logits [B, classes]; pixels [B, Y, X, C].
    Returns: logits; heatmap [B, Y, X], from 0 to 1, which is reached in every picture that anything speaks for; the
        first block's maps [B, y, x, n].
    """
    first, last = network.maps(pixels)
    with tf.GradientTape() as tape:
        tape.watch(last)
        logits = answer(network.finish(last))
        best = best_logit(logits)
    weights = tf.reduce_mean(tape.gradient(best, last), axis=(1, 2), keepdims=True)
    maps = tf.cast(last, tf.float32)
    heat = tf.nn.relu(tf.reduce_sum(tf.cast(weights, tf.float32) * maps, axis=-1, keepdims=True))
    heat = tf.image.resize(heat, pixels.shape[1:3])
    return logits, to_one(heat[..., 0]), tf.cast(first, tf.float32)


def gradient_times_input(network: SequenceClassifier, pixels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """|Σ_C x ∂y / ∂x| of each pixel x, whose zero is black (Shrikumar et al. 2017, section 2.2): for networks without
    convolutions.

    Returns: logits; heatmap [B, Y, X] as of `grad_cam`; the highest LSTM's outputs after each row, a column of maps
        [B, Y, 1, U].
    """
    with tf.GradientTape() as tape:
        tape.watch(pixels)
        logits, outputs = network.run(pixels, training=False)
        best = best_logit(logits)
    heat = tf.abs(tf.reduce_sum(tape.gradient(best, pixels) * pixels, axis=-1))
    return logits, to_one(heat), tf.cast(outputs, tf.float32)[:, :, tf.newaxis]


def best_logit(logits: tf.Tensor) -> tf.Tensor:
    return tf.gather(logits, tf.argmax(logits, axis=1), batch_dims=1)


def to_one(heat: tf.Tensor) -> tf.Tensor:
    """-> heat [B, Y, X] divided by each picture's largest value; a picture of zeros stays what it is."""
    return tf.math.divide_no_nan(heat, tf.reduce_max(heat, axis=(1, 2), keepdims=True))
