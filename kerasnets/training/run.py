"""A run directory: what training leaves behind, and what it needs to go on after an interruption."""

import json
import os
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import keras

PACKAGES = ("tensorflow", "keras", "numpy", "tensorflow-datasets", "sentencepiece")


class RunDirectory:
    """The files of one run: config.toml, log.jsonl, checkpoints/, logs/, model.keras, metrics.json.

    `log.jsonl` has one JSON object a line: kind "training" (averages since the last such line) or "validation".
    """

    def __init__(self, path: Path):
        self.path = path
        path.mkdir(parents=True, exist_ok=True)

    def log(self, kind: str, **values: Any) -> None:
        with (self.path / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({"kind": kind, **values}) + "\n")

    def history(self, kind: str) -> list[dict[str, Any]]:
        return [entry for entry in self._entries() if entry["kind"] == kind]

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
        model.save(partial)
        os.replace(partial, self.path / "model.keras")

    def load_model(self) -> keras.Model:
        return keras.models.load_model(self.path / "model.keras")

    def finish(self, metrics: dict[str, Any]) -> None:
        versions = {name: metadata.version(name) for name in PACKAGES}
        write_json(self.path / "metrics.json", metrics | {"packages": versions, "finished": time.strftime("%F %T%z")})


def write(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, "utf-8")
    os.replace(partial, path)


def write_json(path: Path, value: object) -> None:
    write(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")
