"""The files of a run directory: written whole or not at all, and checked before they are read.

`export` copies some of them into `assets.extra` of a SavedModel, where they are checked in the same way.
"""

import importlib
import json
import os
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from kerasnets.checks import RequestError
from kerasnets.run.interrupts import interrupts_deferred

CONFIG, MODEL, METRICS = "config.toml", "model.keras", "metrics.json"
EXAMPLES, DATA = "examples.json", "data.json"
TRAIN_AGAIN = "give the train command of the run again, which writes it anew"
# What of a run an export reads if it is there.
RESULTS = (METRICS, DATA, "calibration.json", "evaluation-*.json")
WAYS_OUT = {
    METRICS: f"remove it and {TRAIN_AGAIN}.",
    "calibration.json": "remove it to do without calibration.",
    DATA: "remove it to do without the comparison with the data of the training.",
}


def write(path: Path, text: str) -> None:
    """Writes a file aside and renames it, so that no reader and no failure sees a part of it."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())  # else a machine that loses its power may keep the new name and no content
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def is_partial(name: str) -> bool:
    """Whether a file is what `write` leaves if its process is killed."""
    return name.startswith(".") and name.endswith(".partial")


def write_json(path: Path, value: object) -> None:
    write(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """-> the value that a file holds.

    Raises: RequestError if the file is missing or damaged; a part of a JSON object is never one.
    """
    try:
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise RequestError(f"{path} is missing; {way_out(path.name)}") from None
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise RequestError(f"{path} is damaged or cut off; {way_out(path.name)}") from None


def way_out(name: str) -> str:
    if name.startswith("evaluation-"):
        return "remove it and evaluate again."
    return WAYS_OUT.get(name, "put it back from a copy, or train again with another --run-dir.")


def check_json(directory: Path, required: Iterable[str], optional: Iterable[str] = ()) -> None:
    """Reads files, so that damage is found before anything is computed.

    Args: required, optional: names of files, or patterns of names; they differ in what may be missing.
    Raises: RequestError if a file is missing or damaged.
    """
    for path in [directory / name for name in required] + [path for name in optional for path in directory.glob(name)]:
        read_json(path)


def is_whole_model(path: Path) -> bool:
    """Whether model.keras, a zip archive, is there with all that its directory lists, each part with its checksum."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (OSError, EOFError, zipfile.BadZipFile, zipfile.zlib.error):  # type: ignore[attr-defined]
        return False


def check_model(path: Path) -> None:
    if not is_whole_model(path):
        raise RequestError(f"{path} is damaged or cut off; {TRAIN_AGAIN}, from the newest checkpoint.")


def load_model(path: Path) -> Any:
    """-> the Keras model of a model.keras, with the layers of kerasnets.

    Raises: RequestError if the file is missing, damaged or cut off.
    """
    import keras

    check_model(path)
    import_network(path)
    with interrupts_deferred():
        return keras.models.load_model(path)


def import_network(path: Path) -> None:
    """Imports the module of the network's class, which registers it with Keras."""
    with zipfile.ZipFile(path) as archive:
        module = json.loads(archive.read("config.json")).get("module") or ""
    if module.startswith("kerasnets."):
        importlib.import_module(module)
