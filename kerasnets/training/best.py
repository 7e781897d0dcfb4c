"""Which validation is the best one."""

from collections.abc import Callable

from kerasnets.run.directory import RunDirectory
from kerasnets.tasks.protocol import Metrics, Task


def best_of(task: Task) -> Callable:
    """-> the function that selects the best of several values of the task's metric."""
    return max if task.best_is == "highest" else min


def is_best(task: Task, validation: Metrics, history: list[Metrics]) -> bool:
    values = [entry[task.best_metric] for entry in history]
    return not values or best_of(task)(validation[task.best_metric], *values) == validation[task.best_metric]


def best_validation(task: Task, run: RunDirectory) -> Metrics:
    """-> the log entry of the weights in model.keras: of equal values the last, as in `is_best`."""
    return best_of(task)(reversed(run.best_candidates()), key=lambda entry: entry[task.best_metric])
