"""One training step, the same for one device and for several.

The loss is a sum and its weight. The gradients of the sums are added over all devices, and only then divided by the
weight of the whole batch. So padding, uneven splits and the number of devices do not change the result.
"""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from kerasnets.tasks.protocol import Task


def make_step(
    task: Task,
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    strategy: tf.distribute.Strategy,
    clip_norm: float,
    batch_spec: Any,
    carry_spec: Any,
) -> Callable:
    """-> a graph from (batch, carry) to (loss, weight, carry): mean loss and weight of the batch over all devices."""
    variables = model.trainable_variables

    def replica_step(batch, carry):
        with tf.GradientTape() as tape:
            loss, weight, carry = task.loss(model, batch, carry, training=True)
        gradients = tape.gradient(loss, [v.value for v in variables])
        gradients = [tf.convert_to_tensor(g) for g in gradients]  # an embedding's gradient is sparse
        replica = tf.distribute.get_replica_context()
        loss, weight, *gradients = replica.all_reduce(tf.distribute.ReduceOp.SUM, [loss, weight, *gradients])
        # A batch without targets has the gradient 0, not a division by zero.
        gradients = [tf.math.divide_no_nan(g, tf.cast(weight, g.dtype)) for g in gradients]
        if clip_norm:
            gradients, _ = tf.clip_by_global_norm(gradients, clip_norm)
        # Every device has the gradients of the whole batch already; Keras's optimizer sums over devices once more.
        share = 1 / strategy.num_replicas_in_sync
        optimizer.apply([g * share for g in gradients], variables)
        return tf.math.divide_no_nan(loss, weight), weight, carry

    @tf.function(input_signature=[batch_spec, carry_spec])  # one graph for all batch shapes
    def step(batch, carry):
        loss, weight, carry = strategy.run(replica_step, (batch, carry))
        per_replica = strategy.experimental_local_results
        return per_replica(loss)[0], per_replica(weight)[0], carry

    return step
