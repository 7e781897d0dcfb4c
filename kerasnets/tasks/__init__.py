"""The three uses of the networks. Each file joins data, model, loss, metrics and signatures of one."""

import importlib
from pathlib import Path
from typing import Any

from kerasnets.config import Config

CLASSES = {
    "image_classification": "ImageClassificationTask",
    "text_generation": "TextGenerationTask",
    "translation": "TranslationTask",
}


def make_task(name: str, config: Config, directory: Path | None = None) -> Any:
    """-> the task; with the vocabulary or the classes that a run or an export left in `directory`, if it is given."""
    module = importlib.import_module(f"kerasnets.tasks.{name}.task")
    return getattr(module, CLASSES[name])(config, directory)
