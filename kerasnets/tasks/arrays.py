"""A task's network as a function from arrays to arrays, for runtimes that know no strings: pixels or tokens in, logits
out. `kerasnets.saved_model.formats` writes it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf


@dataclass(frozen=True)
class ArrayNetwork:
    """A network with named arrays as inputs, and named ones as outputs.

    Attributes:
        model: the network itself.
        call: the inputs, one after the other -> {"logits": ..., ...}.
        inputs: name, shape and type of each; the batch is free.
        recurrent: whether the network has a loop over time.
        vocabulary_size: inputs of integers are less.
        max_length: most steps of a sequence; None for no limit.
        padded: inputs that may end in zeros, which are padding.
    """

    model: keras.Model
    call: Callable[..., dict[str, Any]]
    inputs: list[tf.TensorSpec]
    recurrent: bool
    vocabulary_size: int = 0
    max_length: int | None = None
    padded: tuple[str, ...] = ()


def tokens(name: str) -> tf.TensorSpec:
    return tf.TensorSpec((None, None), tf.int32, name)
