"""Check by its name whether a dataset belongs to a task; errors while its examples are read."""

import contextlib
from collections.abc import Iterator

from kerasnets.data import batches
from kerasnets.data.splits import DataError
from kerasnets.tasks import TASKS
from kerasnets.tasks.facts import Facts

PREFIXES = ("file:", "folder:")


def check_dataset(facts: Facts, dataset: str) -> None:
    """Raises: DataError if the dataset belongs to another task, has an unsupported prefix, or has no name."""
    bundled, own = ", ".join(facts.bundled), facts.own_data
    for other in TASKS.values():
        if dataset in other.bundled and dataset not in facts.bundled:
            raise DataError(f"{dataset!r} is for {other.name}; the bundled dataset for {facts.name} is {bundled}")
    if dataset.startswith(PREFIXES) and not dataset.startswith(own):
        prefix = dataset.partition(":")[0]
        raise DataError(f"{prefix + ':'!r} is not for {facts.name}; give your own data as {own}PATH")
    if not dataset.removeprefix(own):
        raise DataError(f"no dataset is named; it must be {bundled}, {own}PATH or a name in TensorFlow Datasets")


@contextlib.contextmanager
def data_errors() -> Iterator[None]:
    """Raise the errors of data that are read during a training, such as a file that has changed, as they are: tf.data
    turns them into errors of TensorFlow."""
    import tensorflow as tf

    batches.failures.clear()
    try:
        yield
    except tf.errors.OpError as error:
        if batches.failures:
            raise batches.failures[0] from error
        raise
