"""A fake client, so that the demos run without a server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from demos.tasks import IMAGES, TASKS, TEXT, TRANSLATION
from serving.client import ServingError


@dataclass(frozen=True)
class Version:
    """Like the client's ``VersionStatus``."""

    version: int
    state: str = "AVAILABLE"
    code: str = "OK"
    message: str = ""


def string_array(values: list[Any]) -> np.ndarray:
    """Return a string output like the client."""
    return np.array(values, dtype=object)


@dataclass
class FakeClient:
    """Serves ``models`` and records requests; all calls raise ``error``, predictions raise ``predict_error``."""

    models: dict[str, list[Version]] = field(default_factory=lambda: {task: [Version(1)] for task in TASKS})
    error: ServingError | None = None
    predict_error: ServingError | None = None
    requests: list[tuple[str, str, Mapping[str, np.ndarray]]] = field(default_factory=list)

    def status(self, model: str, timeout: float = 60.0) -> list[Version]:
        """Return the versions of a model."""
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
        """Return outputs with the names, shapes and dtypes of the signature."""
        self.status(model)
        if self.predict_error:
            raise self.predict_error
        self.requests.append((model, signature, inputs))
        return {IMAGES: classify, TEXT: generate, TRANSLATION: translate}[model](inputs)


def classify(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return classes and scores, best first."""
    count = len(inputs["image_bytes"])
    return {
        "label": string_array([[b"seven", b"one", b"nine"]] * count),
        "score": np.array([[0.9, 0.08, 0.02]] * count, np.float32),
    }


def generate(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return a continuation that contains its seed, so that tests can identify the request."""
    texts = [f"<b>text</b> of seed {seed}".encode() for seed in inputs["seed"]]
    return {"text": string_array(texts), "log_probability": np.full(len(texts), -12.5, np.float32)}


def translate(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return every sentence in capitals."""
    translations = [text.decode().upper().encode() for text in inputs["text"]]
    return {"translation": string_array(translations), "score": np.full(len(translations), -0.25, np.float32)}
