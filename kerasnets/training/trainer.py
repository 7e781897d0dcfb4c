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
from kerasnets.training.precision import LossScale, precision
from kerasnets.training.schedules import make_optimizer
from kerasnets.training.step import make_step
from kerasnets.training.strategies import WorkerGroup

NO_REQUESTS = np.zeros(2, np.float32)


class Trainer:
    """A task's model, optimizer, batches and step under a strategy, and their state."""

    def __init__(self, task: Task, strategy: tf.distribute.Strategy, steps: int):
        """Raises: RequestError if batches cannot be split over the devices."""
        self.task, self.strategy, self.steps = task, strategy, steps
        self.workers = WorkerGroup(strategy)
        self.local = strategy.num_replicas_in_sync // self.workers.count
        """Devices of this worker."""
        self.parts = strategy.num_replicas_in_sync * task.config.training.accumulation
        task.check_split(self.parts)
        keras.utils.set_random_seed(task.config.seed)
        options = task.config.training
        with strategy.scope(), precision(options.precision):
            self.model = task.model()
            self.optimizer = make_optimizer(options, steps)
            self.optimizer.build(self.model.trainable_variables)
        # By position, since Keras's order is stable and its paths are not unique; `model.variables` also contains the
        # states of the random generators, which `.keras` files leave out.
        self.variables = [*self.model.variables, *self.optimizer.variables]
        self.carry = self.distribute(task.initial_carry())
        self.clock, self.loss_scale = Clock(), LossScale()
        # What is validated and saved computes in float32.
        self.float32_model = None if options.precision == "float32" else task.model()
        self.epochs, kept = 0, options.average_epochs
        self.last_weights = [np.zeros((kept, *v.shape), np.float32) for v in self.model.trainable_variables if kept]
        specs = self.batches(0).element_spec, tf.nest.map_structure(tf.type_spec_from_value, self.carry)
        self.step, self.apply = make_step(task, self.model, self.optimizer, strategy, specs)

    def batches(self, start: int) -> tf.data.Dataset | tf.distribute.DistributedDataset:
        """-> the batches from step `start` on, each split over the devices."""
        batches = self.task.training_batches(start, self.steps)
        if self.parts > 1:
            batches = batches.map(lambda batch: tf.nest.map_structure(self.fill, batch))
        if self.local == 1:
            return self.shares(batches)  # no second iterator around the first one
        return self.strategy.distribute_datasets_from_function(lambda _: self.shares(batches))

    def shares(self, batches: tf.data.Dataset) -> tf.data.Dataset:
        """-> the shares of this worker's devices, one after the other."""
        replicas, first = self.strategy.num_replicas_in_sync, self.workers.index * self.local
        if replicas == 1:
            return batches

        def split(tensor):
            shares = tf.reshape(tensor, tf.concat([[replicas, -1], tf.shape(tensor)[1:]], 0))
            rows = tensor.shape[0] and tensor.shape[0] // replicas
            return tf.ensure_shape(shares[first : first + self.local], [self.local, rows, *tensor.shape[1:]])

        return batches.map(lambda batch: tf.nest.map_structure(split, batch)).unbatch().prefetch(self.local)

    def fill(self, tensor: tf.Tensor) -> tf.Tensor:
        """Add rows of zeros, which weigh nothing, until the rows can be split; see `Task.check_split`."""
        rows = tensor.shape[0] and tensor.shape[0] + -tensor.shape[0] % self.parts
        missing = -tf.shape(tensor)[0] % self.parts
        filled = tf.pad(tensor, [[0, missing], *[[0, 0]] * (tensor.shape.rank - 1)])
        return tf.ensure_shape(filled, [rows, *tensor.shape[1:]])

    def distribute(self, carry: Any) -> Any:
        """Nested arrays [B, ...] -> each device's share of the rows."""
        replicas = self.strategy.num_replicas_in_sync

        def share(array):
            parts = np.split(array, replicas)
            if self.local == 1:
                return tf.constant(parts[self.workers.index])
            return self.strategy.experimental_distribute_values_from_function(
                lambda context: tf.constant(parts[context.replica_id_in_sync_group])
            )

        return tf.nest.map_structure(share, carry)

    def collect_carry(self) -> Any:
        """-> the carry of all devices as nested arrays [B, ...]."""
        results = self.strategy.experimental_local_results
        local = tf.nest.map_structure(lambda part: np.concatenate([p.numpy() for p in results(part)]), self.carry)
        return tf.nest.map_structure(self.workers.collect, local)

    def take_step(self, batch: Any, requests: np.ndarray = NO_REQUESTS) -> tuple[float, float, np.ndarray]:
        """Train on a batch -> its mean loss, its weight, and the sum of the requests float32 [R] of all devices."""
        scale = tf.constant(self.loss_scale.scale)
        loss, weight, self.carry, sums, gradients = self.step(batch, self.carry, tf.constant(requests), scale)
        if gradients:
            finite = bool(self.are_finite(self.strategy.experimental_local_results(gradients)[0]))
            self.loss_scale.update(finite)
            if finite:
                self.apply(gradients)
        return float(loss), float(weight), sums.numpy()

    @staticmethod
    @tf.function
    def are_finite(tensors: list[tf.Tensor]) -> tf.Tensor:
        """Whether no float is NaN or infinite; a graph, which takes all cores."""
        return tf.reduce_all([tf.reduce_all(tf.math.is_finite(tensor)) for tensor in tensors])

    def end_epoch(self) -> None:
        """Keep the weights for the average of the last epochs; to be called once after each epoch."""
        if self.last_weights:
            for history, weights in zip(self.last_weights, self.weights(), strict=True):
                history[self.epochs % len(history)] = weights
        self.epochs += 1

    def weights(self) -> list[np.ndarray]:
        return [variable.numpy() for variable in self.model.trainable_variables]

    @contextlib.contextmanager
    def exported_model(self) -> Iterator[keras.Model]:
        """The model to validate and to save, in float32 and with the average of the weights if there is one. The model
        that is trained may have these weights within the block."""
        variables, weights = self.model.trainable_variables, None
        if self.optimizer.use_ema or (self.last_weights and self.epochs):
            weights = self.weights()
        if self.optimizer.use_ema:
            self.optimizer.finalize_variable_values(variables)
        elif weights:
            for variable, history in zip(variables, self.last_weights, strict=True):
                variable.assign(history[: self.epochs].mean(axis=0))
        try:
            if self.float32_model is not None:
                self.float32_model.set_weights(self.model.get_weights())
            yield self.float32_model or self.model
        finally:
            if weights:
                for variable, value in zip(variables, weights, strict=True):
                    variable.assign(value)

    def state(self) -> State:
        """-> all that training needs to resume; to be called by all workers at once."""
        return {
            "variables": [v.value for v in self.variables],
            "carry": tf.nest.flatten(self.collect_carry()),
            "clock": [self.clock.state(), self.loss_scale.state()],
            "last_weights": [*self.last_weights, np.array(self.epochs)],
        }

    def is_finite(self, state: State) -> bool:
        """Whether no float of the current state is NaN or infinite."""
        values = (*state["variables"], *state["carry"])
        return bool(self.are_finite([value for value in values if tf.as_dtype(value.dtype).is_floating]))

    def restore(self, state: State) -> None:
        for variable, value in zip(self.variables, state["variables"], strict=True):
            variable.assign(value)
        arrays = [np.asarray(value) for value in state["carry"]]
        self.carry = self.distribute(tf.nest.pack_sequence_as(self.task.initial_carry(), arrays))
        self.clock.restore(np.asarray(state["clock"][0]))
        self.loss_scale.restore(np.asarray(state["clock"][1]))
        *self.last_weights, epochs = [np.array(value) for value in state["last_weights"]]
        self.epochs = int(epochs)

    def restore_from_chief(self, state: State | None) -> None:
        """Restore the state that the chief has read; None on the other workers."""
        own = self.state()  # by all workers; of the same shapes and types
        values = own if state is None else state
        self.restore({name: [self.workers.from_chief(np.asarray(x)) for x in part] for name, part in values.items()})
