"""The tasks: each folder combines the data, networks, loss, metrics, signatures and facts of one task.

A task is registered by its line in `NAMES`; the rest is read from `facts.py` in its folder, without TensorFlow.
"""

import importlib
from pathlib import Path

from kerasnets.checks import choose
from kerasnets.config.run import Config
from kerasnets.tasks.facts import Facts
from kerasnets.tasks.protocol import Task

NAMES = (
    "image_classification",
    "text_generation",
    "translation",
)
TASKS: dict[str, Facts] = {name: importlib.import_module(f"kerasnets.tasks.{name}.facts").FACTS for name in NAMES}


def get_facts(name: str) -> Facts:
    """Return the facts of a task. Raises: RequestError for an unknown name."""
    return TASKS[choose("task", name, TASKS)]


def make_task(name: str, config: Config, directory: Path | None = None) -> Task:
    """-> the task; if `directory` is given, with the vocabulary or the classes that a run or an export saved there."""
    return TASKS[name].make(config, directory)
