"""Explicit gradients, where automatic differentiation is slower than necessary."""

import functools
from collections.abc import Callable

import keras
from keras import ops


def explicit_gradient(function: Callable) -> Callable:
    """Turn `function(*tensors) -> result, gradient` into a function that returns only the result.

    TensorFlow runs the operations as they are written, so it uses the explicit gradient,
    `gradient(upstream) -> one per tensor`. JAX and PyTorch compile or have their own kernels: they differentiate
    the result.
    """
    if keras.backend.backend() == "tensorflow":
        return ops.custom_gradient(function)
    return functools.wraps(function)(lambda *tensors: function(*tensors)[0])
