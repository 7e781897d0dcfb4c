"""Read numbers and prefixes of files in string tensors.

B files; functions accept a single file [] as well
"""

import tensorflow as tf


def begins(files: tf.Tensor, beginning: bytes) -> tf.Tensor:
    return tf.strings.substr(files, 0, len(beginning)) == beginning


def has(files: tf.Tensor, place: int, content: bytes) -> tf.Tensor:
    """-> bool [B]: whether the file contains `content` at `place`."""
    place = tf.minimum(place, tf.strings.length(files))
    return tf.strings.substr(files, place, tf.fill(tf.shape(place), len(content))) == content


def number(files: tf.Tensor, place: tf.Tensor | int, count: int, lowest_first: bool = False) -> tf.Tensor:
    """-> the unsigned number in `count` bytes at `place` (one, or int32 [B]), int64 [B]; bytes past the end are 0."""
    place = tf.minimum(place, tf.strings.length(files))
    data = tf.strings.substr(files, place, tf.fill(tf.shape(place), count)) + b"\0" * count
    digits = tf.cast(tf.io.decode_raw(tf.strings.substr(data, 0, count), tf.uint8), tf.int64)  # [B, count]
    weights = [256**n for n in range(count)]
    return tf.reduce_sum(digits * tf.constant(weights if lowest_first else weights[::-1], tf.int64), axis=-1)


def signed(value: tf.Tensor) -> tf.Tensor:
    """An unsigned 32-bit number -> the signed number with the same bits."""
    return tf.where(value < 2**31, value, value - 2**32)
