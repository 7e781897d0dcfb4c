"""Read the headers of image files before decoding: a header of a few bytes can request gigabytes.

B files
"""

import tensorflow as tf

from kerasnets.images import gif
from kerasnets.images.bytes import has_bytes, read_uint, starts_with, to_signed

MAX_SEGMENTS = 1000  # before the size of a JPEG: the largest colour profiles take 255

PNG, JPEG, GIF, BMP, RIFF = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", gif.MAGIC, b"BM", b"RIFF"  # file signatures
SOF_MARKERS = [0xFFC0 + n for n in range(16) if n not in (4, 8, 12)]  # markers of the segment with a JPEG's size
STANDALONE_MARKERS = [0xFF01, *range(0xFFD0, 0xFFD8)]  # markers without a segment
STOP_MARKERS = [0xFF00, *range(0xFFD8, 0xFFDB)]  # markers that may not precede the size: other images, the end, pixels
# Masks of red, green and blue, in the only order that TensorFlow decodes.
BMP_MASKS = b"\0\0\xff\0" + b"\0\xff\0\0" + b"\xff\0\0\0"


def is_webp(files: tf.Tensor) -> tf.Tensor:
    """-> bool [B]: whether a file is WebP."""
    return starts_with(files, RIFF) & has_bytes(files, 8, b"WEBP")


def is_supported(files: tf.Tensor) -> tf.Tensor:
    """-> bool [B]: whether a file has a supported format."""
    return tf.reduce_any([is_webp(files), *(starts_with(files, kind) for kind in (PNG, JPEG, GIF, BMP))], axis=0)


def sizes(files: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """files from `gif.first_images` -> rows and columns of pixels, int64 [B]; 0 or less: no pixels."""
    frame = sof_offsets(files)
    # Of a PNG, where 31 bits are allowed.
    height, width = to_signed(read_uint(files, 20, 4)), to_signed(read_uint(files, 16, 4))
    for mask, (y, x) in [
        (starts_with(files, JPEG), (read_uint(files, frame + 5, 2), read_uint(files, frame + 7, 2))),
        (starts_with(files, GIF), gif.sizes(files)),
        # The number of rows of a BMP is negative if they are stored from the top down.
        (
            starts_with(files, BMP),
            (tf.abs(to_signed(read_uint(files, 22, 4, True))), to_signed(read_uint(files, 18, 4, True))),
        ),
        (is_webp(files), webp_sizes(files)),
    ]:
        height, width = tf.where(mask, y, height), tf.where(mask, x, width)
    return height, width


def webp_sizes(files: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """-> rows and columns of WebP files in each of their three forms, int64 [B]; 0 for other files."""
    lossless = read_uint(files, 21, 4, True)  # 14 bits each, of the size minus one
    extended = has_bytes(files, 12, b"VP8X")
    lossy = has_bytes(files, 12, b"VP8 ") & has_bytes(files, 23, b"\x9d\x01\x2a")
    height = width = tf.zeros_like(lossless)
    for mask, y, x in [
        (lossy, read_uint(files, 28, 2, True) % 2**14, read_uint(files, 26, 2, True) % 2**14),
        (
            has_bytes(files, 12, b"VP8L") & has_bytes(files, 20, b"\x2f"),
            lossless // 2**14 % 2**14 + 1,
            lossless % 2**14 + 1,
        ),
        (extended, read_uint(files, 27, 3, True) + 1, read_uint(files, 24, 3, True) + 1),
    ]:
        height, width = tf.where(mask, y, height), tf.where(mask, x, width)
    return height, width


def is_animated_webp(files: tf.Tensor) -> tf.Tensor:
    """-> bool [B]: whether a file is an animated WebP. TensorFlow 2.21 writes out of bounds when it decodes one."""
    return is_webp(files) & has_bytes(files, 12, b"VP8X") & (read_uint(files, 20, 1) // 2 % 2 == 1)


def decodable_bmp(files: tf.Tensor) -> tf.Tensor:
    """-> bool [B]: False for BMPs that TensorFlow decodes incorrectly. It ignores palettes, compression, masks and the
    short headers of OS/2."""
    header, bits, compression = (
        read_uint(files, 14, 4, True),
        read_uint(files, 28, 2, True),
        read_uint(files, 30, 4, True),
    )
    ordered = (compression == 0) | ((compression == 3) & has_bytes(files, 54, BMP_MASKS))
    return (header >= 40) & ((bits == 24) | (bits == 32)) & ordered | ~starts_with(files, BMP)


def is_transparent_bmp(files: tf.Tensor) -> tf.Tensor:
    """-> bool [B]: whether a file is a BMP with an alpha mask; without one, a pixel's fourth byte has no meaning."""
    header, bits, compression = (
        read_uint(files, 14, 4, True),
        read_uint(files, 28, 2, True),
        read_uint(files, 30, 4, True),
    )
    mask = has_bytes(files, 66, b"\0\0\0\xff")
    return starts_with(files, BMP) & (header >= 56) & (bits == 32) & (compression == 3) & mask


def is_transparent_png(files: tf.Tensor) -> tf.Tensor:
    """-> bool [B]: whether a PNG may have transparent pixels: it has an alpha channel or a tRNS chunk."""
    alpha = read_uint(files, 25, 1) // 4 % 2 == 1  # a bit of the colour type
    return alpha | tf.strings.regex_full_match(files, r"\C*tRNS\C*")


def sof_offsets(files: tf.Tensor) -> tf.Tensor:
    """-> the offset of the segment with a JPEG's size, int32 [B]; the length of the file if there is none."""
    length = tf.strings.length(files)

    def is_in(marker: tf.Tensor, markers: list[int]) -> tf.Tensor:
        return tf.reduce_any(marker[:, tf.newaxis] == tf.constant(markers, tf.int64), axis=1)

    def step(offset: tf.Tensor, searching: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        marker, size = read_uint(files, offset, 2), tf.cast(read_uint(files, offset + 2, 2), tf.int32)
        found, standalone, fill = is_in(marker, SOF_MARKERS), is_in(marker, STANDALONE_MARKERS), marker == 0xFFFF
        broken = (marker < 0xFF00) | is_in(marker, STOP_MARKERS) | ((size < 2) & ~standalone & ~fill)
        advance = tf.where(fill, 1, tf.where(standalone, 2, 2 + size))
        offset = tf.where(searching & ~found, tf.where(broken, length, tf.minimum(offset + advance, length)), offset)
        return offset, searching & ~found & (offset < length)

    offset, searching = tf.where(starts_with(files, JPEG), 2, length), starts_with(files, JPEG)
    offset, searching = tf.while_loop(
        lambda offset, searching: tf.reduce_any(searching), step, (offset, searching), maximum_iterations=MAX_SEGMENTS
    )
    return tf.where(searching, length, offset)


def count_scans(files: tf.Tensor) -> tf.Tensor:
    """-> an upper bound of the number of scans of each JPEG, int32 [B]; 0 for other files. It also counts scans of
    thumbnails inside segments."""

    def count(file: tf.Tensor) -> tf.Tensor:
        data = tf.io.decode_raw(file, tf.uint8)
        return tf.math.count_nonzero((data[:-1] == 0xFF) & (data[1:] == 0xDA), dtype=tf.int32)

    def one(file: tf.Tensor) -> tf.Tensor:
        return tf.cond(starts_with(file, JPEG), lambda: count(file), lambda: tf.constant(0))

    return tf.cond(
        tf.reduce_any(starts_with(files, JPEG)),
        lambda: tf.map_fn(one, files, fn_output_signature=tf.TensorSpec((), tf.int32)),
        lambda: tf.zeros(tf.shape(files), tf.int32),
    )
