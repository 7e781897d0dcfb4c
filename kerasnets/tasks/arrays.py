"""A task's network as a function from arrays (pixels or tokens) to logits, for runtimes without string tensors.
`kerasnets.saved_model.formats` writes it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf


@dataclass(frozen=True)
class ArrayNetwork:
    """A network with named input and output arrays.

    Attributes:
        model: the network itself.
        call: takes the inputs as positional arguments; -> {"logits": ..., ...}.
        inputs: name, shape and type of each input; the batch size is free.
        recurrent: whether the network has a loop over time.
        vocabulary_size: exclusive upper bound of integer inputs.
        max_length: maximum sequence length; None: unlimited.
        padded: names of the inputs that may be padded with zeros at the end.
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
