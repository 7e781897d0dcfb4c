"""The training loop: steps, checkpoints, a validation after every epoch, and exact resumption.

The batch of a step depends only on the seed and the step, so a run that was killed at any moment resumes after the step
of its newest checkpoint with the same batches as without the interruption. The checkpoint contains the weights, the
optimizer, the state of every random generator (dropout), the carry from one step to the next (an LSTM's states), and
the sums of the next log entry.
"""

import contextlib
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import tensorflow as tf

from kerasnets.run.directory import RunDirectory
from kerasnets.run.interrupts import Stopped, StopRequest, StopRequested
from kerasnets.tasks.protocol import Metrics, Task
from kerasnets.training.record import Record, Unrecorded
from kerasnets.training.trainer import NO_REQUESTS, Trainer

STEPS_BETWEEN_LOGS = 50


def train(
    task: Task, strategy: tf.distribute.Strategy, run: RunDirectory | None, changes: Metrics | None = None
) -> Metrics:
    """Train up to the configured number of epochs, from the newest checkpoint of the run if it has one.

    Args: run: None on a worker that is not the chief. changes: options that differ from the earlier part of the run,
        {name: [before, after]}, for its log.
    Returns: the metrics of the training itself for `metrics.json`; empty without a run directory.
    Raises: Stopped after the first SIGINT or SIGTERM. FloatingPointError if the loss or a weight is NaN or infinite;
        earlier checkpoints are kept. RequestError if files of the run are damaged.
    """
    steps = task.config.training.epochs * task.steps_per_epoch
    trainer = Trainer(task, strategy, steps)
    first = trainer.state()
    record = Unrecorded() if run is None else Record(trainer, run, first)
    with record, StopRequest() as request:
        start, state = record.restore()
        start = int(trainer.workers.from_chief(np.array(start)))
        if start:
            trainer.restore_from_chief(state)
        record.resume(start, changes or {})
        Loop(trainer, record, request, start).run()
        record.wait()
    return record.summary() if isinstance(record, Record) else {}


@dataclass
class Loop:
    """Steps, logs, checkpoints and validations of a training, from step `saved_step` on."""

    trainer: Trainer
    record: Unrecorded
    request: StopRequest
    saved_step: int

    @property
    def is_alone(self) -> bool:
        return self.trainer.workers.count == 1

    def run(self) -> None:
        """Train to the end."""
        trainer, steps_per_epoch, start = self.trainer, self.trainer.task.steps_per_epoch, self.saved_step
        if start and start % steps_per_epoch == 0 and not self.decide(self.record.is_validated(start)):
            self.validate(start)
        if self.decide(self.record.has_converged()):
            return
        batches = iter(trainer.batches(start))
        for step in range(start + 1, trainer.steps + 1):
            agreed = self.train_step(step, batches)
            # Alone, a request counts at once; several workers follow the requests that the step has summed.
            save, stop = self.requests() if self.is_alone else agreed
            end_of_epoch = step % steps_per_epoch == 0
            if end_of_epoch:
                trainer.end_epoch()
            if end_of_epoch or save or stop:
                self.save(step)
            if stop:
                self.stop()
            if end_of_epoch:
                self.validate(step)
                if self.decide(self.record.has_converged()):
                    break
        if self.request.received and self.is_alone:
            self.stop()

    def decide(self, value: bool) -> bool:
        """-> the chief's value, on all workers."""
        return bool(self.trainer.workers.from_chief(np.array(value)))

    def requests(self) -> np.ndarray:
        """-> float32 [2], positive if a checkpoint is due, and if training has to stop."""
        return np.array([self.record.is_due(), self.request.received], np.float32)

    def train_step(self, step: int, batches: Any) -> np.ndarray:
        """-> the sum of all workers' requests before the step."""
        trainer, clock = self.trainer, self.trainer.clock
        batch = clock.time_wait(lambda: next(batches))
        loss, weight, requests = trainer.take_step(batch, NO_REQUESTS if self.is_alone else self.requests())
        clock.add(loss * weight, weight)
        if step % STEPS_BETWEEN_LOGS == 0 or step % trainer.task.steps_per_epoch == 0:
            loss, timings = clock.report(trainer.task.examples_per_step, trainer.task.weight_unit)
            self.require_finite("loss", loss, step)
            rate = float(trainer.optimizer.learning_rate)
            self.record.log_training(step, {"loss": loss, "learning_rate": rate, **timings})
        self.record.show(step, clock)
        return requests

    def save(self, step: int) -> None:
        state = self.trainer.state()
        # The last step can break the weights after its loss was computed; a checkpoint must be fit to resume from.
        if not self.trainer.is_finite(state):
            self.fail("a weight is NaN or infinite", step)
        self.record.save(step, state)
        self.saved_step = step

    def stop(self) -> NoReturn:
        self.record.wait()
        raise Stopped(self.saved_step, self.trainer.steps)

    def validate(self, step: int) -> None:
        """Validate the weights after `step`, whose checkpoint is saved, and record them."""
        task, clock = self.trainer.task, self.trainer.clock
        with self.trainer.exported_model() as model:
            try:
                # Several workers would leave it at different points: they stop after the next step.
                with self.request.may_end() if self.is_alone else contextlib.nullcontext():
                    scores = task.validate(model, self.trainer.workers)
            except StopRequested:
                self.stop()
            validation = {name: float(value) for name, value in scores.items()}
            for name, value in validation.items():
                if not np.isfinite(value):
                    self.saved_step = int(self.trainer.workers.from_chief(np.array(self.record.discard(step))))
                self.require_finite(name, value, step)
            self.record.log_validation(step, clock.seconds(), validation, model)
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
