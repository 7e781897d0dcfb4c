"""The files of a run directory: written atomically, and checked before use.

`export` copies some of them into `assets.extra` of a SavedModel, where they are checked in the same way.
"""

from __future__ import annotations

import importlib
import io
import json
import os
import warnings
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kerasnets.checks import RequestError
from kerasnets.run.interrupts import interrupts_deferred
from kerasnets.tasks import figures

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CONFIG, MODEL, METRICS = "config.toml", "model.keras", "metrics.json"
EXAMPLES, DATA = "examples.json", "data.json"
TRAIN_AGAIN = "run the train command again, which rewrites it"
# Files of a run that an export reads if they exist.
RESULTS = (METRICS, DATA, "calibration.json", "evaluation-*.json")
REMEDIES = {
    METRICS: f"remove it and {TRAIN_AGAIN}.",
    "calibration.json": "remove it to disable calibration.",
    DATA: "remove it to skip the check whether the data have changed.",
}


def write(path: Path, content: str | bytes) -> None:
    """Write a file (text as UTF-8) under a temporary name and rename it, so that it is never incomplete, even after a
    failure."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())  # otherwise a power failure may keep the new name without its content
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def is_partial(name: str) -> bool:
    """Whether a file is the temporary file of a `write` whose process was killed."""
    return name.startswith(".") and name.endswith(".partial")


def write_json(path: Path, value: object) -> None:
    write(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_figure(path: Path, figure: Figure) -> None:
    """Write a picture in the format that the file's suffix names."""
    figures.add_fonts(figure)
    content = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # a box in the picture says so
        figure.savefig(content, format=path.suffix[1:], dpi=110)
    write(path, content.getvalue())


def read_json(path: Path) -> Any:
    """-> the value in a JSON file.

    Raises: RequestError if the file is missing or damaged; a truncated JSON object is always invalid.
    """
    try:
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise RequestError(f"{path} is missing; {remedy(path.name)}") from None
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise RequestError(f"{path} is damaged or cut off; {remedy(path.name)}") from None


def remedy(name: str) -> str:
    if name.startswith("evaluation-"):
        return "remove it and evaluate again."
    return REMEDIES.get(name, "put it back from a copy, or train again with another --run-dir.")


def check_json(directory: Path, required: Iterable[str], optional: Iterable[str] = ()) -> None:
    """Read files, to find damage before any computation.

    Args: required: names of files; optional: patterns of names of files that may be missing.
    Raises: RequestError if a file is missing or damaged.
    """
    for path in [directory / name for name in required] + [path for name in optional for path in directory.glob(name)]:
        read_json(path)


def is_intact_model(path: Path) -> bool:
    """Whether model.keras, a zip archive, exists, is complete and matches its checksums."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (OSError, EOFError, zipfile.BadZipFile, zipfile.zlib.error):  # type: ignore[attr-defined]
        return False


def check_model(path: Path) -> None:
    if not is_intact_model(path):
        raise RequestError(f"{path} is damaged or cut off; {TRAIN_AGAIN}, from the newest checkpoint.")


def load_model(path: Path) -> Any:
    """-> the Keras model of a model.keras, which may use layers of kerasnets.

    Raises: RequestError if the file is missing, damaged or cut off.
    """
    import keras

    check_model(path)
    import_network(path)
    with interrupts_deferred():
        return keras.models.load_model(path)


def import_network(path: Path) -> None:
    """Import the module of the network's class, which registers it with Keras."""
    with zipfile.ZipFile(path) as archive:
        module = json.loads(archive.read("config.json")).get("module") or ""
    if module.startswith("kerasnets."):
        importlib.import_module(module)
