"""What the workers of a training check before they start: that all are ready, and train the same."""

import hashlib
import json
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import tensorflow as tf

from kerasnets.checks import RequestError
from kerasnets.config.values import flatten
from kerasnets.run.directory import PACKAGES
from kerasnets.tasks.protocol import Task
from kerasnets.training.cluster import Cluster
from kerasnets.training.strategies import WorkerGroup

T = TypeVar("T")


def agree(workers: WorkerGroup, cluster: Cluster, prepare: Callable[[], T]) -> T:
    """-> the result of `prepare`, if it succeeds on all workers.

    Raises: its error where it fails, and RequestError on the other workers.
    """
    try:
        result = prepare()
    except Exception:
        workers.collect(np.array([1]))
        raise
    failed = np.flatnonzero(workers.collect(np.array([0])))
    if len(failed):
        names = " and ".join(str(cluster.workers[n]) for n in failed)
        raise RequestError(f"{names} could not start to train; the output there says why.")
    return result


def require_same(workers: WorkerGroup, cluster: Cluster, task: Task) -> None:
    """Raises: RequestError if options, program, packages or data differ between the chief and another worker."""
    facts = {
        "options": {name: value for name, value in flatten(task.config).items() if name != "data_dir"},
        "version of kerasnets": sources(),
        "packages": [metadata.version(name) for name in PACKAGES],
        "data": first_batch(task),
    }
    own = np.array([hash_of(value) for value in facts.values()])
    hashes = workers.collect(own[np.newaxis])
    for name, column in zip(facts, hashes.T, strict=True):
        others = np.flatnonzero(column != column[0])
        if len(others):
            names = " and ".join(str(cluster.workers[n]) for n in others)
            raise RequestError(
                f"the {name} of {names} and of {cluster.workers[0]}, the chief, are not the same; start all workers "
                "with the same command, program, packages and data."
            )


def hash_of(value: Any) -> np.int64:
    digest = hashlib.sha256(json.dumps(value, default=str, sort_keys=True).encode()).digest()
    return np.int64(int.from_bytes(digest[:7]))


def sources() -> list[str]:
    """-> the hash of each file of the package, since two copies of a version can differ."""
    root = Path(__file__).parents[1]
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(root.rglob("*.py"))]


def first_batch(task: Task) -> list[Any]:
    """-> the number of steps and the content of the first batch, which depends on the whole data and the vocabulary."""
    batch = next(iter(task.training_batches(0, 1)))
    arrays = [value.numpy() for value in tf.nest.flatten(batch)]
    return [task.steps_per_epoch, *(hashlib.sha256(array.tobytes()).hexdigest() for array in arrays)]
