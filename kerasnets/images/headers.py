"""Read the headers of image files before decoding: a header of a few bytes can request gigabytes.

B files
"""

import tensorflow as tf

from kerasnets.images import gif
from kerasnets.images.bytes import begins, has, number, signed

MOST_SEGMENTS = 1000  # before the size of a JPEG: the largest colour profiles take 255

PNG, JPEG, GIF, BMP, RIFF = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", gif.MAGIC, b"BM", b"RIFF"  # file signatures
FRAMES = [0xFFC0 + n for n in range(16) if n not in (4, 8, 12)]  # markers of the segment with a JPEG's size
BARE = [0xFF01, *range(0xFFD0, 0xFFD8)]  # markers without a segment
ENDS = [0xFF00, *range(0xFFD8, 0xFFDB)]  # markers that may not precede the size: other images, the end, pixels
BMP_MASKS = (
    b"\0\0\xff\0" + b"\0\xff\0\0" + b"\xff\0\0\0"
)  # of red, green and blue, in the only order that TensorFlow decodes


def webp(files: tf.Tensor) -> tf.Tensor:
    """-> bool [B]: whether a file is WebP."""
    return begins(files, RIFF) & has(files, 8, b"WEBP")


def known(files: tf.Tensor) -> tf.Tensor:
    """-> bool [B]: whether a file has a supported format."""
    return tf.reduce_any([webp(files), *(begins(files, kind) for kind in (PNG, JPEG, GIF, BMP))], axis=0)


def sizes(files: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """files from `gif.first_images` -> rows and columns of pixels, int64 [B]; 0 or less: no pixels."""
    frame = frame_segments(files)
    height, width = signed(number(files, 20, 4)), signed(number(files, 16, 4))  # of a PNG, where 31 bits are allowed
    for those, (y, x) in [
        (begins(files, JPEG), (number(files, frame + 5, 2), number(files, frame + 7, 2))),
        (begins(files, GIF), gif.sizes(files)),
        # The number of rows of a BMP is negative if they are stored from the top down.
        (begins(files, BMP), (tf.abs(signed(number(files, 22, 4, True))), signed(number(files, 18, 4, True)))),
        (webp(files), webp_sizes(files)),
    ]:
        height, width = tf.where(those, y, height), tf.where(those, x, width)
    return height, width


def webp_sizes(files: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """-> rows and columns of WebP files in each of their three forms, int64 [B]; 0 for other files."""
    lossless = number(files, 21, 4, True)  # 14 bits each, of the size minus one
    extended = has(files, 12, b"VP8X")
    lossy = has(files, 12, b"VP8 ") & has(files, 23, b"\x9d\x01\x2a")
    height = width = tf.zeros_like(lossless)
    for those, y, x in [
        (lossy, number(files, 28, 2, True) % 2**14, number(files, 26, 2, True) % 2**14),
        (has(files, 12, b"VP8L") & has(files, 20, b"\x2f"), lossless // 2**14 % 2**14 + 1, lossless % 2**14 + 1),
        (extended, number(files, 27, 3, True) + 1, number(files, 24, 3, True) + 1),
    ]:
        height, width = tf.where(those, y, height), tf.where(those, x, width)
    return height, width


def animated_webp(files: tf.Tensor) -> tf.Tensor:
    """-> bool [B]: whether a file is an animated WebP. TensorFlow 2.21 writes out of bounds when it decodes one."""
    return webp(files) & has(files, 12, b"VP8X") & (number(files, 20, 1) // 2 % 2 == 1)


def plain_bmp(files: tf.Tensor) -> tf.Tensor:
    """-> bool [B]: False for BMPs that TensorFlow decodes incorrectly. It ignores palettes, compression, masks and the
    short headers of OS/2."""
    header, bits, compression = number(files, 14, 4, True), number(files, 28, 2, True), number(files, 30, 4, True)
    ordered = (compression == 0) | ((compression == 3) & has(files, 54, BMP_MASKS))
    return (header >= 40) & ((bits == 24) | (bits == 32)) & ordered | ~begins(files, BMP)


def transparent_bmp(files: tf.Tensor) -> tf.Tensor:
    """-> bool [B]: whether a file is a BMP with an alpha mask; without one, a pixel's fourth byte has no meaning."""
    header, bits, compression = number(files, 14, 4, True), number(files, 28, 2, True), number(files, 30, 4, True)
    mask = has(files, 66, b"\0\0\0\xff")
    return begins(files, BMP) & (header >= 56) & (bits == 32) & (compression == 3) & mask


def transparent_png(files: tf.Tensor) -> tf.Tensor:
    """-> bool [B]: whether a PNG may have transparent pixels: it has an alpha channel or a tRNS chunk."""
    alpha = number(files, 25, 1) // 4 % 2 == 1  # a bit of the colour type
    return alpha | tf.strings.regex_full_match(files, r"\C*tRNS\C*")


def frame_segments(files: tf.Tensor) -> tf.Tensor:
    """-> the offset of the segment with a JPEG's size, int32 [B]; the length of the file if there is none."""
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
    """-> an upper bound of the number of scans of each JPEG, int32 [B]; 0 for other files. It also counts scans of
    thumbnails inside segments."""

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
