"""The decoder of image files: its pixels equal Pillow's on white, for training and serving."""

import io
import struct
import time

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from kerasnets.images import decoder, gif
from kerasnets.tasks.image_classification import image_files

RNG = np.random.default_rng(0)
OPAQUE = Image.fromarray(RNG.integers(0, 256, (37, 53, 3), np.uint8))
TRANSLUCENT = Image.fromarray(RNG.integers(0, 256, (37, 53, 4), np.uint8), "RGBA")
DEEP = Image.fromarray(RNG.integers(0, 65536, (37, 53), np.uint16))
PALETTE = OPAQUE.convert("P")


def encoded(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def bmp_with_alpha(image):
    pixels = np.asarray(image)[::-1, :, [2, 1, 0, 3]].tobytes()
    header = struct.pack("<IiiHHIIiiII", 108, image.width, image.height, 1, 32, 3, len(pixels), 0, 0, 0, 0)
    masks = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000) + bytes(52)
    return b"BM" + struct.pack("<IHHI", 122 + len(pixels), 0, 0, 122) + header + masks + pixels


def on_white(file):
    image = Image.open(io.BytesIO(file)).convert("RGBA")
    return np.asarray(Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB"))


TRANSPARENT = {
    "PNG": encoded(TRANSLUCENT, "PNG"),
    "gray PNG": encoded(TRANSLUCENT.convert("LA"), "PNG"),
    "PNG with a palette": encoded(PALETTE, "PNG", transparency=bytes(range(256))),
    "PNG with a transparent gray": encoded(OPAQUE.convert("L"), "PNG", transparency=9),
    "PNG with a transparent colour": encoded(OPAQUE, "PNG", transparency=OPAQUE.getpixel((3, 3))),
    "PNG of one bit": encoded(OPAQUE.convert("1"), "PNG", transparency=0),
    "WebP": encoded(TRANSLUCENT, "WEBP"),
    "lossless WebP": encoded(TRANSLUCENT, "WEBP", lossless=True, exact=True),
    "GIF": encoded(PALETTE, "GIF", transparency=7),
    "interlaced GIF": encoded(PALETTE, "GIF", transparency=7, interlace=True),
    "BMP": bmp_with_alpha(TRANSLUCENT),
}


@pytest.mark.parametrize("name", TRANSPARENT)
def test_transparent_images_are_blended_onto_white(name):
    assert np.array_equal(decoder.read(TRANSPARENT[name]), on_white(TRANSPARENT[name]))


OPAQUE_FILES = {
    **{f"PNG {image.mode}": encoded(image, "PNG") for image in (OPAQUE, PALETTE, OPAQUE.convert("L"), DEEP)},
    "JPEG": encoded(OPAQUE, "JPEG"),
    "progressive JPEG": encoded(OPAQUE, "JPEG", progressive=True),
    "CMYK": encoded(OPAQUE.convert("CMYK"), "JPEG"),
    "GIF": encoded(PALETTE, "GIF"),
    "BMP": encoded(OPAQUE, "BMP"),
    "BMP with unused fourth bytes": encoded(TRANSLUCENT, "BMP"),
    "WebP": encoded(OPAQUE, "WEBP"),
}


@pytest.mark.parametrize("name", OPAQUE_FILES)
def test_opaque_images_equal_tensorflows_decoding(name):
    file = OPAQUE_FILES[name]
    channels = 0 if name.startswith(("BMP", "WebP")) else 3
    expected = tf.io.decode_image(file, channels, expand_animations=False).numpy()[..., :3]
    assert np.array_equal(decoder.read(file), expected)


def test_training_and_serving_decode_alike():
    """For every kind of file; images that are not resized are bitwise equal."""
    files = [*TRANSPARENT.values(), *OPAQUE_FILES.values()]
    served = image_files.decode(tf.constant(files), 37, 53, "image_bytes").numpy()
    assert np.array_equal(served, [decoder.read(file) for file in files])


def test_blending_in_chunks(monkeypatch):
    monkeypatch.setattr(decoder, "BLEND_CHUNK", 100)
    assert np.array_equal(decoder.blend_onto_white(tf.constant(np.asarray(TRANSLUCENT))), on_white(TRANSPARENT["PNG"]))


# GIF.


def frames(count, size=(37, 53)):
    return [Image.fromarray(np.full(size, n % 256, np.uint8)).convert("P") for n in range(count)]


def test_animation_decodes_to_its_first_image():
    animation = encoded(PALETTE, "GIF", save_all=True, append_images=frames(20), loop=0, transparency=3)
    cut, found = (tensor.numpy() for tensor in gif.first_images(tf.constant([animation, b"GIF89a", b"other"])))
    assert found.all()
    assert tf.io.decode_gif(cut[0]).shape == (1, 37, 53, 3) and cut[1] == b"GIF89a;" and cut[2] == b"other"
    assert np.array_equal(decoder.read(animation), on_white(animation))
    # Later bytes are not read.
    end = animation.index(cut[0][-50:-1]) + 49
    assert np.array_equal(decoder.read(animation[:end] + b"\x2c" + b"\xff" * 5000), on_white(animation))


def test_only_the_first_image_is_passed_to_the_decoder(monkeypatch):
    """Thus decoding takes the memory of one image: TensorFlow decodes all images of the file that it gets."""
    animation = encoded(frames(1, (300, 300))[0], "GIF", save_all=True, append_images=frames(300, (300, 300))[1:])
    decoded_files = []
    decode = tf.io.decode_image
    monkeypatch.setattr(
        tf.io, "decode_image", lambda file, **options: decoded_files.append(file) or decode(file, **options)
    )
    assert decoder.decode(gif.first_images(tf.constant([animation]))[0][0]).shape == (300, 300, 3)
    assert tf.io.decode_gif(decoded_files[0]).shape == (1, 300, 300, 3)


def test_gif_covers_its_whole_screen():
    file = encoded(PALETTE, "GIF")
    offset = file.index(b"\x2c\0\0\0\0")
    moved = (
        file[:6] + struct.pack("<HH", 70, 60) + file[10 : offset + 1] + struct.pack("<HH", 5, 9) + file[offset + 5 :]
    )
    expected = np.full((60, 70, 3), 255)
    expected[9:46, 5:58] = PALETTE.convert("RGB")
    assert np.array_equal(decoder.read(moved), expected)


LENGTHS = [[0], [255] * 300 + [0], [254] * 3000 + [9, 0], [1] * 30_000 + [0], [1, 255, 3] * 100 + [0], [7], [], [5, 5]]


@pytest.mark.parametrize("lengths", LENGTHS, ids=range(len(LENGTHS)))
def test_chain_end(lengths):
    """Also of chains that the end of the file cuts off."""
    chain = b"".join(bytes([length]) + b"\1" * length for length in lengths)
    rest = b"rest" if 0 in lengths else b""
    data = tf.io.decode_raw(b"before" + chain + rest, tf.uint8)
    end, left = gif.chain_end(data, tf.constant(6), tf.constant(100))
    assert end.numpy() == 6 + len(chain) and 90 <= left.numpy() < 100 + (not lengths)
    cut = data[: 6 + len(chain) // 2]
    assert gif.chain_end(cut, tf.constant(6), tf.constant(100))[0].numpy() == len(cut)


def gif_in_blocks(length, size):
    """-> a GIF whose image is in `size` bytes of sub-blocks of `length` bytes."""
    file = encoded(PALETTE, "GIF")
    start = file.index(b"\x2c\0\0\0\0") + gif.DESCRIPTOR + 1
    return file[:start] + (bytes([length]) + bytes(length)) * (size // (length + 1)) + b"\0;"


def test_gif_with_tiny_blocks_is_decoded():
    """Two bytes per sub-block, which no program writes."""
    file = encoded(PALETTE, "GIF")
    start = file.index(b"\x2c\0\0\0\0") + gif.DESCRIPTOR + 1
    data, offset = b"", start
    while file[offset]:
        data += file[offset + 1 : offset + 1 + file[offset]]
        offset += 1 + file[offset]
    split = b"".join(b"\1" + data[n : n + 1] for n in range(len(data)))
    assert np.array_equal(decoder.read(file[:start] + split + file[offset:]), decoder.read(file))


SMALL_BLOCKS = "is a GIF whose image, with those before it, is in too many small blocks"


@pytest.mark.parametrize(
    "file",
    [
        gif_in_blocks(1, 30_000_000),
        b"GIF89a" + bytes(7) + b"\x21\xfe\0" * 10_000_000,
        b"GIF89a" + bytes(7) + b"\x21\xfe" + b"\1\1" * 15_000_000,
    ],
    ids=["image", "extensions", "an extension"],
)
def test_gif_decoding_time_is_bounded(file):
    """30 MB of the smallest blocks took half a minute."""
    decoder.read(encoded(PALETTE, "GIF"))  # the graph is traced
    start = time.process_time()
    with pytest.raises(decoder.ImageError, match=SMALL_BLOCKS):
        decoder.read(file)
    assert time.process_time() - start < 10


def test_large_blocks_are_within_the_step_limit():
    file = gif_in_blocks(255, 30_000_000)
    images, found = gif.first_images(tf.constant([file]))
    assert found.numpy() and images.numpy() == [file]


def test_steps_are_limited_over_all_files(monkeypatch):
    """Each file adds some steps, so that many small files pass."""
    monkeypatch.setattr(gif, "MAX_STEPS", 20)
    usual, many = encoded(PALETTE, "GIF", comment=b"c", transparency=3), gif_in_blocks(1, 200_000)
    _, found = gif.first_images(tf.constant([usual] * 50 + [b"other", many] + [usual, b"other"]))
    assert found.numpy().tolist() == [True] * 50 + [True, True] + [True, True]
    _, found = gif.first_images(tf.constant([usual, many, b"other", many, usual]))
    assert found.numpy().tolist() == [True, True, True, False, False]


# All files of a request.


def test_total_pixels_are_limited():
    """Pixels are counted from the headers; the error names the first row above the limit."""
    largest = encoded(Image.new("1", (5000, 5000)), "PNG")
    small = encoded(OPAQUE, "JPEG")
    sentence = r"image_bytes 10 brings the request to 250001961 pixels, more than the limit of 250000000: give fewer"
    with pytest.raises(tf.errors.InvalidArgumentError, match=sentence):
        image_files.decode(tf.constant([largest, small, *[largest] * 9, b"no image"]), 8, 8, "image_bytes")
    with pytest.raises(tf.errors.InvalidArgumentError, match="image_bytes 1 is not a PNG"):
        image_files.decode(tf.constant([small, b"no image", *[largest] * 11]), 8, 8, "image_bytes")
    assert image_files.decode(tf.constant([largest] * 10), 8, 8, "image_bytes").shape == (10, 8, 8, 3)
