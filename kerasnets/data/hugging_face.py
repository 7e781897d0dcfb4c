"""Datasets of the Hugging Face Hub by name, through TFDS's own bridge: `huggingface:OWNER__NAME/CONFIG`.

The bridge (`HuggingfaceDatasetBuilder`) downloads a dataset with the package `datasets` and writes it as a dataset of
TFDS; from then on neither the package nor a network is needed.
"""

import importlib.util
import os
from collections.abc import Callable
from typing import Any

from kerasnets.data.splits import DataError

PREFIX = "huggingface:"
FOLDER = "huggingface"  # in the folder of TFDS datasets, where names of TFDS and of the Hub could be the same
HOST = "huggingface.co"


def builder(name: str, directory: str, is_reachable: Callable[[str], bool]) -> Any:
    """-> the prepared builder of the dataset `name`, which begins with PREFIX.

    Args: is_reachable: whether a host can be reached.
    Raises: DataError if the dataset is not prepared and cannot be downloaded.
    """
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.read_only_builder import builder_from_files

    store = os.path.join(directory, FOLDER)
    try:
        return builder_from_files(name.removeprefix(PREFIX).lower(), data_dir=store)
    except tfds.core.DatasetNotFoundError:
        pass
    problem = f"{name!r} is not in {store}"
    if not is_installed():
        raise DataError(f"{problem}, and the package datasets, which downloads it, is not installed: install datasets")
    if not is_reachable(HOST):
        raise DataError(
            f"{problem}, and {HOST} cannot be reached: prepare it where there is a network, and copy {store}"
        )
    try:
        made = tfds.builder(name.lower(), data_dir=store)
        made.download_and_prepare()
    except Exception as error:  # both packages may raise anything
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"{name!r} could not be downloaded from the Hugging Face Hub ({reason[:200]}): names are written as "
            f"{PREFIX}OWNER__NAME or {PREFIX}OWNER__NAME/CONFIG"
        ) from error
    return made


def is_installed() -> bool:
    """Whether the package `datasets` is installed."""
    return importlib.util.find_spec("datasets") is not None
