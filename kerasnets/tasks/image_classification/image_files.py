"""Image files of requests: decoding, and an error for each file that cannot be decoded.

B files
"""

from collections.abc import Callable

import tensorflow as tf

from kerasnets.images import decoder
from kerasnets.tasks.requests import require, require_no_error

MAX_PIXELS = 10 * decoder.MAX_PIXELS  # of all files of a request: bounds the time of decoding
PARALLEL_FILES = 4  # files decoded in parallel, each of up to `images.decoder.MAX_PIXELS`


def decode(files: tf.Tensor, rows: int, columns: int, name: str) -> tf.Tensor:
    """files string [B]: PNG, JPEG, GIF (its first image), BMP or WebP -> float32 [B, rows, columns, 3], 0..255: whole
    images, resized without keeping their proportions, transparent ones on white (see `images.decoder`).

    An error names the row of the first file that is rejected or broken.
    """
    files, pixels, errors = decoder.examine(files)
    total = tf.cumsum(pixels)
    message = ["brings the request to ", tf.strings.as_string(total)]
    message += [f" pixels, more than the limit of {MAX_PIXELS}: give fewer images at a time"]
    errors = tf.where((errors == "") & (total > MAX_PIXELS), tf.strings.join(message), errors)
    with tf.control_dependencies([require_no_error(errors, name)]):
        files = tf.identity(files)
    spec = tf.TensorSpec((rows, columns, 3), tf.float32)

    def decode_one(file: tf.Tensor) -> tf.Tensor:
        return tf.image.resize(decoder.decode(file), (rows, columns), antialias=True)

    return tf.clip_by_value(map_rows(decode_one, files, spec, name, decoder.BROKEN), 0.0, 255.0)


def map_rows(
    function: Callable[[tf.Tensor], tf.Tensor], rows: tf.Tensor, spec: tf.TensorSpec, name: str, error: str
) -> tf.Tensor:
    """-> function(row) of every row [B, ...]; the message names the first row that fails, followed by `error`.

    An operation's own error does not name the row, and a graph cannot catch it. But a dataset can drop the rows that
    fail; the indices that are missing afterwards identify them.
    """
    count = tf.size(rows, out_type=tf.int64)
    results = tf.data.Dataset.from_tensor_slices((tf.range(count), rows))
    results = results.map(lambda index, row: (index, function(row)), num_parallel_calls=PARALLEL_FILES).ignore_errors()
    last = tf.data.Dataset.from_tensors((count, tf.zeros(spec.shape, spec.dtype)))  # so that the batch is never empty
    indices, values = results.concatenate(last).batch(count + 1).get_single_element()
    valid = tf.scatter_nd(indices[:, tf.newaxis], tf.ones_like(indices), [count + 1])[:-1] > 0
    with tf.control_dependencies([require(valid, name, error)]):
        return tf.ensure_shape(values[:-1], (None, *spec.shape))
