"""What a training writes: its log, TensorBoard's files, checkpoints, model.keras, and its progress for a person.

Only the chief writes; the other workers have the same interface without effect (`Unrecorded`).
"""

import contextlib
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import keras
import tensorflow as tf

from kerasnets.checks import RequestError
from kerasnets.run.directory import RunDirectory
from kerasnets.tasks.protocol import Metrics, Task
from kerasnets.training.checkpoints import Checkpoints, State
from kerasnets.training.progress import Progress
from kerasnets.training.trainer import Trainer


class Unrecorded:
    """The record of a worker that is not the chief: nothing is written or read."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def restore(self) -> tuple[int, State | None]:
        """-> step and state of the newest checkpoint; 0 and None without one."""
        return 0, None

    def resume(self, start: int, changes: Metrics) -> None:
        """Bring the log and model.keras to their state after step `start`, from which training resumes."""

    def is_due(self) -> bool:
        """Whether a checkpoint within an epoch is due."""
        return False

    def save(self, step: int, state: State) -> None:
        """Start to save the state after `step`."""

    def wait(self) -> None:
        """Wait until the last checkpoint is saved. Raises: the error of the last save, if it failed."""

    def discard(self, step: int) -> int:
        """Remove the checkpoint of `step`, which training must not resume from; -> the step of the one before, or 0."""
        return 0

    def is_validated(self, step: int) -> bool:
        """Whether the log has the validation of `step`."""
        return False

    def has_converged(self) -> bool:
        """Whether none of the last `patience` validations is better than the best one before them."""
        return False

    def show(self, step: int, status: str) -> None:
        """Show the progress."""

    def log_training(self, step: int, loss: float, rate: float, values: Metrics) -> None:
        """Log the steps since the last entry."""

    def log_validation(self, step: int, seconds: float, validation: Metrics, model: keras.Model) -> None:
        """Log a validation, and save its model if it is the best one so far."""


class Record(Unrecorded):
    """The record in a run directory. As a context manager it closes its files at the end."""

    def __init__(self, trainer: Trainer, run: RunDirectory, state: State):
        """state: an example of the states to save."""
        self.trainer, self.task, self.run = trainer, trainer.task, run
        self.checkpoints = Checkpoints(run.path / "checkpoints", state)
        self.writer = tf.summary.create_file_writer(str(run.path / "logs"))
        self.save_time = time.monotonic()
        self.progress: Progress | None = None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        with contextlib.ExitStack() as stack:
            for resource in (self.checkpoints, self.writer, self.progress):
                if resource is not None:
                    stack.callback(resource.close)

    def restore(self) -> tuple[int, State | None]:
        return self.checkpoints.restore()

    def resume(self, start: int, changes: Metrics) -> None:
        """Raises: RequestError if the log is damaged."""
        run, steps_per_epoch = self.run, self.task.steps_per_epoch
        validated = (start - 1) // steps_per_epoch * steps_per_epoch  # that of `start` itself may follow
        if validated > 0 and not self.is_validated(validated):
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
                with self.trainer.exported_model() as model:
                    run.save_model(model)
                run.log("model", step=start)
                print("model.keras was damaged or missing; it now has the weights of that step.", file=sys.stderr)
        if changes:
            run.log("options", step=start, **changes)
        self.progress = Progress(start, self.trainer.steps)

    def is_due(self) -> bool:
        return time.monotonic() - self.save_time >= self.task.config.training.checkpoint_seconds

    def save(self, step: int, state: State) -> None:
        self.checkpoints.save(step, state)
        self.save_time = time.monotonic()

    def wait(self) -> None:
        self.checkpoints.wait()

    def discard(self, step: int) -> int:
        self.checkpoints.remove(step)
        return next(iter(self.checkpoints.steps()), 0)

    def is_validated(self, step: int) -> bool:
        return any(entry["step"] == step for entry in self.run.history("validation"))

    def has_converged(self) -> bool:
        patience = self.task.config.training.patience
        scores = [entry[self.task.best_metric] for entry in self.run.history("validation")]
        if not patience or len(scores) <= patience:
            return False
        best = best_of(self.task)
        return best(scores[:-patience]) == best(scores)

    def show(self, step: int, status: str) -> None:
        self.progress.update(step, status)

    def log_training(self, step: int, loss: float, rate: float, values: Metrics) -> None:
        self.run.log("training", step=step, loss=loss, learning_rate=rate, **values)
        with self.writer.as_default(step=step):
            tf.summary.scalar("training/loss", loss)
            tf.summary.scalar("training/learning_rate", rate)

    def log_validation(self, step: int, seconds: float, validation: Metrics, model: keras.Model) -> None:
        if is_best(self.task, validation, self.run.best_candidates()):
            self.run.save_model(model)
        epoch = step // self.task.steps_per_epoch
        self.run.log("validation", step=step, epoch=epoch, seconds=seconds, **validation)
        with self.writer.as_default(step=step):
            for name, value in validation.items():
                tf.summary.scalar(f"validation/{name}", value)
        values = "  ".join(f"{name} {value:.4f}" for name, value in validation.items())
        self.progress.write(f"epoch {epoch}/{self.task.config.training.epochs}  {values}")

    def summary(self) -> Metrics:
        """-> the metrics of the training itself for `metrics.json`."""
        history, task = self.run.history("validation"), self.task
        steps = history[-1]["step"]
        # Of equal values the last, as in `is_best`.
        best = best_of(task)(reversed(self.run.best_candidates()), key=lambda entry: entry[task.best_metric])
        training = self.run.history("training")
        seconds = sum(entry["step_seconds"] for entry in training)
        wait_seconds = sum(entry["data_wait"] * entry["step_seconds"] for entry in training)
        return {
            "splits": task.split_sizes(),
            "parameters": self.trainer.model.count_params(),
            "steps": steps,
            "seconds": self.trainer.clock.seconds(),
            "examples_per_second": round(steps * task.examples_per_step / seconds, 1),
            "data_wait": round(wait_seconds / seconds, 4),
            "best": {name: value for name, value in best.items() if name not in ("kind", "seconds")},
            "last": {name: value for name, value in history[-1].items() if name not in ("kind", "seconds")},
        }


def best_of(task: Task) -> Callable[..., Any]:
    """-> the function that selects the best of several values of the task's metric."""
    return max if task.best_is == "highest" else min


def is_best(task: Task, validation: Metrics, history: list[Metrics]) -> bool:
    values = [entry[task.best_metric] for entry in history]
    return not values or best_of(task)(validation[task.best_metric], *values) == validation[task.best_metric]
