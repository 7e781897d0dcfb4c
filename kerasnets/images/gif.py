"""GIF files: extract the first image as an opaque file of its own.

TensorFlow's decoder decodes all images of a file before it selects one, shows transparent pixels in black, and crops
an image by its offset on the screen. So a file is rewritten before it is decoded.
"""

import tensorflow as tf

from kerasnets.images.bytes import read_uint, starts_with

MAGIC = b"GIF8"
HEADER = 13  # bytes of the signature and of the screen's descriptor
DESCRIPTOR = 10  # bytes of an image's descriptor
RUN = 1 << 10  # sub-blocks of equal length per step
WINDOW = 1 << 12  # bytes of a chain of sub-blocks of varying lengths per step
# Maximum steps for all files together, about a second: 8 MB of sub-blocks of varying lengths, or 500 MB of the longest,
# which usual programs write; and for each file some extensions before its image.
MAX_STEPS, STEPS_PER_FILE = 2000, 8


def first_images(files: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """files string [B] -> files, where GIFs have only their first image, directly after the header and without
    transparency (`first_image`); and bool [B]: whether the image was found within the steps (MAX_STEPS)."""

    def one(previous: tuple[tf.Tensor, tf.Tensor], file: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        steps = previous[1]
        return tf.cond(starts_with(file, MAGIC), lambda: first_image(file, steps), lambda: (file, steps))

    def walk() -> tuple[tf.Tensor, tf.Tensor]:
        images, steps = tf.scan(one, files, (b"", MAX_STEPS + STEPS_PER_FILE * tf.size(files)))
        return images, (steps > 0) | ~starts_with(files, MAGIC)

    return tf.cond(tf.reduce_any(starts_with(files, MAGIC)), walk, lambda: (files, tf.ones_like(files, tf.bool)))


def sizes(files: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """files string [B]: GIFs from `first_images` -> rows and columns of the whole screen, int64 [B]; 0 if the image has
    no pixels."""
    left, top, columns, rows = placement(files)
    not_empty = (rows > 0) & (columns > 0)
    height = tf.maximum(read_uint(files, 8, 2, True), top + rows)
    width = tf.maximum(read_uint(files, 6, 2, True), left + columns)
    return tf.where(not_empty, height, 0), tf.where(not_empty, width, 0)


def placement(files: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
    """-> left, top, columns and rows of the image on the screen, int64 [B]."""
    offset = descriptor_offset(files)
    left, top, columns, rows = (read_uint(files, offset + n, 2, True) for n in (1, 3, 5, 7))
    return left, top, columns, rows


def decode(file: tf.Tensor) -> tf.Tensor:
    """A GIF from `first_images` -> uint8 [Y, X, 3]: its whole screen, white outside of the image."""
    left, top, columns, rows = placement(file)
    height, width = sizes(file)
    offset = descriptor_offset(file)
    at_zero = tf.strings.join(
        [tf.strings.substr(file, 0, offset + 1), b"\0" * 4, tf.strings.substr(file, offset + 5, -1)]
    )
    image = tf.io.decode_image(at_zero, channels=3, expand_animations=False)
    paddings = [[top, height - top - rows], [left, width - left - columns], [0, 0]]
    return tf.pad(image, paddings, constant_values=tf.constant(255, tf.uint8))


def descriptor_offset(files: tf.Tensor) -> tf.Tensor:
    """-> the offset of the image's descriptor in files from `first_images`, int32 [B]."""
    return HEADER + colour_table_size(tf.cast(read_uint(files, 10, 1), tf.int32))


def colour_table_size(flags: tf.Tensor) -> tf.Tensor:
    """-> size in bytes of the colour table after a descriptor with these flags."""
    return tf.where(flags >= 128, 3 * tf.bitwise.left_shift(2, flags % 8), 0)


def first_image(file: tf.Tensor, steps: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """A GIF -> a GIF of its header and its first image; and the remaining steps: with 0 the image may be cut off.

    Extensions are removed; the transparent colour becomes white. A file without an image keeps only its header.
    """
    data = tf.io.decode_raw(file, tf.uint8)

    def byte_at(offset: tf.Tensor | int) -> tf.Tensor:  # 0 past the end
        value = data[tf.minimum(offset, tf.size(data) - 1)]
        return tf.where(offset < tf.size(data), tf.cast(value, tf.int32), 0)

    def skip(offset: tf.Tensor, colour: tf.Tensor, steps: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """-> the end of the extension at `offset`; the transparent colour, -1 for none; the remaining steps."""
        control = byte_at(offset + 1) == 0xF9
        transparent = tf.where(byte_at(offset + 3) % 2 == 1, byte_at(offset + 6), -1)
        end, steps = chain_end(data, offset + 2, steps)
        return end, tf.where(control, transparent, colour), steps

    global_size = colour_table_size(byte_at(10))
    offset, colour, steps = tf.while_loop(
        lambda offset, colour, steps: (byte_at(offset) == 0x21) & (steps > 0),
        skip,
        (HEADER + global_size, tf.constant(-1), steps),
    )
    local_size = colour_table_size(byte_at(offset + 9))  # of the image; 0: it uses the file's table
    end, steps = chain_end(data, offset + DESCRIPTOR + local_size + 1, steps)
    image = tf.strings.substr(file, tf.minimum(offset, tf.size(data)), end - tf.minimum(offset, tf.size(data)))
    header = tf.strings.substr(file, 0, HEADER + global_size)
    header = tf.where(local_size == 0, set_to_white(header, HEADER, global_size, colour), header)
    image = tf.where(local_size == 0, image, set_to_white(image, DESCRIPTOR, local_size, colour))
    return tf.strings.join([header, tf.where(byte_at(offset) == 0x2C, image, b""), b";"]), steps


def set_to_white(part: tf.Tensor, offset: int, size: tf.Tensor, colour: tf.Tensor) -> tf.Tensor:
    """-> a part of a file, with one colour of its table (`size` bytes at `offset`) set to white; -1: none."""
    start = offset + 3 * colour
    inside = (colour >= 0) & (3 * colour < size) & (start + 3 <= tf.strings.length(part))
    start = tf.where(inside, start, 0)
    rest = tf.strings.substr(part, tf.minimum(start + 3, tf.strings.length(part)), -1)
    white = tf.strings.join([tf.strings.substr(part, 0, start), b"\xff" * 3, rest])
    return tf.where(inside, white, part)


def chain_end(data: tf.Tensor, offset: tf.Tensor, steps: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """data uint8 [N] -> end of the chain of sub-blocks that begins at `offset`, at most N; the remaining steps.

    Each sub-block begins with its length, and length 0 ends the chain. One step per sub-block could be as many steps as
    there are bytes. So a step follows a run of sub-blocks of equal length, and then a window.
    """
    size = tf.size(data)

    def step(offset: tf.Tensor, steps: tf.Tensor, ended: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        offset = run_end(data, offset)
        offset, ended = tf.cond(offset < size, lambda: window_end(data, offset), lambda: (offset, tf.constant(False)))
        return offset, steps - 1, ended

    offset, steps, ended = tf.while_loop(
        lambda offset, steps, ended: ~ended & (offset < size) & (steps > 0),
        step,
        (tf.minimum(offset, size), steps, tf.constant(False)),
    )
    return tf.minimum(tf.where(ended, offset + 1, size), size), steps


def run_end(data: tf.Tensor, offset: tf.Tensor) -> tf.Tensor:
    """-> the end of the run of sub-blocks of equal length that begins at `offset`, at most N and RUN sub-blocks."""
    length = tf.cast(data[offset], tf.int32) + 1  # with the length byte
    run = data[offset : offset + RUN * length : length]
    equal = tf.reduce_sum(tf.math.cumprod(tf.cast(run == data[offset], tf.int32)))
    return tf.where(length > 1, tf.minimum(offset + equal * length, tf.size(data)), offset)


def window_end(data: tf.Tensor, offset: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """-> the end of the chain that begins at `offset`, or its first sub-block after a window; whether the chain ends.

    Pointer doubling: the next sub-block of each offset of the window gives the one 2 links ahead, then 4, until
    the chain has ended or left the window.
    """

    def follow() -> tuple[tf.Tensor, tf.Tensor]:
        offsets = tf.range(WINDOW + 256)
        window = tf.cast(data[offset : offset + WINDOW], tf.int32)
        links = tf.pad(window, [[0, WINDOW + 256 - tf.size(window)]])  # after the window an offset links to itself
        following = tf.where(links == 0, offsets, offsets + links + 1)
        for _ in range(WINDOW.bit_length()):
            following = tf.gather(following, following)
        end = following[0]
        return offset + end, end < tf.size(window)

    return tf.cond(data[offset] == 0, lambda: (offset, tf.constant(True)), follow)
