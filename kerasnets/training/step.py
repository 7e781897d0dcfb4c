"""One training step, the same for one device and for several, at once or in parts.

The loss is a sum and its weight. The gradients of the sums are added over all parts of the batch and all devices, and
only then divided by the weight of the whole batch. So padding, uneven weights, the number of devices and the number of
parts do not change the result.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from kerasnets.tasks.protocol import Task


def make_step(
    task: Task,
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    strategy: tf.distribute.Strategy,
    specs: Sequence[Any],
) -> tuple[Callable, Callable]:
    """-> a graph from (batch, carry, requests, scale) to (loss, weight, carry, requests, gradients), and one that
    applies gradients.

    The first one applies them itself, and then returns none; with float16, whose gradients may overflow, it leaves this
    to the second one.

    Args: specs: type specs of batch and carry. requests float32 [R]: see `Trainer.take_step`; their sum over the
        devices is returned. scale float32: of the loss while gradients are computed (`LossScale`).
    Returns: loss and weight are the mean loss of the whole batch and its weight.
    """
    variables = model.trainable_variables
    options = task.config.training
    parts, apply_later = options.accumulation, options.precision == "float16"

    def sums(batch, carry, loss_scale):
        """-> [loss, weight, gradients ...] summed over the batch, and the carry."""
        with tf.GradientTape() as tape:
            loss, weight, new_carry = task.loss(model, batch, carry, training=True)
            # A mean stays in float16's range, however large the batch is.
            factor = loss_scale / tf.maximum(weight, 1)
            scaled = loss * factor if apply_later else loss
        gradients = tape.gradient(scaled, [v.value for v in variables])
        gradients = [tf.convert_to_tensor(g) for g in gradients]  # an embedding's gradient is sparse
        if apply_later:
            gradients = [g / factor for g in gradients]
        # With mixed precision layers return float16 or bfloat16.
        return [loss, weight, *gradients], tf.nest.map_structure(lambda new, x: tf.cast(new, x.dtype), new_carry, carry)

    def zeros():
        return [tf.zeros(()), tf.zeros(()), *(tf.zeros(v.shape, v.dtype) for v in variables)]

    def replica_step(batch, carry, requests, loss_scale):
        compute = functools.partial(sums, loss_scale=loss_scale)
        totals, carry = in_parts(compute, parts, batch, carry, zeros()) if parts > 1 else compute(batch, carry)
        replica = tf.distribute.get_replica_context()
        # Summed requests must be a tensor of the device's own, not one that comes from outside.
        loss, weight, *gradients, requests = replica.all_reduce(tf.distribute.ReduceOp.SUM, [*totals, requests + 0])
        # A batch without targets has the gradient 0, not a division by zero.
        scale = tf.math.divide_no_nan(1.0, weight)
        if options.clip_norm:
            norm = scale * tf.linalg.global_norm(gradients)
            scale *= options.clip_norm / tf.maximum(norm, options.clip_norm)
        # Every device has the gradients of the whole batch already; Keras's optimizer sums over devices once more.
        scale /= strategy.num_replicas_in_sync
        gradients = [g * scale for g in gradients]
        if not apply_later:
            optimizer.apply(gradients, variables)
            gradients = []
        return tf.math.divide_no_nan(loss, weight), weight, carry, requests, gradients

    @tf.function(input_signature=[*specs, tf.TensorSpec([None]), tf.TensorSpec([])])  # one graph for all batch shapes
    def step(batch, carry, requests, scale):
        results = strategy.run(replica_step, (batch, carry, requests, scale))
        loss, weight, carry, requests, gradients = results
        per_replica = strategy.experimental_local_results
        return per_replica(loss)[0], per_replica(weight)[0], carry, per_replica(requests)[0], gradients

    return step, tf.function(lambda gradients: strategy.run(optimizer.apply, (gradients, variables)))


def in_parts(
    function: Callable, parts: int, batch: Any, carry: Any, zeros: list[tf.Tensor]
) -> tuple[list[tf.Tensor], Any]:
    """Call a function with one part of the rows after the other, so that only one part at a time needs memory.

    Args: function: (batch, carry) -> (sums like `zeros`, carry); batch, carry: nested tensors [B, ...], with B
        divisible by `parts`.
    Returns: the totals of the sums, and the carry of all rows.
    """

    def split(tensor):
        rows = tensor.shape[0] and tensor.shape[0] // parts
        split = tf.reshape(tensor, tf.concat([[parts, -1], tf.shape(tensor)[1:]], 0))
        return tf.ensure_shape(split, [parts, rows, *tensor.shape[1:]])

    batches, carries = tf.nest.map_structure(split, (batch, carry))

    def add(n, totals, arrays):
        part, part_carry = tf.nest.map_structure(lambda tensor: tensor[n], (batches, carries))
        sums, part_carry = function(part, part_carry)
        totals = [total + value for total, value in zip(totals, sums, strict=True)]
        return n + 1, totals, tf.nest.map_structure(lambda array, x: array.write(n, x), arrays, part_carry)

    arrays = tf.nest.map_structure(lambda x: tf.TensorArray(x.dtype, parts, element_shape=x.shape[1:]), carries)
    _, totals, arrays = tf.while_loop(lambda n, *_: n < parts, add, (0, zeros, arrays), parallel_iterations=1)
    return totals, tf.nest.map_structure(lambda array, x: tf.reshape(array.stack(), tf.shape(x)), arrays, carry)
