"""A run directory: what training leaves behind, and what it needs to go on after an interruption."""

import json
import os
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import keras

from kerasnets.checks import RequestError
from kerasnets.run.files import METRICS, MODEL, is_whole_model, load_model, write, write_json

PACKAGES = ("tensorflow", "keras", "numpy", "tensorflow-datasets", "sentencepiece")


class RunDirectory:
    """The files of one run: config.toml, data.json, log.jsonl, checkpoints/, logs/, model.keras, metrics.json.

    `log.jsonl` has one JSON object a line, each with its step: kind "training" (averages since the last such line),
    "validation", "options" (those that changed then: [before, after]) or "model" (model.keras was lost and written
    again from the checkpoint of this step).
    """

    def __init__(self, path: Path):
        self.path = path
        path.mkdir(parents=True, exist_ok=True)

    def log(self, kind: str, **values: Any) -> None:
        with (self.path / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({"kind": kind, **values}) + "\n")

    def history(self, kind: str) -> list[dict[str, Any]]:
        return [entry for entry in self._entries() if entry["kind"] == kind]

    def best_candidates(self) -> list[dict[str, Any]]:
        """-> the validations of the weights that model.keras may hold: those since it was last written again."""
        begin = max((entry["step"] for entry in self.history("model")), default=0)
        return [entry for entry in self.history("validation") if entry["step"] >= begin]

    def check_epochs(self, epochs: int) -> None:
        """Raises: RequestError if more epochs than these are behind the run."""
        behind = max((entry["epoch"] for entry in self.history("validation")), default=0)
        if epochs < behind:
            raise RequestError(f"training.epochs is {epochs}; it must be {behind} or more, which are behind the run.")

    def rewind(self, step: int) -> None:
        """Forgets what was logged after `step`: training goes on from a checkpoint and will log it again."""
        kept = [entry for entry in self._entries() if entry["step"] <= step]
        write(self.path / "log.jsonl", "".join(json.dumps(entry) + "\n" for entry in kept))

    def _entries(self) -> list[dict[str, Any]]:
        path = self.path / "log.jsonl"
        if not path.exists():
            return []
        entries = []
        for line in path.read_text("utf-8").splitlines():
            try:
                entries.append(json.loads(line))
            except json.JSONDecodeError:  # the line that was being written when the process was ended
                break
        return entries

    def save_model(self, model: keras.Model) -> None:
        """Writes model.keras aside and renames it, so that a whole one is there at any time."""
        partial = self.path / ".partial.keras"
        try:
            model.save(partial)
            os.replace(partial, self.path / MODEL)
        finally:
            partial.unlink(missing_ok=True)

    def has_whole_model(self) -> bool:
        return is_whole_model(self.path / MODEL)

    def load_model(self) -> keras.Model:
        """Raises: RequestError if model.keras is damaged or not there."""
        return load_model(self.path / MODEL)

    def finish(self, metrics: dict[str, Any]) -> None:
        versions = {name: metadata.version(name) for name in PACKAGES}
        write_json(self.path / METRICS, metrics | {"packages": versions, "finished": time.strftime("%F %T%z")})
