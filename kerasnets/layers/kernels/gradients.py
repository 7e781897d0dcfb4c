"""Gradients that are written out where automatic differentiation costs more than it needs to."""

import functools
from collections.abc import Callable

import keras
from keras import ops


def explicit_gradient(function: Callable) -> Callable:
    """`function(*tensors) -> result, gradient` as a function of its result alone.

    TensorFlow runs one operation after the other as they stand, so there the gradient is taken as it is written,
    `gradient(upstream) -> one a tensor`. JAX and PyTorch compile or have kernels of their own: they differentiate
    the result.
    """
    if keras.backend.backend() == "tensorflow":
        return ops.custom_gradient(function)
    return functools.wraps(function)(lambda *tensors: function(*tensors)[0])
