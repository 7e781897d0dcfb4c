"""A task's model, optimizer, batches and step under a strategy, and their state."""

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerasnets.tasks.protocol import Task
from kerasnets.training.checkpoints import State
from kerasnets.training.clock import Clock
from kerasnets.training.schedules import make_optimizer
from kerasnets.training.step import make_step
from kerasnets.training.strategies import Workers

NO_REQUESTS = np.zeros(2, np.float32)


class Trainer:
    """A task's model, optimizer, batches and step under a strategy, and their state."""

    def __init__(self, task: Task, strategy: tf.distribute.Strategy, steps: int):
        """Raises: RequestError if batches cannot be split over the devices."""
        self.task, self.strategy, self.steps = task, strategy, steps
        self.workers = Workers(strategy)
        self.parts = strategy.num_replicas_in_sync * task.config.training.accumulation
        task.check_split(self.parts)
        keras.utils.set_random_seed(task.config.seed)
        with strategy.scope():
            self.model = task.model()
            self.optimizer = make_optimizer(task.config.training, steps)
            self.optimizer.build(self.model.trainable_variables)
        # By position, since Keras's order is stable and its paths are not unique; `model.variables` also contains the
        # states of the random generators, which `.keras` files leave out.
        self.variables = [*self.model.variables, *self.optimizer.variables]
        self.carry = self.distribute(task.initial_carry())
        self.clock = Clock()
        specs = self.batches(0).element_spec, tf.nest.map_structure(tf.type_spec_from_value, self.carry)
        self.step = make_step(task, self.model, self.optimizer, strategy, specs)

    def batches(self, start: int) -> tf.data.Dataset | tf.distribute.DistributedDataset:
        """-> the batches from step `start` on, each split over the devices."""
        batches = self.task.training_batches(start, self.steps)
        if self.parts > 1:
            batches = batches.map(lambda batch: tf.nest.map_structure(self.fill, batch))
        replicas = self.strategy.num_replicas_in_sync
        if replicas == 1:
            return batches  # no split, and no second iterator around the first one

        def shares(context: tf.distribute.InputContext) -> tf.data.Dataset:
            """-> the shares of this worker's devices, one after the other."""
            count = replicas // context.num_input_pipelines
            first = context.input_pipeline_id * count

            def split(tensor):
                return tf.reshape(tensor, tf.concat([[replicas, -1], tf.shape(tensor)[1:]], 0))[first : first + count]

            def keep_shape(tensor, spec):
                return tf.ensure_shape(tensor, [spec.shape[0] and spec.shape[0] // replicas, *spec.shape[1:]])

            spec = batches.element_spec
            split_batches = batches.map(lambda batch: tf.nest.map_structure(split, batch)).unbatch()
            return split_batches.map(lambda batch: tf.nest.map_structure(keep_shape, batch, spec)).prefetch(count)

        return self.strategy.distribute_datasets_from_function(shares)

    def fill(self, tensor: tf.Tensor) -> tf.Tensor:
        """Add rows of zeros, which weigh nothing, until the rows can be split; see `Task.check_split`."""
        rows = tensor.shape[0] and tensor.shape[0] + -tensor.shape[0] % self.parts
        padding = tf.one_hot(1, 2 * tensor.shape.rank, -tf.shape(tensor)[0] % self.parts, 0, dtype=tf.int32)
        return tf.ensure_shape(tf.pad(tensor, tf.reshape(padding, (-1, 2))), [rows, *tensor.shape[1:]])

    def distribute(self, carry: Any) -> Any:
        """Nested arrays [B, ...] -> each device's share of the rows."""
        replicas = self.strategy.num_replicas_in_sync

        def share(array):
            parts = np.split(array, replicas)
            return self.strategy.experimental_distribute_values_from_function(
                lambda context: tf.convert_to_tensor(parts[context.replica_id_in_sync_group])
            )

        return tf.nest.map_structure(share, carry)

    def collect_carry(self) -> Any:
        """-> the carry of all devices as nested arrays [B, ...]."""
        results = self.strategy.experimental_local_results
        local = tf.nest.map_structure(lambda part: np.concatenate([p.numpy() for p in results(part)]), self.carry)
        return tf.nest.map_structure(self.workers.collect, local)

    def take_step(self, batch: Any, requests: np.ndarray = NO_REQUESTS) -> tuple[float, float, np.ndarray]:
        """Train on a batch -> its mean loss, its weight, and the sum of the requests float32 [R] of all devices."""
        loss, weight, self.carry, requests = self.step(batch, self.carry, tf.constant(requests))
        return float(loss), float(weight), requests.numpy()

    @tf.function
    def weights_are_finite(self) -> tf.Tensor:
        """Whether no float of the model and the optimizer is NaN or infinite; a graph, which takes all cores."""
        floats = [v.value for v in self.variables if v.value.dtype.is_floating]
        return tf.reduce_all([tf.reduce_all(tf.math.is_finite(value)) for value in floats])

    @contextlib.contextmanager
    def averaged_weights(self) -> Iterator[keras.Model]:
        """Give the model the average of its weights, if the optimizer keeps one, for a validation or a save."""
        if not self.optimizer.use_ema:
            yield self.model
            return
        variables = self.model.trainable_variables
        weights = [v.numpy() for v in variables]
        self.optimizer.finalize_variable_values(variables)
        try:
            yield self.model
        finally:
            for variable, value in zip(variables, weights, strict=True):
                variable.assign(value)

    def state(self) -> State:
        """-> all that training needs to resume; to be called by all workers at once."""
        variables = [v.value for v in self.variables]
        return {"variables": variables, "carry": tf.nest.flatten(self.collect_carry()), "clock": [self.clock.state()]}

    def is_finite(self, state: State) -> bool:
        """Whether no float of the current state is NaN or infinite."""
        return bool(self.weights_are_finite()) and all(np.isfinite(array).all() for array in state["carry"])

    def restore(self, state: State) -> None:
        for variable, value in zip(self.variables, state["variables"], strict=True):
            variable.assign(value)
        arrays = [np.asarray(value) for value in state["carry"]]
        self.carry = self.distribute(tf.nest.pack_sequence_as(self.task.initial_carry(), arrays))
        self.clock.restore(np.asarray(state["clock"][0]))

    def restore_from_chief(self, state: State | None) -> None:
        """Restore the state that the chief has read; None on the other workers."""
        if self.workers.count > 1:
            own = self.state() if state is None else (self.state(), state)[1]
            state = {name: [self.workers.from_chief(np.asarray(x)) for x in values] for name, values in own.items()}
        self.restore(state)
