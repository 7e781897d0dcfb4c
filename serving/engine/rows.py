"""Concatenate the rows of several requests into one batch, and check that the outputs can be split again."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from serving.engine.tensors import STRING_BYTES
from serving.errors import StatusError, invalid_argument

MAX_PADDING_BYTES = 256 * 1024 * 1024  # per batch
Arrays = dict[str, np.ndarray]


def batch_size(feeds: Arrays) -> int:
    """Return the size of the first dimension, which all inputs must share."""
    sizes = set()
    for array in feeds.values():
        if array.ndim == 0:
            raise invalid_argument("Batching Run() input tensors must have at least one dimension")
        sizes.add(array.shape[0])
    if len(sizes) > 1:
        raise invalid_argument(
            "Batching Run() input tensors supplied in a given call must have equal 0th-dimension size"
        )
    return sizes.pop() if sizes else 0


def concatenate_rows(arrays: list[np.ndarray], padding: int) -> np.ndarray:
    """Concatenate the rows of all tasks and `padding` copies of the first row."""
    if padding:
        arrays = [*arrays, np.repeat(arrays[0][:1], padding, axis=0)]
    return np.concatenate(arrays) if len(arrays) > 1 else arrays[0]


def padding_fits(arrays: list[np.ndarray], count: int) -> bool:
    """Return whether `count` copies of the first row of each array fit into MAX_PADDING_BYTES."""
    return count * sum(map(_row_bytes, arrays)) <= MAX_PADDING_BYTES


def _row_bytes(array: np.ndarray) -> int:
    """Return the bytes of the first row."""
    row = array[:1]
    return sum(map(_element_bytes, row.ravel())) if array.dtype.kind == "O" else row.nbytes


def pad_to_common_shape(arrays: list[np.ndarray]) -> list[np.ndarray]:
    """Pad the ends of all axes but the first to a common shape; each array with its first element.

    The first element is valid padding for strings and numbers alike.
    Raises: RESOURCE_EXHAUSTED for more than MAX_PADDING_BYTES of padding.
    """
    ranks = {array.ndim for array in arrays}
    if len(ranks) > 1:
        raise StatusError("FAILED_PRECONDITION", "Tensors of a batch must have the same number of dimensions")
    shape = [max(sizes) for sizes in zip(*(array.shape[1:] for array in arrays), strict=True)]
    padding = sum((len(a) * math.prod(shape) - a.size) * _element_bytes(a.flat[0]) for a in arrays if a.size)
    if padding > MAX_PADDING_BYTES:  # one long row would pad many short ones; the tasks then run one by one
        raise StatusError(
            "RESOURCE_EXHAUSTED", f"The rows of a batch differ too much in shape: they need {padding} bytes of padding"
        )
    padded_arrays = []
    for array in arrays:
        if list(array.shape[1:]) != shape:
            padded = np.zeros((array.shape[0], *shape), array.dtype)
            if array.size:
                padded.fill(array.flat[0])
            padded[tuple(slice(0, size) for size in array.shape)] = array
            array = padded
        padded_arrays.append(array)
    return padded_arrays


def _element_bytes(element: Any) -> int:
    return STRING_BYTES + len(element) if isinstance(element, bytes) else element.nbytes


def check_outputs(arrays: list[np.ndarray], rows: int) -> None:
    """Check that each output has as many rows as the inputs, so that it can be split or concatenated."""
    for array in arrays:
        if array.ndim == 0:
            raise StatusError("FAILED_PRECONDITION", "Batched output tensor has 0 dimensions")
        if array.shape[0] != rows:
            raise StatusError(
                "FAILED_PRECONDITION",
                "Batched output tensor's 0th dimension does not equal the sum of the 0th dimension sizes of the input "
                "tensors",
            )
