"""Read numbers and prefixes of files in string tensors.

B files; functions accept a single file [] as well
"""

import tensorflow as tf


def starts_with(files: tf.Tensor, prefix: bytes) -> tf.Tensor:
    return tf.strings.substr(files, 0, len(prefix)) == prefix


def has_bytes(files: tf.Tensor, offset: int, content: bytes) -> tf.Tensor:
    """-> bool [B]: whether the file contains `content` at `offset`."""
    offset = tf.minimum(offset, tf.strings.length(files))
    return tf.strings.substr(files, offset, tf.fill(tf.shape(offset), len(content))) == content


def read_uint(files: tf.Tensor, offset: tf.Tensor | int, count: int, little_endian: bool = False) -> tf.Tensor:
    """-> the unsigned number in `count` bytes at `offset` (one, or int32 [B]), int64 [B]; bytes past the end are 0."""
    offset = tf.minimum(offset, tf.strings.length(files))
    data = tf.strings.substr(files, offset, tf.fill(tf.shape(offset), count)) + b"\0" * count
    digits = tf.cast(tf.io.decode_raw(tf.strings.substr(data, 0, count), tf.uint8), tf.int64)  # [B, count]
    weights = [256**n for n in range(count)]
    return tf.reduce_sum(digits * tf.constant(weights if little_endian else weights[::-1], tf.int64), axis=-1)


def to_signed(value: tf.Tensor) -> tf.Tensor:
    """An unsigned 32-bit number -> the signed number with the same bits."""
    return tf.where(value < 2**31, value, value - 2**32)
