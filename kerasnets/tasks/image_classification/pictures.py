"""Image files of requests: decoding, and an error for each file that cannot be decoded.

B files
"""

from collections.abc import Callable

import tensorflow as tf

from kerasnets.images import decoder
from kerasnets.tasks.requests import require, require_none

MOST_PIXELS = 10 * decoder.MAX_PIXELS  # of all files of a request: bounds the time of decoding
AT_ONCE = 4  # files decoded in parallel, each of up to `images.decoder.MAX_PIXELS`


def decode(files: tf.Tensor, rows: int, columns: int, name: str) -> tf.Tensor:
    """files string [B]: PNG, JPEG, GIF (its first image), BMP or WebP -> float32 [B, rows, columns, 3], 0..255: whole
    images, resized without keeping their proportions, transparent ones on white (see `images.decoder`).

    An error names the row of the first file that is refused or broken.
    """
    files, pixels, faults = decoder.examine(files)
    together = tf.cumsum(pixels)
    sentence = ["brings the request to ", tf.strings.as_string(together)]
    sentence += [f" pixels, more than the limit of {MOST_PIXELS}: give fewer pictures at a time"]
    faults = tf.where((faults == "") & (together > MOST_PIXELS), tf.strings.join(sentence), faults)
    with tf.control_dependencies([require_none(faults, name)]):
        files = tf.identity(files)
    spec = tf.TensorSpec((rows, columns, 3), tf.float32)

    def one(file: tf.Tensor) -> tf.Tensor:
        return tf.image.resize(decoder.decode(file), (rows, columns), antialias=True)

    return tf.clip_by_value(each(one, files, spec, name, decoder.BROKEN), 0.0, 255.0)


def each(
    function: Callable[[tf.Tensor], tf.Tensor], rows: tf.Tensor, spec: tf.TensorSpec, name: str, wrong: str
) -> tf.Tensor:
    """-> function(row) of every row [B, ...]; the error names the first row that fails, followed by `wrong`.

    An operation's own error does not name the row, and a graph cannot catch it. But a dataset can drop the rows that
    fail; the indices that are missing afterwards identify them.
    """
    count = tf.size(rows, out_type=tf.int64)
    results = tf.data.Dataset.from_tensor_slices((tf.range(count), rows))
    results = results.map(lambda place, row: (place, function(row)), num_parallel_calls=AT_ONCE).ignore_errors()
    last = tf.data.Dataset.from_tensors((count, tf.zeros(spec.shape, spec.dtype)))  # so that the batch is never empty
    places, values = results.concatenate(last).batch(count + 1).get_single_element()
    there = tf.scatter_nd(places[:, tf.newaxis], tf.ones_like(places), [count + 1])[:-1] > 0
    with tf.control_dependencies([require(there, name, wrong)]):
        return tf.ensure_shape(values[:-1], (None, *spec.shape))
