"""Check by its name whether a dataset belongs to a task."""

from kerasnets.data.splits import DataError
from kerasnets.tasks import TASKS
from kerasnets.tasks.facts import Facts

FORMS = ("file:", "folder:")


def check_dataset(facts: Facts, dataset: str) -> None:
    """Raises: DataError if the dataset belongs to another task, has an unsupported prefix, or has no name."""
    bundled, own = ", ".join(facts.bundled), facts.own_data
    for other in TASKS.values():
        if dataset in other.bundled and dataset not in facts.bundled:
            raise DataError(f"{dataset!r} is for {other.name}: the bundled set for {facts.name} is {bundled}")
    if dataset.startswith(FORMS) and not dataset.startswith(own):
        form = dataset.partition(":")[0]
        raise DataError(f"{form + ':'!r} is not for {facts.name}: your own data is given as {own}PATH")
    if not dataset.removeprefix(own):
        raise DataError(f"no data set given: name {bundled}, {own}PATH or a set of TensorFlow Datasets")
