"""The training loop: steps, a validation and a checkpoint after every epoch, and exact resumption from there.

The batch of a step depends only on the seed and the step, so an interrupted run resumes after its last complete epoch
with the same batches as without the interruption. The checkpoint contains the weights, the optimizer, the state of
every random generator (dropout) and the carry from one step to the next (an LSTM's states).
"""

import contextlib
import sys
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerasnets.checks import RequestError
from kerasnets.run.directory import RunDirectory
from kerasnets.tasks.protocol import Metrics, Task
from kerasnets.training.checkpoints import Checkpoints
from kerasnets.training.progress import Progress
from kerasnets.training.schedules import make_optimizer
from kerasnets.training.step import make_step

STEPS_BETWEEN_LOGS = 50


class Trainer:
    """A task's model, optimizer, batches and step under a strategy, and their checkpoint."""

    def __init__(self, task: Task, strategy: tf.distribute.Strategy, steps: int):
        self.task, self.strategy, self.steps = task, strategy, steps
        keras.utils.set_random_seed(task.config.seed)
        with strategy.scope():
            self.model = task.model()
            self.optimizer = make_optimizer(task.config.training, steps)
            self.optimizer.build(self.model.trainable_variables)
        self.carry = self.distribute(task.initial_carry())
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

    def largest_weight(self) -> float:
        """-> the largest absolute value of all floats in a checkpoint; NaN if any is NaN."""
        values = [*self.model.variables, *self.optimizer.variables, *tf.nest.flatten(self.collect_carry())]
        arrays = [np.asarray(value) for value in values]
        return float(np.max([np.abs(array).max(initial=0) for array in arrays if array.dtype.kind == "f"]))

    def checkpoint(self) -> tf.train.Checkpoint:
        # By position, since Keras's order is stable and its paths are not unique; `model.variables` also contains the
        # states of the random generators, which `.keras` files leave out.
        variables = [*self.model.variables, *self.optimizer.variables]
        return tf.train.Checkpoint(
            variables=[v.value for v in variables],
            carry=[tf.Variable(array) for array in tf.nest.flatten(self.collect_carry())],
        )

    def save(self, checkpoints: Checkpoints, step: int) -> None:
        for variable, array in zip(checkpoints.checkpoint.carry, tf.nest.flatten(self.collect_carry()), strict=True):
            variable.assign(array)
        checkpoints.save(step)

    def restore(self, checkpoints: Checkpoints) -> int:
        """Restore the newest undamaged checkpoint -> its step, 0 if there is no checkpoint."""
        step = checkpoints.restore()
        if step:
            arrays = [variable.numpy() for variable in checkpoints.checkpoint.carry]
            self.carry = self.distribute(tf.nest.pack_sequence_as(self.task.initial_carry(), arrays))
        return step


def train(task: Task, strategy: tf.distribute.Strategy, run: RunDirectory, changes: Metrics | None = None) -> Metrics:
    """Train up to the configured number of epochs, from the newest checkpoint of the run if it has one.

    Args: changes: options that differ from the earlier part of the run, {name: [before, after]}, for its log.
    Returns: the metrics of the training itself for `metrics.json`.
    Raises: FloatingPointError if the loss or a weight is NaN or infinite; earlier checkpoints are kept.
        RequestError if files of the run are damaged.
    """
    epochs, steps_per_epoch = task.config.training.epochs, task.steps_per_epoch
    steps = epochs * steps_per_epoch
    trainer = Trainer(task, strategy, steps)
    checkpoints = Checkpoints(run.path / "checkpoints", trainer.checkpoint())
    start = trainer.restore(checkpoints)
    resume(run, trainer, start)
    if changes:
        run.log("options", step=start, **changes)
    clock = Clock(run)
    progress = Progress(start, steps)
    writer = tf.summary.create_file_writer(str(run.path / "logs"))
    with contextlib.closing(writer), contextlib.closing(progress):
        batches = iter(trainer.batches(start))
        for epoch in range(start // steps_per_epoch, epochs):
            stop = (epoch + 1) * steps_per_epoch
            epoch_steps = range(epoch * steps_per_epoch, stop)
            run_steps(trainer, batches, epoch_steps, clock, progress, writer)
            validation = {name: float(value) for name, value in task.validate(trainer.model).items()}
            # The last step can break the weights after its loss was computed; a checkpoint must be fit to resume from.
            for name, value in {"largest weight": trainer.largest_weight(), **validation}.items():
                require_finite(name, value, epoch_steps, task)
            if is_best(task, validation, run.best_candidates()):
                run.save_model(trainer.model)
            run.log("validation", step=stop, epoch=epoch + 1, seconds=clock.seconds(), **validation)
            with writer.as_default(step=stop):
                for name, value in validation.items():
                    tf.summary.scalar(f"validation/{name}", value)
            progress.write(f"epoch {epoch + 1}/{epochs}  " + "  ".join(f"{k} {v:.4f}" for k, v in validation.items()))
            trainer.save(checkpoints, stop)
    return summary(task, trainer, run, clock, steps)


def resume(run: RunDirectory, trainer: Trainer, start: int) -> None:
    """Bring the log and model.keras to their state after step `start`, from which training resumes."""
    if start and start not in (entry["step"] for entry in run.history("validation")):
        raise RequestError(
            f"{run.path / 'log.jsonl'} is damaged or cut off: it has no validation of step {start}, the checkpoint's; "
            "put it back from a copy, or train again with another --run-dir."
        )
    if start == 0 and run.history("training"):
        print("no epoch was completed; training starts from the beginning.", file=sys.stderr)
    run.rewind(start)
    if start:
        print(f"resuming from step {start} (epoch {start // trainer.task.steps_per_epoch})", file=sys.stderr)
        if not run.has_intact_model():
            run.save_model(trainer.model)
            run.log("model", step=start)
            print("model.keras was damaged or missing; it now has the weights of that step.", file=sys.stderr)


def run_steps(
    trainer: Trainer, batches: Any, steps: range, clock: "Clock", progress: Progress, writer: tf.summary.SummaryWriter
) -> None:
    for step in steps:
        batch = clock.time_wait(lambda: next(batches))
        loss, weight, trainer.carry = trainer.step(batch, trainer.carry)
        clock.add(float(loss) * float(weight), float(weight))
        if (step + 1) % STEPS_BETWEEN_LOGS == 0 or step + 1 == steps.stop:
            rate = float(trainer.optimizer.learning_rate)
            loss, values = clock.report(trainer.task.examples_per_step)
            clock.run.log("training", step=step + 1, loss=loss, learning_rate=rate, **values)
            with writer.as_default(step=step + 1):
                tf.summary.scalar("training/loss", loss)
                tf.summary.scalar("training/learning_rate", rate)
            require_finite("loss", loss, range(steps.start, step + 1), trainer.task)
        progress.update(step + 1, clock.status())


def require_finite(name: str, value: float, steps: range, task: Task) -> None:
    """Raises: FloatingPointError if a value computed after `steps`, which began at a checkpoint, is NaN or infinite."""
    if np.isfinite(value):
        return
    checkpoint = f"step {steps.start}, its last checkpoint" if steps.start else "the start"
    raise FloatingPointError(
        f"the {name} is {value} at step {steps.stop}; resume the run from {checkpoint}, with the same command and "
        f"--resume-with training.learning_rate={task.config.training.learning_rate / 2:.3g} or another option."
    )


def is_best(task: Task, validation: Metrics, history: list[Metrics]) -> bool:
    better = max if task.best_is == "highest" else min
    values = [entry[task.best_metric] for entry in history]
    return not values or better(validation[task.best_metric], *values) == validation[task.best_metric]


def summary(task: Task, trainer: Trainer, run: RunDirectory, clock: "Clock", steps: int) -> Metrics:
    history = run.history("validation")
    choose = max if task.best_is == "highest" else min
    # Of equal values the last, as in `is_best`.
    best = choose(reversed(run.best_candidates()), key=lambda entry: entry[task.best_metric])
    training = run.history("training")
    seconds = sum(entry["step_seconds"] for entry in training)
    wait_seconds = sum(entry["data_wait"] * entry["step_seconds"] for entry in training)
    return {
        "splits": task.split_sizes(),
        "parameters": trainer.model.count_params(),
        "steps": steps,
        "seconds": clock.seconds(),
        "examples_per_second": round(steps * task.examples_per_step / seconds, 1),
        "data_wait": round(wait_seconds / seconds, 4),
        "best": {name: value for name, value in best.items() if name not in ("kind", "seconds")},
        "last": {name: value for name, value in history[-1].items() if name not in ("kind", "seconds")},
    }


class Clock:
    """Measures the time of a run, including before interruptions, and the mean loss between reports."""

    def __init__(self, run: RunDirectory):
        self.run = run
        times = [entry["seconds"] for entry in run.history("training") + run.history("validation")]
        self.earlier_seconds, self.start_time = max(times, default=0.0), time.monotonic()
        self.reset()
        self.loss = float("nan")

    def reset(self) -> None:
        self.report_start = time.monotonic()
        self.wait_seconds, self.count, self.total, self.weight = 0.0, 0, 0.0, 0.0

    def seconds(self) -> float:
        return round(self.earlier_seconds + time.monotonic() - self.start_time, 1)

    def time_wait(self, get: Callable) -> Any:
        """Call `get`, and count its time as waiting for data."""
        start = time.monotonic()
        if not self.count:
            self.report_start = start  # exclude a validation before this step
        value = get()
        self.wait_seconds += time.monotonic() - start
        return value

    def add(self, loss: float, weight: float) -> None:
        self.count, self.total, self.weight = self.count + 1, self.total + loss, self.weight + weight
        self.loss = self.total / max(self.weight, 1e-9)

    def report(self, examples_per_step: float) -> tuple[float, Metrics]:
        """-> mean loss and timings since the last report."""
        seconds = time.monotonic() - self.report_start
        values = {
            "seconds": self.seconds(),
            "step_seconds": round(seconds, 3),
            "examples_per_second": round(self.count * examples_per_step / seconds, 1),
            "data_wait": round(self.wait_seconds / seconds, 4),
        }
        loss = self.loss
        self.reset()
        return loss, values

    def status(self) -> str:
        return f"loss {self.loss:.4f}"


def make_strategy(name: str) -> tf.distribute.Strategy:
    """ "one_device": the first GPU, else the CPU; "mirrored": all GPUs (else all logical CPUs), each with a copy of the
    weights and a part of the batch; "auto": "mirrored" with several GPUs, else "one_device"."""
    gpus = tf.config.list_logical_devices("GPU")
    devices = [device.name for device in gpus or tf.config.list_logical_devices("CPU")]
    if name == "mirrored" or (name == "auto" and len(gpus) > 1):
        return tf.distribute.MirroredStrategy(devices)
    return tf.distribute.OneDeviceStrategy(devices[0])
