"""The decoder of image files: checks and decoding of PNG, JPEG, GIF (the first image), BMP and WebP.

Training calls `read`, exported graphs contain `examine` and `decode`, so both see the same pixels and reject the same
files. Transparent images are blended onto white.

    B files, Y rows, X columns
"""

import functools
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from kerasnets.images import gif, headers
from kerasnets.images.bytes import starts_with

MAX_PIXELS = 25_000_000  # 75 MB decoded, about as many as large cameras have; networks use far fewer
MAX_SIDE = 32_767  # a resize keeps a whole row for each row of its result
MAX_SCANS = 50  # of a JPEG, where 10 are usual: each passes over all pixels, even if it has no bytes for them
BLEND_CHUNK = 1 << 18  # pixels blended onto white at once
BROKEN = "is broken or cut off and cannot be decoded"


class ImageError(ValueError):
    """A file cannot be decoded; the text completes a sentence that begins with the file's name."""


def examine(files: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """files string [B] -> files for `decode`, string [B]; their numbers of pixels, int64 [B]; errors, string [B]: why a
    file is rejected, or "".

    Only headers are read. Rejected files cannot be decoded correctly, or would take too much memory or time.
    """
    supported = headers.is_supported(files)
    files, found = gif.first_images(files)
    height, width = headers.sizes(files)
    pixels, side = height * width, tf.maximum(height, width)
    count, longest = tf.strings.as_string(pixels), tf.strings.as_string(side)
    decodable = headers.decodable_bmp(files)
    checks: list[tuple[tf.Tensor, list[tf.Tensor | str]]] = [
        (supported, ["is not a PNG, JPEG, GIF, BMP or WebP file"]),
        (found, ["is a GIF whose image, with those before it, is in too many small blocks: save it again"]),
        ((height > 0) & (width > 0), ["has no pixels, or no header with its size"]),
        (pixels <= MAX_PIXELS, ["is ", count, f" pixels large, more than the limit of {MAX_PIXELS}: shrink it"]),
        (side <= MAX_SIDE, ["has a side of ", longest, f" pixels, more than the limit of {MAX_SIDE}: shrink it"]),
        (decodable, ["is an unsupported BMP; it must have 24 or 32 bits per pixel and no compression: save it as PNG"]),
        (headers.count_scans(files) <= MAX_SCANS, [f"is a JPEG of more than {MAX_SCANS} scans: save it again"]),
        (~headers.is_animated_webp(files), ["is an animated WebP: save its first image as PNG"]),
    ]
    errors = tf.zeros_like(files)
    for valid, message in reversed(checks):  # the first failed check wins
        errors = tf.where(valid, errors, tf.strings.join(message))
    return files, pixels, errors


def decode(file: tf.Tensor) -> tf.Tensor:
    """A file from `examine` without an error, string [] -> uint8 [Y, X, 3].

    Raises: InvalidArgumentError if it is broken or cut off.
    """
    image = tf.case(
        [
            (starts_with(file, headers.PNG), lambda: decode_png(file)),
            (starts_with(file, headers.GIF), lambda: gif.decode(file)),
            (starts_with(file, headers.BMP), lambda: decode_bmp(file)),
            (headers.is_webp(file), lambda: decode_webp(file)),
        ],
        default=lambda: tf.io.decode_jpeg(file, channels=3),
    )
    return tf.ensure_shape(image, (None, None, 3))


def decode_png(file: tf.Tensor) -> tf.Tensor:
    return tf.cond(
        headers.is_transparent_png(file),
        lambda: blend_onto_white(tf.io.decode_png(file, channels=4)),
        lambda: tf.io.decode_png(file, channels=3),
    )


def decode_bmp(file: tf.Tensor) -> tf.Tensor:
    image = tf.io.decode_bmp(file)  # with the file's number of channels
    transparent = headers.is_transparent_bmp(file)
    return tf.cond(transparent, lambda: blend_onto_white(image), lambda: image[:, :, :3])


def decode_webp(file: tf.Tensor) -> tf.Tensor:
    image = tf.io.decode_webp(file)  # [1, Y, X, 3 or 4]
    image = tf.reshape(image, tf.shape(image)[-3:])
    return tf.cond(tf.shape(image)[-1] == 4, lambda: blend_onto_white(image), lambda: image)


def blend_onto_white(image: tf.Tensor) -> tf.Tensor:
    """uint8 [Y, X, 4], the last channel alpha -> uint8 [Y, X, 3], blended onto white."""
    pixels = tf.reshape(image, (-1, 4))
    count = tf.size(pixels) // 4

    def blend(start: tf.Tensor, parts: tf.TensorArray) -> tuple[tf.Tensor, tf.TensorArray]:
        part = tf.cast(pixels[start : start + BLEND_CHUNK], tf.float32)
        colours, alpha = part[:, :3], part[:, 3:] / 255
        blended = 255.5 - (255 - colours) * alpha  # the cast rounds down; no value is close to a tie
        return start + BLEND_CHUNK, parts.write(start // BLEND_CHUNK, tf.cast(blended, tf.uint8))

    parts = tf.TensorArray(
        tf.uint8, (count + BLEND_CHUNK - 1) // BLEND_CHUNK, infer_shape=False, element_shape=(None, 3)
    )
    _, parts = tf.while_loop(lambda start, parts: start < count, blend, (0, parts), parallel_iterations=1)
    return tf.reshape(parts.concat(), tf.concat([tf.shape(image)[:2], [3]], axis=0))


def read(data: bytes) -> np.ndarray:
    """The content of a file -> uint8 [Y, X, 3].

    Raises: ImageError
    """
    file, error = _graph_function(_examine_one)(tf.constant(data))
    if error.numpy():
        raise ImageError(error.numpy().decode())
    try:
        return _graph_function(decode)(file).numpy()
    except tf.errors.InvalidArgumentError:
        raise ImageError(BROKEN) from None


def _examine_one(file: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    files, _, errors = examine(file[tf.newaxis])
    return files[0], errors[0]


@functools.cache
def _graph_function(function: Callable) -> Callable:
    """-> a function of one file as a graph function, traced once."""
    return tf.function(function, [tf.TensorSpec((), tf.string)], autograph=False)
