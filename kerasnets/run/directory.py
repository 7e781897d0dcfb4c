"""A run directory: the results of training, and its state to resume after an interruption."""

import json
import os
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import keras

from kerasnets.checks import RequestError
from kerasnets.run.files import METRICS, MODEL, is_intact_model, load_model, write, write_json

PACKAGES = ("tensorflow", "keras", "numpy", "tensorflow-datasets", "sentencepiece")


class RunDirectory:
    """The files of one run: config.toml, data.json, log.jsonl, curves.png, checkpoints/, logs/, model.keras,
    metrics.json.

    `log.jsonl` has one JSON object per line, each with its step and kind: "training" (averages since the last such
    line), "validation", "options" (changed options: [before, after]) or "model" (model.keras was lost and rewritten
    from the checkpoint of this step).
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
        """-> the validations of the weights that model.keras may hold: those since it was last rewritten."""
        start = max((entry["step"] for entry in self.history("model")), default=0)
        return [entry for entry in self.history("validation") if entry["step"] >= start]

    def check_epochs(self, epochs: int) -> None:
        """Raises: RequestError if the run has already completed more epochs."""
        completed = max((entry["epoch"] for entry in self.history("validation")), default=0)
        if epochs < completed:
            raise RequestError(
                f"training.epochs is {epochs}; it must be {completed} or more, the epochs that the run has completed."
            )

    def rewind(self, step: int) -> None:
        """Delete log entries after `step`: training resumes from a checkpoint and logs them again."""
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
            except json.JSONDecodeError:  # the last line, if the process ended while writing it
                break
        return entries

    def save_model(self, model: keras.Model) -> None:
        """Write model.keras under a temporary name and rename it, so that the file is complete at any time."""
        partial = self.path / ".partial.keras"
        try:
            model.save(partial)
            os.replace(partial, self.path / MODEL)
        finally:
            partial.unlink(missing_ok=True)

    def has_intact_model(self) -> bool:
        return is_intact_model(self.path / MODEL)

    def load_model(self) -> keras.Model:
        """Raises: RequestError if model.keras is damaged or missing."""
        return load_model(self.path / MODEL)

    def finish(self, metrics: dict[str, Any]) -> None:
        versions = {name: metadata.version(name) for name in PACKAGES}
        write_json(self.path / METRICS, metrics | {"packages": versions, "finished": time.strftime("%F %T%z")})
