"""What a person sees of a training: progress and samples on the terminal, TensorBoard, and the learning curves."""

import math
import shutil
import time

import keras
import tensorflow as tf

from kerasnets.run.directory import RunDirectory
from kerasnets.tasks.protocol import Metrics, Task
from kerasnets.tasks.samples import Samples
from kerasnets.training.best import best_validation
from kerasnets.training.clock import Clock
from kerasnets.training.curves import FILE as CURVES
from kerasnets.training.curves import draw_curves
from kerasnets.training.progress import Progress
from kerasnets.training.samples import draw_images, format_samples, to_markdown

SECONDS_BETWEEN_PICTURES = 10  # so that samples and curves of short epochs take little time and space
TENSORBOARD = "logs"


class Display:
    """Shows the steps `start` to `stop` of a run. It reads the run's log, and changes nothing of the training."""

    def __init__(self, task: Task, run: RunDirectory, start: int, stop: int):
        self.task, self.run = task, run
        self.writer = tf.summary.create_file_writer(str(run.path / TENSORBOARD))
        self.progress = Progress(start, stop)
        self.stop = stop
        self.picture_time = -math.inf
        self.last_validation = ""
        self.curves_are_outdated = False
        if validations := run.history("validation"):
            self.last_validation, self.curves_are_outdated = self.format_best_metric(validations[-1]), True

    def step(self, step: int, clock: Clock) -> None:
        """Show the progress after a step."""
        padding = f" ({self.task.padding:.0%} padding)" if self.task.padding else ""
        rate = f"{clock.weight_per_second:,.0f} {self.task.weight_unit}/s{padding}"
        # A narrow terminal cuts the end off.
        parts = (f"loss {clock.loss:.4f}", rate, self.last_validation, f"data wait {clock.data_wait:.0%}")
        self.progress.update(step, "  ".join(filter(None, parts)))

    def training(self, step: int, values: Metrics) -> None:
        """Show an entry of kind "training" of the log."""
        with self.writer.as_default(step=step):
            for name in ("loss", "learning_rate", f"{self.task.weight_unit}_per_second", "data_wait"):
                tf.summary.scalar(f"training/{name}", values[name])

    def take_samples(self, step: int, model: keras.Model) -> Samples | None:
        """-> samples of the model after a step, for `validation`; None if others were shown a moment ago."""
        return self.task.samples(model) if self.pictures_are_due() or step == self.stop else None

    def pictures_are_due(self) -> bool:
        return time.monotonic() - self.picture_time >= SECONDS_BETWEEN_PICTURES

    def validation(self, step: int, epoch: int, values: Metrics, samples: Samples | None) -> None:
        """Show a validation that is in the log already, and samples."""
        self.last_validation = self.format_best_metric(values)
        text = "  ".join(f"{name} {value:.4f}" for name, value in values.items())
        self.progress.write(f"epoch {epoch}/{self.task.config.training.epochs}  {text}")
        with self.writer.as_default(step=step):
            for name, value in values.items():
                tf.summary.scalar(f"validation/{name}", value)
            if samples is not None:
                self.show_samples(samples)
        self.writer.flush()
        self.curves_are_outdated = True
        if self.pictures_are_due():
            self.draw_curves()
            self.picture_time = time.monotonic()

    def show_samples(self, samples: Samples) -> None:
        width = min(shutil.get_terminal_size().columns, 120)
        self.progress.write(f"{format_samples(samples, width)}\n")
        tf.summary.text("samples", to_markdown(samples))
        if samples.images is not None and len(samples.images):
            tf.summary.image("samples", draw_images(samples)[tf.newaxis])

    def draw_curves(self) -> None:
        training, validation = self.run.history("training"), self.run.history("validation")
        best = best_validation(self.task, self.run)
        draw_curves(training, validation, best, self.task.steps_per_epoch, self.run.path / CURVES)
        self.curves_are_outdated = False

    def format_best_metric(self, values: Metrics) -> str:
        return f"validation {self.task.best_metric} {values[self.task.best_metric]:.4f}"

    def close(self) -> None:
        self.progress.close()
        self.writer.close()
        if self.curves_are_outdated:
            self.draw_curves()
