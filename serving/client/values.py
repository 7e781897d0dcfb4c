"""Values of a request as arrays of a dtype that can be sent, and as features of an example."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from serving.client.errors import invalid
from serving.protocol import DTYPES


def definite(name: str, value: Any) -> np.ndarray | None:
    """`value` as an array; None for Python numbers, whose dtype is the signature's to say."""
    if isinstance(value, (np.ndarray, np.generic)):
        return checked(name, np.asarray(value))
    if isinstance(_first_leaf(value), (str, bytes)):
        return np.array(value, dtype=object)  # numpy's own bytes dtype would drop trailing zero bytes
    return None


def converted(name: str, value: Any, wanted: str | None, signature: str) -> np.ndarray:
    """Python numbers as an array of the dtype that the signature wants; None where nobody knows it."""
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise invalid(f"input '{name}' is no array: {error}") from None
    if wanted in (None, "string", "bfloat16") or wanted not in DTYPES or not _holds_numbers(array):
        return checked(name, array)  # the server knows best what is wrong
    dtype = np.dtype(wanted)
    if array.dtype.kind == "f" and dtype.kind in "iub":
        array = np.asarray(value, dtype=object)  # small and very large integers together became floats
        if not _holds_numbers(array):
            raise invalid(f"input '{name}' holds fractions, but signature '{signature}' takes {dtype}")
    low, high = _range(dtype)
    numbers = [number for number in array.ravel().tolist() if isinstance(number, int) or math.isfinite(number)]
    if numbers and not (low <= min(numbers) and max(numbers) <= high):
        raise invalid(f"input '{name}' holds numbers outside {low} to {high}, the range of {dtype}")
    return array.astype(dtype)


def checked(name: str, array: np.ndarray) -> np.ndarray:
    """The array, if the protocol has its dtype; numpy strings become object arrays of str or bytes."""
    if array.dtype.kind in "US":
        return array.astype(object)
    if array.dtype.kind != "O" and array.dtype.name not in DTYPES:
        known = ", ".join(DTYPES)
        raise invalid(f"input '{name}' has dtype {array.dtype}, which cannot be sent; use one of {known}")
    return array


def as_bytes(name: str, value: Any) -> bytes:
    """One element of a string tensor as it travels: text in UTF-8."""
    if isinstance(value, str):
        try:
            return value.encode()
        except UnicodeEncodeError as error:
            raise invalid(f"input '{name}' holds text that is not Unicode: {error}") from None
    if isinstance(value, bytes):
        return value
    raise invalid(f"input '{name}' holds a {type(value).__name__}; an object array holds str or bytes")


# Features of an example: {name: list of int, of float, or of str and bytes}.
Features = dict[str, list]


def features(example: Mapping[str, Any]) -> Features:
    """An example as the protocol has it: a flat list of one kind for each feature."""
    return {name: _feature(name, value) for name, value in example.items()}


def _feature(name: str, value: Any) -> list:
    try:
        leaves = np.asarray(value, dtype=None if isinstance(value, np.ndarray) else object).ravel().tolist()
    except ValueError as error:
        raise invalid(f"feature '{name}' is no flat list: {error}") from None
    leaves = [leaf.item() if isinstance(leaf, np.generic) else leaf for leaf in leaves]
    kinds = {_kind(name, leaf) for leaf in leaves}
    if kinds == {int, float}:
        kinds = {float}
    if len(kinds) > 1:
        raise invalid(f"feature '{name}' holds both text and numbers; give one kind")
    if kinds == {int} and not all(-(2**63) <= leaf < 2**63 for leaf in leaves):
        raise invalid(f"feature '{name}' holds numbers outside the range of int64")
    return leaves if kinds <= {bytes} else [kind(leaf) for kind in kinds for leaf in leaves]


def _kind(name: str, leaf: Any) -> type:
    if isinstance(leaf, (str, bytes)):
        return bytes
    if isinstance(leaf, (bool, int)):
        return int
    if isinstance(leaf, float):
        return float
    raise invalid(f"feature '{name}' holds a {type(leaf).__name__}; a feature holds numbers, or str and bytes")


def zeros(tensor: Mapping[str, Any], rows: int) -> np.ndarray:
    """Zeros for an input as the metadata describes it, [rows, ...].

    Raises: ServingError where an axis after the first is free.
    """
    shape = tensor["shape"]
    if not shape or min(shape[1:], default=0) < 0 or tensor["dtype"] not in DTYPES or tensor["dtype"] == "bfloat16":
        raise invalid(f"a state of {tensor['dtype']} {shape} has no size; the signature has to tell all axes but one")
    return np.zeros([rows, *shape[1:]], object if tensor["dtype"] == "string" else tensor["dtype"])


def rows_of(arrays: Mapping[str, np.ndarray]) -> int:
    """How many rows a batch has."""
    return next((len(array) for array in arrays.values() if array.ndim), 1)


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
