"""The training loop: steps, checkpoints, a validation after every epoch, and exact resumption.

The batch of a step depends only on the seed and the step, so a run that was killed at any moment resumes after the step
of its newest checkpoint with the same batches as without the interruption. The checkpoint contains the weights, the
optimizer, the state of every random generator (dropout), the carry from one step to the next (an LSTM's states), and
the sums of the next log entry.
"""

import contextlib
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

import keras
import numpy as np
import tensorflow as tf

from kerasnets.checks import RequestError
from kerasnets.run.directory import RunDirectory
from kerasnets.run.interrupts import Stopped, StopRequest, StopRequested
from kerasnets.tasks.protocol import Metrics, Task
from kerasnets.training.best import best_of, best_validation, is_best
from kerasnets.training.checkpoints import Checkpoints, State
from kerasnets.training.clock import Clock
from kerasnets.training.display import Display
from kerasnets.training.schedules import make_optimizer
from kerasnets.training.step import make_step

STEPS_BETWEEN_LOGS = 50


class Trainer:
    """A task's model, optimizer, batches and step under a strategy, and their state."""

    def __init__(self, task: Task, strategy: tf.distribute.Strategy, steps: int):
        self.task, self.strategy, self.steps = task, strategy, steps
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
        self.step = make_step(
            task,
            self.model,
            self.optimizer,
            strategy,
            task.config.training.clip_norm,
            self.batches(0).element_spec,
            tf.nest.map_structure(tf.type_spec_from_value, self.carry),
        )

    def batches(self, start: int) -> tf.data.Dataset | tf.distribute.DistributedDataset:
        """-> the batches from step `start` on, each split over the devices."""
        batches = self.task.training_batches(start, self.steps)
        if self.strategy.num_replicas_in_sync == 1:
            return batches  # no split, and no second iterator around the first one
        return self.strategy.experimental_distribute_dataset(batches)

    def distribute(self, carry: Any) -> Any:
        """Nested arrays [B, ...] -> each device's share of the rows."""
        replicas = self.strategy.num_replicas_in_sync

        def share(array):
            parts = np.array_split(array, replicas)
            return self.strategy.experimental_distribute_values_from_function(
                lambda context: tf.convert_to_tensor(parts[context.replica_id_in_sync_group])
            )

        return tf.nest.map_structure(share, carry)

    def collect_carry(self) -> Any:
        """-> the carry of all devices as nested arrays [B, ...]."""
        results = self.strategy.experimental_local_results
        return tf.nest.map_structure(lambda part: np.concatenate([p.numpy() for p in results(part)]), self.carry)

    @tf.function
    def weights_are_finite(self) -> tf.Tensor:
        """Whether no float of the model and the optimizer is NaN or infinite; a graph, which takes all cores."""
        floats = [v.value for v in self.variables if v.value.dtype.is_floating]
        return tf.reduce_all([tf.reduce_all(tf.math.is_finite(value)) for value in floats])

    def is_finite(self) -> bool:
        """Whether no float of a checkpoint is NaN or infinite."""
        carry = tf.nest.flatten(self.collect_carry())
        return bool(self.weights_are_finite()) and all(np.isfinite(array).all() for array in carry)

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
        """-> all that training needs to resume."""
        variables = [v.value for v in self.variables]
        return {"variables": variables, "carry": tf.nest.flatten(self.collect_carry()), "clock": [self.clock.state()]}

    def restore(self, state: State) -> None:
        for variable, value in zip(self.variables, state["variables"], strict=True):
            variable.assign(value)
        arrays = [value.numpy() for value in state["carry"]]
        self.carry = self.distribute(tf.nest.pack_sequence_as(self.task.initial_carry(), arrays))
        self.clock.restore(state["clock"][0].numpy())


def train(task: Task, strategy: tf.distribute.Strategy, run: RunDirectory, changes: Metrics | None = None) -> Metrics:
    """Train up to the configured number of epochs, from the newest checkpoint of the run if it has one.

    Args: changes: options that differ from the earlier part of the run, {name: [before, after]}, for its log.
    Returns: the metrics of the training itself for `metrics.json`.
    Raises: Stopped after the first SIGINT or SIGTERM. FloatingPointError if the loss or a weight is NaN or infinite;
        earlier checkpoints are kept. RequestError if files of the run are damaged.
    """
    steps = task.config.training.epochs * task.steps_per_epoch
    trainer = Trainer(task, strategy, steps)
    checkpoints = Checkpoints(run.path / "checkpoints", trainer.state())
    with contextlib.closing(checkpoints), StopRequest() as request:
        start, state = checkpoints.restore()
        if state is not None:
            trainer.restore(state)
        resume(run, trainer, start)
        if changes:
            run.log("options", step=start, **changes)
        with contextlib.closing(Display(task, run, start, steps)) as display:
            Loop(trainer, run, checkpoints, display, request).run(start)
        checkpoints.wait()
    return summary(task, trainer, run)


def resume(run: RunDirectory, trainer: Trainer, start: int) -> None:
    """Bring the log and model.keras to their state after step `start`, from which training resumes."""
    steps_per_epoch = trainer.task.steps_per_epoch
    validated = (start - 1) // steps_per_epoch * steps_per_epoch  # that of `start` itself may follow
    if validated > 0 and validated not in (entry["step"] for entry in run.history("validation")):
        raise RequestError(
            f"{run.path / 'log.jsonl'} is damaged or cut off: it has no validation of step {validated}; "
            "put it back from a copy, or train again with another --run-dir."
        )
    if start == 0 and run.history("training"):
        print("there is no checkpoint yet; training starts from the beginning.", file=sys.stderr)
    run.rewind(start)
    if start:
        print(f"resuming from step {start} (epoch {start / steps_per_epoch:.4g})", file=sys.stderr)
        if run.history("validation") and not run.has_intact_model():
            with trainer.averaged_weights() as model:
                run.save_model(model)
            run.log("model", step=start)
            print("model.keras was damaged or missing; it now has the weights of that step.", file=sys.stderr)


@dataclass
class Loop:
    """Steps, logs, checkpoints and validations of a training."""

    trainer: Trainer
    run_directory: RunDirectory
    checkpoints: Checkpoints
    display: Display
    request: StopRequest

    def run(self, start: int) -> None:
        """Train from step `start` to the end."""
        trainer, steps_per_epoch = self.trainer, self.trainer.task.steps_per_epoch
        self.saved_step, self.save_time = start, time.monotonic()
        if start and start % steps_per_epoch == 0 and not self.is_validated(start):
            self.validate(start)
        if self.has_converged():
            return
        batches = iter(trainer.batches(start))
        for step in range(start + 1, trainer.steps + 1):
            self.train_step(step, batches)
            end_of_epoch = step % steps_per_epoch == 0
            interval = trainer.task.config.training.checkpoint_seconds
            if end_of_epoch or self.request.received or time.monotonic() - self.save_time >= interval:
                self.save(step)
            if self.request.received:
                self.stop()
            if end_of_epoch:
                self.validate(step)
                if self.has_converged():
                    break
        if self.request.received:
            self.stop()

    def train_step(self, step: int, batches: Any) -> None:
        trainer, clock = self.trainer, self.trainer.clock
        batch = clock.time_wait(lambda: next(batches))
        loss, weight, trainer.carry = trainer.step(batch, trainer.carry)
        clock.add(float(loss) * float(weight), float(weight))
        if step % STEPS_BETWEEN_LOGS == 0 or step % trainer.task.steps_per_epoch == 0:
            rate = float(trainer.optimizer.learning_rate)
            loss, timings = clock.report(trainer.task.examples_per_step, trainer.task.weight_unit)
            self.require_finite("loss", loss, step)
            entry = {"loss": loss, "learning_rate": rate, **timings}
            self.run_directory.log("training", step=step, **entry)
            self.display.training(step, entry)
        self.display.step(step, clock)

    def save(self, step: int) -> None:
        # The last step can break the weights after its loss was computed; a checkpoint must be fit to resume from.
        if not self.trainer.is_finite():
            self.fail("a weight is NaN or infinite", step)
        self.checkpoints.save(step, self.trainer.state())
        self.saved_step, self.save_time = step, time.monotonic()

    def stop(self) -> NoReturn:
        self.checkpoints.wait()
        raise Stopped(self.saved_step, self.trainer.steps)

    def is_validated(self, step: int) -> bool:
        return any(entry["step"] == step for entry in self.run_directory.history("validation"))

    def has_converged(self) -> bool:
        """Whether none of the last `patience` validations is better than the best one before them."""
        task, patience = self.trainer.task, self.trainer.task.config.training.patience
        scores = [entry[task.best_metric] for entry in self.run_directory.history("validation")]
        if not patience or len(scores) <= patience:
            return False
        best = best_of(task)
        return best(scores[:-patience]) == best(scores)

    def validate(self, step: int) -> None:
        """Validate the weights after `step`, whose checkpoint is saved, and write them to model.keras if they are the
        best."""
        task, run, clock = self.trainer.task, self.run_directory, self.trainer.clock
        with self.trainer.averaged_weights() as model:
            try:
                with self.request.may_end():
                    validation = {name: float(value) for name, value in task.validate(model).items()}
            except StopRequested:
                self.stop()
            for name, value in validation.items():
                if not np.isfinite(value):
                    self.checkpoints.remove(step)
                    self.saved_step = next(iter(self.checkpoints.steps()), 0)
                self.require_finite(name, value, step)
            if is_best(task, validation, run.best_candidates()):
                run.save_model(model)
            samples = self.display.take_samples(step, model)
        epoch = step // task.steps_per_epoch
        run.log("validation", step=step, epoch=epoch, seconds=clock.seconds(), **validation)
        self.display.validation(step, epoch, validation, samples)
        clock.exclude_pause()

    def require_finite(self, name: str, value: float, step: int) -> None:
        """Raises: FloatingPointError if a value is NaN or infinite after `step`."""
        if not np.isfinite(value):
            self.fail(f"the {name} is {value}", step)

    def fail(self, problem: str, step: int) -> NoReturn:
        checkpoint = f"step {self.saved_step}, its last checkpoint" if self.saved_step else "the start"
        rate = self.trainer.task.config.training.learning_rate / 2
        raise FloatingPointError(
            f"{problem} at step {step}; resume the run from {checkpoint}, with the same command and "
            f"--resume-with training.learning_rate={rate:.3g} or another option."
        )


def summary(task: Task, trainer: Trainer, run: RunDirectory) -> Metrics:
    history = run.history("validation")
    steps = history[-1]["step"]
    best = best_validation(task, run)
    training = run.history("training")
    seconds = sum(entry["step_seconds"] for entry in training)
    wait_seconds = sum(entry["data_wait"] * entry["step_seconds"] for entry in training)
    return {
        "splits": task.split_sizes(),
        "parameters": trainer.model.count_params(),
        "steps": steps,
        "seconds": trainer.clock.seconds(),
        "examples_per_second": round(steps * task.examples_per_step / seconds, 1),
        "data_wait": round(wait_seconds / seconds, 4),
        "best": {name: value for name, value in best.items() if name not in ("kind", "seconds")},
        "last": {name: value for name, value in history[-1].items() if name not in ("kind", "seconds")},
    }


def make_strategy(name: str) -> tf.distribute.Strategy:
    """ "one_device": the first GPU, else the CPU; "mirrored": all GPUs (else all logical CPUs), each with a copy of the
    weights and a part of the batch; "auto": "mirrored" with several GPUs, else "one_device"."""
    gpus = tf.config.list_logical_devices("GPU")
    devices = [device.name for device in gpus or tf.config.list_logical_devices("CPU")]
    if name == "mirrored" or (name == "auto" and len(gpus) > 1):
        return tf.distribute.MirroredStrategy(devices)
    return tf.distribute.OneDeviceStrategy(devices[0])
