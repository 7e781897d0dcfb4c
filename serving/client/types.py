"""Types that the modules of the client share: parts of requests and responses, TLS files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

RETRIES = 3
TIMEOUT = 60.0  # seconds

# Replace the dtype in the metadata of inputs and outputs that are not a single dense tensor, as class names such as
# RaggedTensorSpec do. Such inputs and outputs cannot be sent.
SPARSE, COMPOSITE = "SparseTensorSpec", "CompositeTensor"

# {"signature": {"inputs": {name: {"dtype": "string", "shape": [-1]}}, "outputs": {...}}}; shape None: any.
Metadata = dict[str, dict[str, dict[str, dict[str, Any]]]]
Tensors = dict[str, np.ndarray]


@dataclass(frozen=True)
class ModelSpec:
    """The model of a request; without version and label, its highest loaded version."""

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
    """One class of an example; `label` is empty if the model returns only scores."""

    label: str
    score: float


@dataclass(frozen=True)
class Tls:
    """PEM files: certificates to trust instead of the system's, and the client's own certificate and key."""

    authority: str | Path | None = None
    certificate: str | Path | None = None
    key: str | Path | None = None
