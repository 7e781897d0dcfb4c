"""Types that the parts of the client share: what a request names and what a response holds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

RETRIES = 3
TIMEOUT = 60.0  # seconds

# Stand for a dtype in the metadata where a signature has no single tensor, beside names such as RaggedTensorSpec. Such
# inputs and outputs cannot be sent.
SPARSE, COMPOSITE = "SparseTensorSpec", "CompositeTensor"

# {"signature": {"inputs": {name: {"dtype": "string", "shape": [-1]}}, "outputs": {...}}}; shape None: any.
Metadata = dict[str, dict[str, dict[str, dict[str, Any]]]]
Tensors = dict[str, np.ndarray]


@dataclass(frozen=True)
class ModelSpec:
    """Which model a request is for; neither version nor label: the highest version that is loaded."""

    name: str
    version: int | None = None
    label: str | None = None


@dataclass(frozen=True)
class VersionStatus:
    """One version of a model: `state` is START, LOADING, AVAILABLE, UNLOADING or END."""

    version: int
    state: str
    code: str
    message: str


class Classification(NamedTuple):
    """One class of an example; `label` is empty where the model has scores alone."""

    label: str
    score: float


@dataclass(frozen=True)
class Tls:
    """Files in PEM: certificates to trust instead of the system's, and what the client shows of itself."""

    authority: str | Path | None = None
    certificate: str | Path | None = None
    key: str | Path | None = None
