"""Picture files of requests, in core TensorFlow operations: what their headers tell, read before anything is decoded;
decoding; and a sentence for each file that cannot be used.

A header of a few bytes can ask for gigabytes, and TensorFlow's decoders would take them, so sizes are read here first.

    B files
"""

from collections.abc import Callable

import tensorflow as tf

from kerasnets.tasks.requests import require, require_rows

MOST_PIXELS = 25_000_000  # 75 MB decoded; large cameras have about so many, and networks see far fewer
MOST_SEGMENTS = 1000  # before a JPEG tells its size or a GIF its first picture: the largest colour profiles take 255
MOST_SCANS = 50  # of a JPEG, where 10 are usual: each passes over all pixels, whether or not it has bytes for them
AT_ONCE = 4  # files that are decoded side by side: each may take as much memory as MOST_PIXELS asks for

PNG, JPEG, GIF, BMP = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF8", b"BM"  # what files begin with
FRAMES = [0xFFC0 + n for n in range(16) if n not in (4, 8, 12)]  # markers of the segment that tells a JPEG's size
BARE = [0xFF01, *range(0xFFD0, 0xFFD8)]  # markers without a segment
ENDS = [0xFF00, *range(0xFFD8, 0xFFDB)]  # what may not come before the size: other pictures, the end, pixels


def decode(files: tf.Tensor, rows: int, columns: int, name: str) -> tf.Tensor:
    """files string [B]: PNG, JPEG, GIF (its first picture) or BMP (24 or 32 bits a pixel) -> float32
    [B, rows, columns, 3], 0..255: whole pictures, whose proportions are not kept.

    Files that are no such picture, have no pixels or more than MOST_PIXELS, or are broken, are refused with a sentence
    that names the row.
    """
    files = require_rows(files, name)
    known = tf.reduce_any([begins(files, kind) for kind in (PNG, JPEG, GIF, BMP)], axis=0)
    with tf.control_dependencies([require(known, name, "is no PNG, JPEG, GIF or BMP file")]):
        files, places = first_pictures(tf.identity(files))
    height, width = sizes(files, places)
    count = height * width
    checks = [
        require((height > 0) & (width > 0), name, "has no pixels, or no header that tells how many"),
        require(count <= MOST_PIXELS, name, f"pixels large, more than the limit of {MOST_PIXELS}: shrink it", count),
        require(plain(files), name, "is a BMP of another kind than 24 or 32 bits a pixel without compression"),
        require(scans(files) <= MOST_SCANS, name, f"is a JPEG of more than {MOST_SCANS} scans"),
    ]
    with tf.control_dependencies(checks):
        files = tf.identity(files)
    spec = tf.TensorSpec((rows, columns, 3), tf.float32)

    def one(file: tf.Tensor) -> tf.Tensor:
        # A BMP's channels are as many as are in the file.
        picture = tf.cond(
            begins(file, BMP),
            lambda: tf.io.decode_bmp(file)[:, :, :3],
            lambda: tf.io.decode_image(file, channels=3, expand_animations=False),
        )
        picture.set_shape((None, None, 3))
        return tf.image.resize(picture, (rows, columns), antialias=True)

    return tf.clip_by_value(each(one, files, spec, name, "is broken or cut off and cannot be decoded"), 0.0, 255.0)


def each(
    function: Callable[[tf.Tensor], tf.Tensor], rows: tf.Tensor, spec: tf.TensorSpec, name: str, wrong: str
) -> tf.Tensor:
    """-> function(row) of every row [B, ...]. Where it fails, the sentence says which row is `wrong`.

    An operation's own error does not name the row, and a graph cannot catch it. But a dataset can drop the rows that
    fail, and those that are left tell which these were.
    """
    count = tf.size(rows, out_type=tf.int64)
    results = tf.data.Dataset.from_tensor_slices((tf.range(count), rows))
    results = results.map(lambda place, row: (place, function(row)), num_parallel_calls=AT_ONCE).ignore_errors()
    last = tf.data.Dataset.from_tensors((count, tf.zeros(spec.shape, spec.dtype)))  # so that there always is one
    places, values = results.concatenate(last).batch(count + 1).get_single_element()
    there = tf.scatter_nd(places[:, tf.newaxis], tf.ones_like(places), [count + 1])[:-1] > 0
    with tf.control_dependencies([require(there, name, wrong)]):
        return tf.ensure_shape(values[:-1], (None, *spec.shape))


def begins(files: tf.Tensor, beginning: bytes) -> tf.Tensor:
    return tf.strings.substr(files, 0, len(beginning)) == beginning


def number(files: tf.Tensor, place: tf.Tensor | int, count: int, lowest_first: bool = False) -> tf.Tensor:
    """-> the number that `count` bytes from `place` (one, or int32 [B]) on make, int64 [B]; behind a file's end are
    zeros."""
    place = tf.minimum(place, tf.strings.length(files))
    data = tf.strings.substr(files, place, tf.fill(tf.shape(place), count)) + b"\0" * count
    digits = tf.cast(tf.io.decode_raw(tf.strings.substr(data, 0, count), tf.uint8), tf.int64)  # [B, count]
    weights = [256**n for n in range(count)]
    return tf.reduce_sum(digits * tf.constant(weights if lowest_first else weights[::-1], tf.int64), axis=1)


def sizes(files: tf.Tensor, places: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """files and places as of `first_pictures` -> rows and columns of pixels, int64 [B]; 0 or less: there are none."""

    def signed(value: tf.Tensor) -> tf.Tensor:
        return tf.where(value < 2**31, value, value - 2**32)

    frame = frame_segments(files)
    height, width = signed(number(files, 20, 4)), signed(number(files, 16, 4))  # of a PNG, where 31 bits are allowed
    for kind, y, x in [
        (JPEG, number(files, frame + 5, 2), number(files, frame + 7, 2)),
        (GIF, number(files, places + 7, 2, True), number(files, places + 5, 2, True)),
        # The rows of a BMP are negative where they are stored from the top down.
        (BMP, tf.abs(signed(number(files, 22, 4, True))), signed(number(files, 18, 4, True))),
    ]:
        height, width = tf.where(begins(files, kind), y, height), tf.where(begins(files, kind), x, width)
    return height, width


def plain(files: tf.Tensor) -> tf.Tensor:
    """-> bool [B]: whether TensorFlow decodes a file rightly, if it is a BMP. It takes no notice of palettes, of
    compression and of the short headers of OS/2."""
    header, bits, compression = number(files, 14, 4, True), number(files, 28, 2, True), number(files, 30, 4, True)
    right = (header >= 40) & ((bits == 24) | (bits == 32)) & ((compression == 0) | (compression == 3))
    return right | ~begins(files, BMP)


def frame_segments(files: tf.Tensor) -> tf.Tensor:
    """-> where in each JPEG the segment begins that tells its size, int32 [B]; the length of the file if nowhere."""
    length = tf.strings.length(files)

    def among(marker: tf.Tensor, markers: list[int]) -> tf.Tensor:
        return tf.reduce_any(marker[:, tf.newaxis] == tf.constant(markers, tf.int64), axis=1)

    def step(place: tf.Tensor, looking: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        marker, size = number(files, place, 2), tf.cast(number(files, place + 2, 2), tf.int32)
        found, bare, filling = among(marker, FRAMES), among(marker, BARE), marker == 0xFFFF
        broken = (marker < 0xFF00) | among(marker, ENDS) | ((size < 2) & ~bare & ~filling)
        on = tf.where(filling, 1, tf.where(bare, 2, 2 + size))
        place = tf.where(looking & ~found, tf.where(broken, length, tf.minimum(place + on, length)), place)
        return place, looking & ~found & (place < length)

    place, looking = tf.where(begins(files, JPEG), 2, length), begins(files, JPEG)
    place, looking = tf.while_loop(
        lambda place, looking: tf.reduce_any(looking), step, (place, looking), maximum_iterations=MOST_SEGMENTS
    )
    return tf.where(looking, length, place)


def scans(files: tf.Tensor) -> tf.Tensor:
    """-> how many scans each JPEG may have at the most, int32 [B]; 0 for other files. Small pictures inside a segment
    are counted too."""

    def count(file: tf.Tensor) -> tf.Tensor:
        data = tf.io.decode_raw(file, tf.uint8)
        return tf.math.count_nonzero((data[:-1] == 0xFF) & (data[1:] == 0xDA), dtype=tf.int32)

    def one(file: tf.Tensor) -> tf.Tensor:
        return tf.cond(begins(file, JPEG), lambda: count(file), lambda: tf.constant(0))

    return tf.cond(
        tf.reduce_any(begins(files, JPEG)),
        lambda: tf.map_fn(one, files, fn_output_signature=tf.TensorSpec((), tf.int32)),
        lambda: tf.zeros(tf.shape(files), tf.int32),
    )


def first_pictures(files: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """-> files string [B], of which GIFs end after their first picture, since the decoder would decode all of them
    first; where that picture begins in a GIF, int32 [B]."""

    def one(file: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return tf.cond(begins(file, GIF), lambda: first_picture(file), lambda: (file, tf.constant(0)))

    specs = tf.TensorSpec((), tf.string), tf.TensorSpec((), tf.int32)
    return tf.cond(
        tf.reduce_any(begins(files, GIF)),
        lambda: tf.map_fn(one, files, fn_output_signature=specs),
        lambda: (files, tf.zeros(tf.shape(files), tf.int32)),
    )


def first_picture(file: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """A GIF -> the same up to the end of its first picture; where that picture's descriptor is, or the file's length.

    A GIF is a chain of blocks, and their data are chains of sub-blocks, each with its length before it; length 0 ends
    a chain. Following one takes as many steps as it has links; where all chains of a file end, wherever one begins, is
    known after the logarithm of as many: a place's successor's successor is two links on, and so forth.
    """
    data = tf.cast(tf.io.decode_raw(file + b"\0" * 16, tf.uint8), tf.int32)  # so the last place is an end
    length = tf.strings.length(file)
    last, places = tf.size(data) - 1, tf.range(tf.size(data))
    ends = tf.where(data == 0, places, tf.minimum(places + data + 1, last))
    _, ends = tf.while_loop(
        lambda links, ends: links < tf.size(data),
        lambda links, ends: (2 * links, tf.gather(ends, ends)),
        (tf.constant(1), ends),
    )

    def at(place: tf.Tensor | int) -> tf.Tensor:
        return data[tf.minimum(place, last)]

    def table(flags: tf.Tensor) -> tf.Tensor:  # bytes of the colours that follow
        return tf.where(flags >= 128, 3 * tf.bitwise.left_shift(2, flags % 8), 0)

    def behind(place: tf.Tensor) -> tf.Tensor:  # the chain of sub-blocks that begins there
        return tf.gather(ends, tf.minimum(place, last)) + 1

    place = tf.while_loop(
        lambda place: at(place) == 0x21,  # an extension: what it is, sub-blocks
        lambda place: (behind(place + 2),),
        (13 + table(at(10)),),
        maximum_iterations=MOST_SEGMENTS,
    )[0]
    place = tf.where(at(place) == 0x2C, tf.minimum(place, length), length)
    end = behind(place + 11 + table(at(place + 9)))
    return tf.strings.substr(file, 0, end) + b";", place
