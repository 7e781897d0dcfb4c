"""GIF files: the first image, alone and in an opaque file.

TensorFlow's decoder decodes all images of a file before one is chosen, shows transparent pixels in black, and cuts off
what an image has beside the place at which it lies. So a file is rewritten before it is decoded.
"""

import tensorflow as tf

from kerasnets.images.bytes import begins, number

MAGIC = b"GIF8"
HEADER = 13  # bytes of the signature and of the screen's descriptor
DESCRIPTOR = 10  # bytes of an image's descriptor
MOST_EXTENSIONS = 1000  # before the first image
WINDOW = 1 << 12  # bytes of a chain of sub-blocks that are followed at once


def first_images(files: tf.Tensor) -> tf.Tensor:
    """files string [B] -> the same, of which GIFs have one image, the first, directly behind their header, without
    transparency (`first_image`)."""

    def one(file: tf.Tensor) -> tf.Tensor:
        return tf.cond(begins(file, MAGIC), lambda: first_image(file), lambda: file)

    return tf.cond(
        tf.reduce_any(begins(files, MAGIC)),
        lambda: tf.map_fn(one, files, fn_output_signature=tf.TensorSpec((), tf.string)),
        lambda: files,
    )


def sizes(files: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """files string [B]: GIFs, as `first_images` gives them -> rows and columns of the whole screen, int64 [B]; 0 if the
    image has no pixels."""
    left, top, columns, rows = placement(files)
    there = (rows > 0) & (columns > 0)
    height = tf.maximum(number(files, 8, 2, True), top + rows)
    width = tf.maximum(number(files, 6, 2, True), left + columns)
    return tf.where(there, height, 0), tf.where(there, width, 0)


def placement(files: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
    """-> left, top, columns and rows of the image on the screen, int64 [B]."""
    place = descriptor(files)
    left, top, columns, rows = (number(files, place + n, 2, True) for n in (1, 3, 5, 7))
    return left, top, columns, rows


def decode(file: tf.Tensor) -> tf.Tensor:
    """A GIF, as `first_images` gives it -> uint8 [Y, X, 3]: its whole screen, white where the image does not reach."""
    left, top, columns, rows = placement(file)
    height, width = sizes(file)
    place = descriptor(file)
    at_zero = tf.strings.join(
        [tf.strings.substr(file, 0, place + 1), b"\0" * 4, tf.strings.substr(file, place + 5, -1)]
    )
    image = tf.io.decode_image(at_zero, channels=3, expand_animations=False)
    around = [[top, height - top - rows], [left, width - left - columns], [0, 0]]
    return tf.pad(image, around, constant_values=tf.constant(255, tf.uint8))


def descriptor(files: tf.Tensor) -> tf.Tensor:
    """-> where in files of `first_images` the descriptor of the image is, int32 [B]."""
    return HEADER + table_size(tf.cast(number(files, 10, 1), tf.int32))


def table_size(flags: tf.Tensor) -> tf.Tensor:
    """-> bytes of the table of colours that follows a descriptor with these flags."""
    return tf.where(flags >= 128, 3 * tf.bitwise.left_shift(2, flags % 8), 0)


def first_image(file: tf.Tensor) -> tf.Tensor:
    """A GIF -> its header, its first image and the end of the file. Extensions are left out; the colour that is
    transparent becomes white. A file that has no image keeps its header alone.
    """
    data = tf.io.decode_raw(file, tf.uint8)

    def at(place: tf.Tensor | int) -> tf.Tensor:  # 0 behind the end
        value = data[tf.minimum(place, tf.size(data) - 1)]
        return tf.where(place < tf.size(data), tf.cast(value, tf.int32), 0)

    def skip(place: tf.Tensor, colour: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Behind the extension at `place`; which colour is transparent, -1 for none."""
        control = at(place + 1) == 0xF9
        transparent = tf.where(at(place + 3) % 2 == 1, at(place + 6), -1)
        return chain_end(data, place + 2), tf.where(control, transparent, colour)

    colours = table_size(at(10))
    place, colour = tf.while_loop(
        lambda place, colour: at(place) == 0x21,
        skip,
        (HEADER + colours, tf.constant(-1)),
        maximum_iterations=MOST_EXTENSIONS,
    )
    own = table_size(at(place + 9))  # of the image; without it the file's counts
    end = chain_end(data, place + DESCRIPTOR + own + 1)
    image = tf.strings.substr(file, tf.minimum(place, tf.size(data)), end - tf.minimum(place, tf.size(data)))
    header = tf.strings.substr(file, 0, HEADER + colours)
    header = tf.where(own == 0, whitened(header, HEADER, colours, colour), header)
    image = tf.where(own == 0, image, whitened(image, DESCRIPTOR, own, colour))
    return tf.strings.join([header, tf.where(at(place) == 0x2C, image, b""), b";"])


def whitened(part: tf.Tensor, place: int, size: tf.Tensor, colour: tf.Tensor) -> tf.Tensor:
    """-> a part of a file, of whose table of `size` bytes from `place` on the colour is white; -1: none."""
    start = place + 3 * colour
    inside = (colour >= 0) & (3 * colour < size) & (start + 3 <= tf.strings.length(part))
    start = tf.where(inside, start, 0)
    behind = tf.strings.substr(part, tf.minimum(start + 3, tf.strings.length(part)), -1)
    white = tf.strings.join([tf.strings.substr(part, 0, start), b"\xff" * 3, behind])
    return tf.where(inside, white, part)


def chain_end(data: tf.Tensor, place: tf.Tensor) -> tf.Tensor:
    """data uint8 [N] -> what comes behind the chain of sub-blocks that begins at a place, at most N.

    Each sub-block has its length before it, and length 0 ends the chain. One step a sub-block could be as many steps as
    there are bytes. So a window of the file is followed at once: of each of its places the next one is known, then the
    one two links on, then four, until the chain that begins at the first has ended or left the window.
    """
    size, places = tf.size(data), tf.range(WINDOW + 256)

    def step(place: tf.Tensor, ended: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        window = tf.cast(data[place : place + WINDOW], tf.int32)
        links = tf.pad(window, [[0, WINDOW + 256 - tf.size(window)]])  # behind the window a place is its own next
        following = tf.where(links == 0, places, places + links + 1)
        for _ in range(WINDOW.bit_length()):
            following = tf.gather(following, following)
        end = following[0]
        return place + end, end < tf.size(window)

    place, ended = tf.while_loop(
        lambda place, ended: ~ended & (place < size), step, (tf.minimum(place, size), tf.constant(False))
    )
    return tf.minimum(tf.where(ended, place + 1, size), size)
