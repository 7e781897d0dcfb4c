"""Many image files at once: decoded in parallel within one graph.

B files
"""

import functools
import os
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from kerasnets.images import decoder


def read_batch(files: Sequence[bytes], size: tuple[int, int] | None) -> np.ndarray:
    """The contents of files -> uint8 [B, Y, X, 3], as `decoder.read` returns them.

    Args: size: (height, width) to which images are resized; None: their own size, which must be the same.
    Raises: tf.errors.InvalidArgumentError if a file cannot be decoded, or if images differ in size.
    """
    with tf.device("CPU:0"):
        return _reader(size)(tf.constant(files, tf.string)).numpy()


@functools.lru_cache(maxsize=8)
def _reader(size: tuple[int, int] | None) -> Callable:
    """-> files string [B] -> uint8 [B, Y, X, 3], as a graph function."""

    def read_one(file: tf.Tensor) -> tf.Tensor:
        image = decoder.decode(file)
        return image if size is None else resize(image, size)

    @functools.partial(tf.function, input_signature=[tf.TensorSpec((None,), tf.string)], autograph=False)
    def read(files: tf.Tensor) -> tf.Tensor:
        files, _, errors = decoder.examine(files)
        with tf.control_dependencies([tf.debugging.Assert(tf.reduce_all(errors == ""), [errors])]):
            dataset = tf.data.Dataset.from_tensor_slices(tf.identity(files))
        images = dataset.map(read_one, num_parallel_calls=os.cpu_count())
        return images.batch(tf.size(files, tf.int64)).get_single_element()

    return read


def resize(pixels: tf.Tensor, size: tuple[int, int]) -> tf.Tensor:
    """uint8 [..., Y, X, C] -> uint8 [..., height, width, C], bilinear; shrinking averages all pixels."""
    resized = tf.image.resize(pixels, size, antialias=True)
    return tf.cast(tf.clip_by_value(tf.round(resized), 0, 255), tf.uint8)
