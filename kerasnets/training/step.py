"""One training step, the same for one device and for several.

The loss is a sum and its weight. Nothing is averaged before everything is summed: the gradients of the sums are added
up over all devices and then divided by the weight of the whole batch. So padding, uneven shares and the number of
devices change nothing.
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
        # A batch without a single target changes nothing, and is no division by zero.
        gradients = [tf.math.divide_no_nan(g, tf.cast(weight, g.dtype)) for g in gradients]
        if clip_norm:
            gradients, _ = tf.clip_by_global_norm(gradients, clip_norm)
        # They are already those of the whole batch on every device; Keras's optimizer will sum them once more.
        share = 1 / strategy.num_replicas_in_sync
        optimizer.apply([g * share for g in gradients], variables)
        return tf.math.divide_no_nan(loss, weight), weight, carry

    @tf.function(input_signature=[batch_spec, carry_spec])  # one graph, however the shapes of the batches differ
    def step(batch, carry):
        loss, weight, carry = strategy.run(replica_step, (batch, carry))
        first = strategy.experimental_local_results
        return first(loss)[0], first(weight)[0], carry

    return step
