"""Check by its name whether a dataset belongs to a task."""

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
