"""A client that answers from memory, so that the demos run without a server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from demos.tasks import IMAGES, TASKS, TEXT, TRANSLATION
from serving.client import ServingError


@dataclass(frozen=True)
class Version:
    """As the client's ``VersionStatus``."""

    version: int
    state: str = "AVAILABLE"
    code: str = "OK"
    message: str = ""


def objects(values: list[Any]) -> np.ndarray:
    """A string output as the client returns it."""
    return np.array(values, dtype=object)


@dataclass
class FakeClient:
    """Serves ``models``; everything raises ``error``, predictions ``refusal``; remembers the requests."""

    models: dict[str, list[Version]] = field(default_factory=lambda: {task: [Version(1)] for task in TASKS})
    error: ServingError | None = None
    refusal: ServingError | None = None
    requests: list[tuple[str, str, Mapping[str, np.ndarray]]] = field(default_factory=list)

    def status(self, model: str, timeout: float = 60.0) -> list[Version]:
        """The versions of a model."""
        if self.error:
            raise self.error
        if model not in self.models:
            raise ServingError("NOT_FOUND", f"Servable not found for request: Latest({model})")
        return self.models[model]

    def predict(
        self,
        model: str,
        inputs: Mapping[str, np.ndarray],
        signature: str = "serving_default",
        timeout: float = 60.0,
    ) -> dict[str, np.ndarray]:
        """A made-up answer of the right names, shapes and types."""
        self.status(model)
        if self.refusal:
            raise self.refusal
        self.requests.append((model, signature, inputs))
        return {IMAGES: seen, TEXT: written, TRANSLATION: translated}[model](inputs)


def seen(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Classes and scores, best first."""
    count = len(inputs["image_bytes"])
    return {
        "label": objects([[b"seven", b"one", b"nine"]] * count),
        "score": np.array([[0.9, 0.08, 0.02]] * count, np.float32),
    }


def written(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A continuation that names its seed, so that a test sees which request it answers."""
    texts = [f"<b>text</b> of seed {seed}".encode() for seed in inputs["seed"]]
    return {"text": objects(texts), "log_probability": np.full(len(texts), -12.5, np.float32)}


def translated(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Every sentence in capitals."""
    answers = [text.decode().upper().encode() for text in inputs["text"]]
    return {"translation": objects(answers), "score": np.full(len(answers), -0.25, np.float32)}
