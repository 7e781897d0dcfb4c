"""The state of a `stream`, which clients send back with the next request: a row of numbers.

0        mark       checksum of the model that wrote it; 0: new stream
1        token      the last character
2, 3     position   characters written so far, modulo 2^20 and divided by it: index of the random numbers
4 to     seen       V numbers 0 or 1: characters that have occurred, for the repetition penalty
then     states     of the network (`initial_states`): h and c of each LSTM, or a window of keys and values

B batch, U numbers of a state, V vocabulary
"""

import zlib
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from kerasnets.config.networks import TextOptions
from kerasnets.tasks.requests import require

PAGE = 2**20
HEAD = 4
MARKS = 65521  # exact in float32 and in JSON's decimal numbers


class State(NamedTuple):
    """started bool [B]; token int32 [B]; position int64 [B]; seen bool [B, V]; cache: the network's states,
    nested, each float32 [B, U]."""

    started: tf.Tensor
    token: tf.Tensor
    position: tf.Tensor
    seen: tf.Tensor
    cache: Any


class StateLayout:
    """The layout of a stream's state in a row of `size` numbers.

    Args: model: a `TextNetwork`; characters: its vocabulary, which the mark covers as well.
    """

    def __init__(self, model: keras.Model, characters: tuple[str, ...]):
        self.model, self.vocabulary = model, model.vocabulary_size
        self.states = model.initial_states(1)
        self.sizes = [part.shape[-1] for part in tf.nest.flatten(self.states)]
        self.size = HEAD + self.vocabulary + sum(self.sizes)
        checksum = zlib.crc32("".join(characters).encode())
        for variable in model.variables:
            checksum = zlib.crc32(np.ascontiguousarray(variable.numpy()).tobytes(), checksum)
        self.mark = 1 + checksum % MARKS

    def pack(self, token: tf.Tensor, position: tf.Tensor, seen: tf.Tensor, cache: Any) -> tf.Tensor:
        """-> state float32 [B, size]."""
        page, offset = position // PAGE, position % PAGE
        head = [tf.cast(x, tf.float32) for x in (tf.fill(tf.shape(token), self.mark), token, offset, page)]
        return tf.concat([tf.stack(head, axis=1), tf.cast(seen, tf.float32), *tf.nest.flatten(cache)], axis=1)

    def unpack(self, state: tf.Tensor) -> State:
        """state float32 [B, size], zeros or from `pack` -> its parts; anything else is INVALID_ARGUMENT."""
        state = tf.ensure_shape(state, [None, self.size])
        started = tf.reduce_any(state != 0, axis=1)  # NaN too
        head, seen, *parts = tf.split(state, [HEAD, self.vocabulary, *self.sizes], axis=1)
        cache = tf.nest.pack_sequence_as(self.states, parts)
        mark, token, offset, page = tf.unstack(head, axis=1)
        valid = (
            (mark == self.mark)
            & is_integer(token, 1, self.vocabulary)
            & is_integer(offset, 0, PAGE)
            & is_integer(page, 0, PAGE)
            & tf.reduce_all((seen == 0) | (seen == 1), axis=1)
            & tf.reduce_all(tf.math.is_finite(state), axis=1)
            & self.model.valid_states(cache)
        )
        message = "is not a state of this model; give the state that the previous call returned, or zeros to start"
        with tf.control_dependencies([require(~started | valid, "state", message)]):
            token = tf.cast(token, tf.int32)
        position = tf.cast(page, tf.int64) * PAGE + tf.cast(offset, tf.int64)
        return State(started, token, position, seen != 0, cache)


def state_size(vocabulary: int, options: TextOptions) -> int:
    """-> size of the state of a network with these options."""
    return HEAD + vocabulary + options.state_size


def is_integer(x: tf.Tensor, minimum: int, stop: int) -> tf.Tensor:
    """Whether x is an integer with minimum <= x < stop."""
    return (x == tf.round(x)) & (x >= minimum) & (x < stop)
