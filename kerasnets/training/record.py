"""What a training writes: its log, checkpoints, model.keras, and what a person sees (`Display`).

Only the chief writes; the other workers have the same interface without effect (`Unrecorded`).
"""

import contextlib
import sys
import time
from typing import Self

import keras

from kerasnets.checks import RequestError
from kerasnets.run.directory import RunDirectory
from kerasnets.tasks.protocol import Metrics
from kerasnets.training.best import best_of, best_validation, is_best
from kerasnets.training.checkpoints import Checkpoints, State
from kerasnets.training.clock import Clock
from kerasnets.training.display import Display
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

    def show(self, step: int, clock: Clock) -> None:
        """Show the progress after a step."""

    def log_training(self, step: int, values: Metrics) -> None:
        """Log the steps since the last entry."""

    def log_validation(self, step: int, seconds: float, validation: Metrics, model: keras.Model) -> None:
        """Log a validation, and save its model if it is the best one so far."""


class Record(Unrecorded):
    """The record in a run directory. As a context manager it closes its files at the end."""

    def __init__(self, trainer: Trainer, run: RunDirectory, state: State):
        """state: an example of the states to save."""
        self.trainer, self.task, self.run = trainer, trainer.task, run
        self.checkpoints = Checkpoints(run.path / "checkpoints", state)
        self.save_time = time.monotonic()
        self.resources = contextlib.ExitStack()
        self.resources.callback(self.checkpoints.close)

    def __exit__(self, *error: object) -> None:
        self.resources.close()

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
        self.display = self.resources.enter_context(
            contextlib.closing(Display(self.task, run, start, self.trainer.steps))
        )

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

    def show(self, step: int, clock: Clock) -> None:
        self.display.step(step, clock)

    def log_training(self, step: int, values: Metrics) -> None:
        self.run.log("training", step=step, **values)
        self.display.training(step, values)

    def log_validation(self, step: int, seconds: float, validation: Metrics, model: keras.Model) -> None:
        if is_best(self.task, validation, self.run.best_candidates()):
            self.run.save_model(model)
        samples = self.display.take_samples(step, model)
        epoch = step // self.task.steps_per_epoch
        self.run.log("validation", step=step, epoch=epoch, seconds=seconds, **validation)
        self.display.validation(step, epoch, validation, samples)

    def summary(self) -> Metrics:
        """-> the metrics of the training itself for `metrics.json`."""
        history, task = self.run.history("validation"), self.task
        steps = history[-1]["step"]
        best = best_validation(task, self.run)
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
