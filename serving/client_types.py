"""What the parts of the client have in common: names of models, dtypes, and what answers hold."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

DEFAULT_SIGNATURE = "serving_default"
# Servers list it among the signatures, but it cannot be called.
INIT_OPERATION = "__saved_model_init_op"

# {name: DataType number of tensorflow/core/framework/types.proto}; string tensors are object arrays of bytes.
# NumPy has no bfloat16: arrays of that dtype from other packages can be sent, answers come as float32.
DTYPES = {
    "float32": 1,
    "float64": 2,
    "int32": 3,
    "uint8": 4,
    "int16": 5,
    "int8": 6,
    "string": 7,
    "int64": 9,
    "bool": 10,
    "bfloat16": 14,
    "uint16": 17,
    "float16": 19,
    "uint32": 22,
    "uint64": 23,
}

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
