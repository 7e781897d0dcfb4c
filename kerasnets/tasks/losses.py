"""Cross-entropy with label smoothing, and the divergence of predictions."""

import tensorflow as tf


def cross_entropy(logits: tf.Tensor, targets: tf.Tensor, smoothing: float = 0.0) -> tf.Tensor:
    """-log p(target), for each target.

    Label smoothing ε spreads ε of the target probability evenly over all V classes (Szegedy et al. 2016, section 7):
    (1 - ε) · -log p(target) + ε · mean over all classes of -log p. The gradient is explicit, since the logits of a
    large vocabulary are the largest arrays of a training step and each pass over them is expensive.

    Args: logits float32 [..., V]; targets int [...].
    Returns: float32 [...], in nats.
    """
    classes = logits.shape[-1]

    @tf.custom_gradient
    def rows(logits, targets):
        # backprop = softmax - one_hot, the gradient without smoothing; the kernel computes it together with the loss.
        loss, backprop = tf.raw_ops.SparseSoftmaxCrossEntropyWithLogits(features=logits, labels=targets)
        index = tf.stack([tf.range(tf.shape(logits)[0]), tf.cast(targets, tf.int32)], axis=1)
        if smoothing:
            loss += smoothing * (tf.gather_nd(logits, index) - tf.reduce_mean(logits, axis=-1))

        def gradient(upstream):
            if not smoothing:
                return backprop * upstream[:, tf.newaxis], None
            spread = (backprop - smoothing / classes) * upstream[:, tf.newaxis]
            return tf.tensor_scatter_nd_add(spread, index, smoothing * upstream), None

        return loss, gradient

    flat = rows(tf.reshape(logits, (-1, classes)), tf.reshape(targets, (-1,)))
    return tf.reshape(flat, tf.shape(targets))


def symmetric_divergence(logits: tf.Tensor, others: tf.Tensor) -> tf.Tensor:
    """The mean of both Kullback-Leibler divergences, ½ KL(P ‖ Q) + ½ KL(Q ‖ P) = ½ Σ (P - Q)(log P - log Q).

    Args: logits of P and of Q, float32 [..., V].
    Returns: float32 [...], in nats.
    """
    p, q = tf.nn.log_softmax(logits), tf.nn.log_softmax(others)
    return tf.reduce_sum((tf.exp(p) - tf.exp(q)) * (p - q), axis=-1) / 2
