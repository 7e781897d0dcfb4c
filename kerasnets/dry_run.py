"""The dry run of a training: a few steps, two validations and an export; the time and memory that it would need."""

import itertools
import resource
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import tensorflow as tf

from kerasnets.export import export
from kerasnets.run.directory import RunDirectory
from kerasnets.tasks.protocol import Task
from kerasnets.training.precision import check_precision
from kerasnets.training.progress import format_time
from kerasnets.training.strategies import make_strategy
from kerasnets.training.trainer import Trainer

MIN_STEPS, MAX_STEPS, SECONDS = 3, 20, 5.0  # steps that are timed: until so many seconds have passed, in these limits


def try_out(task: Task, run_directory: RunDirectory, strategy: str, models_dir: Path) -> dict[str, str]:
    """Time steps and validations, and export to `models_dir`.

    Returns: a table of names and values: the size of the network, time and memory; it is printed too.
    """
    distribution = make_strategy(strategy)
    check_precision(task.config.training.precision, distribution)
    steps = task.steps_per_epoch * task.config.training.epochs
    trainer = Trainer(task, distribution, steps)
    step_seconds = time_steps(trainer)
    validation_seconds = []
    for _ in range(2):  # the first one also builds its graph
        start = time.monotonic()
        with trainer.exported_model() as model:
            validation = task.validate(model)
        validation_seconds.append(time.monotonic() - start)
    memory = peak_memory()
    with trainer.exported_model() as model:
        run_directory.save_model(model)
    export(run_directory.path, models_dir)
    table = {
        "parameters": f"{trainer.model.count_params():,}",
        **time_table(task, step_seconds, validation_seconds),
        **memory_table(trainer),
        **memory,
        **{f"validation {name}": f"{value:.4f} (untrained)" for name, value in validation.items()},
    }
    for name, value in table.items():
        print(f"{name:22}{value}")
    return table


def time_steps(trainer: Trainer) -> list[float]:
    """-> seconds of each of the first steps; the first one also builds its graph."""
    seconds: list[float] = []
    for batch in itertools.islice(trainer.batches(0), MAX_STEPS):
        start = time.monotonic()
        trainer.take_step(batch)
        seconds.append(time.monotonic() - start)
        if len(seconds) >= MIN_STEPS and sum(seconds[1:]) > SECONDS:
            break
    return seconds


def time_table(task: Task, step_seconds: list[float], validation_seconds: list[float]) -> dict[str, str]:
    """-> the times of a step and of a validation, and the estimated time of the whole run."""
    epochs = task.config.training.epochs
    steps = task.steps_per_epoch * epochs
    first, later = step_seconds[0], step_seconds[1:] or step_seconds
    later_step = sum(later) / len(later)
    training = first + (steps - 1) * later_step
    validations = validation_seconds[0] + (epochs - 1) * validation_seconds[-1]
    return {
        "steps": f"{steps:,} ({task.steps_per_epoch:,} per epoch)",
        "first step": f"{first:.1f} s",
        "later steps": f"{later_step:.3f} s (mean of {len(later)})",
        "validation": f"{validation_seconds[-1]:.3f} s",
        "estimated run": f"{format_time(training + validations)}: {format_time(training)} for {epochs} epochs, "
        f"{format_time(validations)} for their validations",
    }


def memory_table(trainer: Trainer) -> dict[str, str]:
    """-> the memory of all variables on one device, and of the gradients."""
    model, optimizer = trainer.model, trainer.optimizer
    sizes = {
        "weights": model.variables,
        "gradients": model.trainable_variables,
        "optimizer": optimizer.variables,
    }
    return {f"{name} in memory": format_bytes(variable_bytes(variables)) for name, variables in sizes.items()}


def variable_bytes(variables: Iterable[Any]) -> int:
    return sum(v.value.dtype.size * v.value.shape.num_elements() for v in variables)


def peak_memory() -> dict[str, str]:
    """-> the peak memory of this process so far, and of each GPU."""
    process = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    gpus = [device.name.removeprefix("/device:") for device in tf.config.list_logical_devices("GPU")]
    peaks = {f"peak memory of {gpu}": tf.config.experimental.get_memory_info(gpu)["peak"] for gpu in gpus}
    return {name: format_bytes(size) for name, size in {"peak memory": process, **peaks}.items()}


def format_bytes(count: float) -> str:
    for unit in ("bytes", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} bytes" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.2f} GiB"
