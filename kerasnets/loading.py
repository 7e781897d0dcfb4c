"""Open a run directory or an exported SavedModel, for `evaluate` and `predict`."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kerasnets.checks import RequestError
from kerasnets.command import start_tensorflow
from kerasnets.config.run import Config
from kerasnets.run import config_file
from kerasnets.run.files import CONFIG, MODEL, check_json, check_model, load_model
from kerasnets.tasks import Task, get_facts, make_task
from kerasnets.tasks.protocol import Signatures


@dataclass
class LoadedModel:
    """A task with the signatures of its model; `model` is None for a SavedModel."""

    task: Task
    signatures: Signatures
    model: Any
    directory: Path


def is_saved_model(path: Path) -> bool:
    return (path / "saved_model.pb").exists()


def read_config(path: Path) -> tuple[str, str, Config]:
    """-> task, preset and configuration of a run directory or a SavedModel; does not import TensorFlow."""
    if not path.is_dir():
        raise RequestError(f"there is no directory {path}; give a run directory or a SavedModel.")
    extra = path / "assets.extra"
    if is_saved_model(path) and not (extra / CONFIG).exists():
        raise RequestError(f"{path} is not a SavedModel of kerasnets: it has no assets.extra/config.toml.")
    if not is_saved_model(path) and not (path / MODEL).exists():
        raise RequestError(f"{path} is neither a SavedModel nor a run directory with a trained model.")
    directory = config_directory(path)
    task_name, preset, config = config_file.load(directory / CONFIG)
    check_json(directory, [get_facts(task_name).vocabulary_file])
    if not is_saved_model(path):
        check_model(path / MODEL)
    return task_name, preset, config


def config_directory(path: Path) -> Path:
    """-> the directory of the configuration and the vocabulary: the run directory, or assets.extra of a SavedModel."""
    return path / "assets.extra" if is_saved_model(path) else path


def open_model(path: Path, data_dir: str | None = None) -> LoadedModel:
    """-> the task and the model of a run directory or a SavedModel.

    Args: data_dir: directory of TensorFlow Datasets, if it has moved since the training.
    Raises: RequestError if the path is neither, or if one of its files is damaged.
    """
    task_name, _, config = read_config(path)
    if data_dir is not None:
        config = dataclasses.replace(config, data_dir=data_dir)
    start_tensorflow()
    import tensorflow as tf

    task = make_task(task_name, config, config_directory(path))
    if not is_saved_model(path):
        model = load_model(path / MODEL)
        return LoadedModel(task, task.signatures(model), model, path)
    try:
        loaded = tf.saved_model.load(str(path))
    except (tf.errors.OpError, IndexError, OSError, ValueError) as error:  # raised for damaged files
        reason = " ".join(str(error).split()[:30])
        raise RequestError(f"{path} is damaged or cut off ({reason}); export it again.") from None
    return LoadedModel(task, loaded.signatures, None, path)
