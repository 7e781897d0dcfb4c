"""Convert the values of a request to arrays of a dtype that can be sent, or to features of an example."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from serving.client.errors import invalid_argument
from serving.protocol import DTYPES


def typed_array(name: str, value: Any) -> np.ndarray | None:
    """Return `value` as an array, or None for Python numbers, whose dtype depends on the signature."""
    if isinstance(value, (np.ndarray, np.generic)):
        return check_dtype(name, np.asarray(value))
    if isinstance(_first_leaf(value), (str, bytes)):
        return np.array(value, dtype=object)  # numpy's own bytes dtype would drop trailing zero bytes
    return None


def convert_numbers(name: str, value: Any, dtype_name: str | None, signature: str) -> np.ndarray:
    """Convert Python numbers to an array of `dtype_name`, the dtype in the signature; None if it is unknown."""
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise invalid_argument(f"input '{name}' is not an array: {error}") from None
    if dtype_name in (None, "string", "bfloat16") or dtype_name not in DTYPES or not _holds_numbers(array):
        return check_dtype(name, array)  # the server's error says more
    dtype = np.dtype(dtype_name)
    if array.dtype.kind == "f" and dtype.kind in "iub":
        array = np.asarray(value, dtype=object)  # numpy turns a mix of small and very large integers into floats
        if not _holds_numbers(array):
            raise invalid_argument(f"input '{name}' holds fractions, but signature '{signature}' takes {dtype}")
    low, high = _range(dtype)
    numbers = [number for number in array.ravel().tolist() if isinstance(number, int) or math.isfinite(number)]
    if numbers and not (low <= min(numbers) and max(numbers) <= high):
        raise invalid_argument(f"input '{name}' holds numbers outside {low} to {high}, the range of {dtype}")
    return array.astype(dtype)


def check_dtype(name: str, array: np.ndarray) -> np.ndarray:
    """Return the array if the protocol has its dtype; numpy strings become object arrays of str or bytes."""
    if array.dtype.kind in "US":
        return array.astype(object)
    if array.dtype.kind != "O" and array.dtype.name not in DTYPES:
        allowed = ", ".join(DTYPES)
        raise invalid_argument(f"input '{name}' has dtype {array.dtype}, which cannot be sent; use one of {allowed}")
    return array


def as_bytes(name: str, value: Any) -> bytes:
    """Return the bytes of one element of a string tensor; str is encoded as UTF-8."""
    if isinstance(value, str):
        try:
            return value.encode()
        except UnicodeEncodeError as error:
            raise invalid_argument(f"input '{name}' holds text that is not Unicode: {error}") from None
    if isinstance(value, bytes):
        return value
    raise invalid_argument(f"input '{name}' holds a {type(value).__name__}; an object array holds str or bytes")


# Features of an example: {name: list of int, of float, or of str and bytes}.
Features = dict[str, list]


def features(example: Mapping[str, Any]) -> Features:
    """Convert an example to the form of the protocol: each feature is a flat list of one type."""
    return {name: _feature(name, value) for name, value in example.items()}


def _feature(name: str, value: Any) -> list:
    try:
        leaves = np.asarray(value, dtype=None if isinstance(value, np.ndarray) else object).ravel().tolist()
    except ValueError as error:
        raise invalid_argument(f"feature '{name}' is not a flat list: {error}") from None
    leaves = [leaf.item() if isinstance(leaf, np.generic) else leaf for leaf in leaves]
    kinds = {_kind(name, leaf) for leaf in leaves}
    if kinds == {int, float}:
        kinds = {float}
    if len(kinds) > 1:
        raise invalid_argument(f"feature '{name}' holds both text and numbers; give one kind")
    if kinds == {int} and not all(-(2**63) <= leaf < 2**63 for leaf in leaves):
        raise invalid_argument(f"feature '{name}' holds numbers outside the range of int64")
    return leaves if kinds <= {bytes} else [kind(leaf) for kind in kinds for leaf in leaves]


def _kind(name: str, leaf: Any) -> type:
    if isinstance(leaf, (str, bytes)):
        return bytes
    if isinstance(leaf, (bool, int)):
        return int
    if isinstance(leaf, float):
        return float
    raise invalid_argument(f"feature '{name}' holds a {type(leaf).__name__}; a feature holds numbers, or str and bytes")


def zeros(tensor: Mapping[str, Any], rows: int) -> np.ndarray:
    """Return zeros [rows, ...] for an input that the metadata describes.

    Raises: ServingError if the size of an axis after the first is unknown.
    """
    shape = tensor["shape"]
    if not shape or min(shape[1:], default=0) < 0 or tensor["dtype"] not in DTYPES or tensor["dtype"] == "bfloat16":
        raise invalid_argument(
            f"a state of {tensor['dtype']} {shape} has no size; the signature must fix all axes after the first"
        )
    return np.zeros([rows, *shape[1:]], object if tensor["dtype"] == "string" else tensor["dtype"])


def batch_size(arrays: Mapping[str, np.ndarray]) -> int:
    """Return the number of rows of a batch."""
    return next((len(array) for array in arrays.values() if array.ndim), 1)


def _holds_numbers(array: np.ndarray) -> bool:
    """Return whether `array` holds only numbers; integers too large for int64 may be in an object array."""
    return array.dtype.kind in "biuf" or all(isinstance(leaf, int) for leaf in array.ravel())


def _range(dtype: np.dtype) -> tuple[Any, Any]:
    """Return the smallest and the largest number of a dtype."""
    if dtype.kind == "b":
        return 0, 1
    if dtype.kind == "f":
        return float(np.finfo(dtype).min), float(np.finfo(dtype).max)
    return np.iinfo(dtype).min, np.iinfo(dtype).max


def _first_leaf(value: Any) -> Any:
    while isinstance(value, (list, tuple)) and value:
        value = value[0]
    return value
