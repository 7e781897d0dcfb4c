"""Client of a model server, over gRPC or REST with the same methods; needs no TensorFlow.

with Client("localhost:8500") as client:  # or "http://localhost:8501"
    client.predict("translation", {"text": ["a sentence"]})["translation"]
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np

DEFAULT_SIGNATURE = "serving_default"
METADATA_SECONDS = 5.0  # what is known of a model may be as old as this: a new version can rename an output
# Servers list it among the signatures, but it cannot be called.
INIT_OPERATION = "__saved_model_init_op"

# {name: DataType number of tensorflow/core/framework/types.proto}; string tensors are object arrays of bytes.
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
    "uint16": 17,
    "float16": 19,
    "uint32": 22,
    "uint64": 23,
}


class ServingError(Exception):
    """A request failed. `code` is a canonical status name ("NOT_FOUND"), `message` the server's text."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code, self.message = code, message


@dataclass(frozen=True)
class VersionStatus:
    """One version of a model: `state` is START, LOADING, AVAILABLE, UNLOADING or END."""

    version: int
    state: str
    code: str
    message: str


@dataclass(frozen=True)
class ModelSpec:
    """Which model a request is for; neither version nor label: the highest version that is loaded."""

    name: str
    version: int | None = None
    label: str | None = None


# {"signature": {"inputs": {name: {"dtype": "string", "shape": [-1]}}, "outputs": {...}}}; shape None: any.
Metadata = dict[str, dict[str, dict[str, dict[str, Any]]]]
Tensors = dict[str, np.ndarray]


class Transport(Protocol):
    """How requests travel. Inputs are arrays of a definite dtype; strings object arrays of str or bytes."""

    def predict(self, spec: ModelSpec, signature: str, inputs: Tensors, timeout: float) -> Tensors: ...

    def metadata(self, spec: ModelSpec, timeout: float) -> Metadata: ...

    def status(self, spec: ModelSpec, timeout: float) -> list[VersionStatus]: ...

    def close(self) -> None: ...


class Client:
    """Requests to one server: `HOST:PORT` (or `unix:PATH`) is gRPC, `http://HOST:PORT` or `https://` is REST.

    Both give equal arrays; string tensors are object arrays of `bytes`. May be shared by threads.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self._metadata: dict[ModelSpec, tuple[float, Metadata]] = {}  # with the time of the look
        self._transport = _connect(address, self._cached_metadata)

    def predict(
        self,
        model: str,
        inputs: Mapping[str, Any],
        signature: str = DEFAULT_SIGNATURE,
        version: int | None = None,
        label: str | None = None,
        timeout: float = 60.0,
    ) -> Tensors:
        """Run `signature` of `model` on `inputs` {name: anything that numpy.asarray takes} -> {name: array}.

        Arrays are sent with their dtype; Python numbers get the dtype that the signature asks for.
        """
        spec = ModelSpec(model, version, label)
        try:
            arrays = {name: self._array(spec, signature, name, value, timeout) for name, value in inputs.items()}
            return self._transport.predict(spec, signature, arrays, timeout)
        except ServingError:
            self._metadata.pop(spec, None)  # it may describe a version that has been replaced
            raise

    def metadata(
        self, model: str, version: int | None = None, label: str | None = None, timeout: float = 60.0
    ) -> Metadata:
        """Signatures of the model: {signature: {"inputs": {name: {"dtype", "shape"}}, "outputs": {...}}}."""
        return self._transport.metadata(ModelSpec(model, version, label), timeout)

    def status(self, model: str, timeout: float = 60.0) -> list[VersionStatus]:
        """All versions that the server knows of, highest first."""
        return self._transport.status(ModelSpec(model), timeout)

    def close(self) -> None:
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _cached_metadata(self, spec: ModelSpec, timeout: float = 60.0, fresh: bool = False) -> Metadata:
        """Metadata of `spec`, kept for some seconds unless it has to be `fresh`; forgotten when a request fails."""
        known = self._metadata.get(spec)
        if fresh or known is None or time.monotonic() - known[0] > METADATA_SECONDS:
            known = (time.monotonic(), self._transport.metadata(spec, timeout))
            self._metadata[spec] = known
        return known[1]

    def _array(self, spec: ModelSpec, signature: str, name: str, value: Any, timeout: float) -> np.ndarray:
        """`value` as an array of a dtype that can be sent."""
        if isinstance(value, (np.ndarray, np.generic)):
            return _checked(name, np.asarray(value))
        if isinstance(_first_leaf(value), (str, bytes)):
            return np.array(value, dtype=object)  # numpy's own bytes dtype would drop trailing zero bytes
        try:
            array = np.asarray(value)
        except ValueError as error:
            raise ServingError("INVALID_ARGUMENT", f"input '{name}' is no array: {error}") from None
        tensor = self._cached_metadata(spec, timeout).get(signature, {}).get("inputs", {}).get(name)
        if tensor is None or tensor["dtype"] == "string" or tensor["dtype"] not in DTYPES or not _holds_numbers(array):
            return _checked(name, array)  # the server knows best what is wrong
        wanted = np.dtype(tensor["dtype"])
        if array.dtype.kind == "f" and wanted.kind in "iub":
            array = np.asarray(value, dtype=object)  # small and very large integers together became floats
            if not _holds_numbers(array):
                raise ServingError(
                    "INVALID_ARGUMENT",
                    f"input '{name}' holds fractions, but signature '{signature}' takes {wanted}",
                )
        low, high = _range(wanted)
        numbers = [number for number in array.ravel().tolist() if isinstance(number, int) or math.isfinite(number)]
        if numbers and not (low <= min(numbers) and max(numbers) <= high):
            raise ServingError(
                "INVALID_ARGUMENT",
                f"input '{name}' holds numbers outside {low} to {high}, the range of {wanted}",
            )
        return array.astype(wanted)


def _connect(address: str, metadata: Any) -> Transport:
    """The transport for `address`; each imports its own library, so that only the one in use is loaded."""
    if address.startswith(("http://", "https://")):
        from serving.client_rest import RestTransport

        return RestTransport(address, metadata)
    from serving.client_grpc import GrpcTransport

    return GrpcTransport(address.removeprefix("grpc://"))


def _holds_numbers(array: np.ndarray) -> bool:
    """Whether a definite dtype can hold it; whole numbers of any size come as objects."""
    return array.dtype.kind in "biuf" or all(isinstance(leaf, int) for leaf in array.ravel())


def _range(dtype: np.dtype) -> tuple[Any, Any]:
    """The smallest and the largest number of a dtype."""
    if dtype.kind == "b":
        return 0, 1
    if dtype.kind == "f":
        return float(np.finfo(dtype).min), float(np.finfo(dtype).max)
    return np.iinfo(dtype).min, np.iinfo(dtype).max


def _first_leaf(value: Any) -> Any:
    while isinstance(value, (list, tuple)) and value:
        value = value[0]
    return value


def _checked(name: str, array: np.ndarray) -> np.ndarray:
    """The array, if the protocol has its dtype; numpy strings become object arrays of str or bytes."""
    if array.dtype.kind in "US":
        return array.astype(object)
    if array.dtype.kind != "O" and array.dtype.name not in DTYPES:
        known = ", ".join(DTYPES)
        raise ServingError(
            "INVALID_ARGUMENT",
            f"input '{name}' has dtype {array.dtype}, which cannot be sent; use one of {known}",
        )
    return array


def as_bytes(name: str, value: Any) -> bytes:
    """One element of a string tensor as it travels: text in UTF-8."""
    if isinstance(value, str):
        try:
            return value.encode()
        except UnicodeEncodeError as error:
            raise ServingError("INVALID_ARGUMENT", f"input '{name}' holds text that is not Unicode: {error}") from None
    if isinstance(value, bytes):
        return value
    raise ServingError(
        "INVALID_ARGUMENT",
        f"input '{name}' holds a {type(value).__name__}; an object array holds str or bytes",
    )


def unavailable(address: str, reason: str) -> ServingError:
    """What to tell when no server answers."""
    return ServingError(
        "UNAVAILABLE",
        f"no model server answers at {address} ({reason}); start one with `python -m serving "
        "--models_dir=models --port=8500 --rest_api_port=8501`, or check the address",
    )
