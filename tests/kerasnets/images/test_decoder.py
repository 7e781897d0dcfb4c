"""The decoder of image files: the pixels are those that Pillow sees in front of white, for training and for serving."""

import io
import struct

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from kerasnets.images import decoder, gif
from kerasnets.tasks.image_classification import pictures

DRAW = np.random.default_rng(0)
OPAQUE = Image.fromarray(DRAW.integers(0, 256, (37, 53, 3), np.uint8))
CLEAR = Image.fromarray(DRAW.integers(0, 256, (37, 53, 4), np.uint8), "RGBA")
DEEP = Image.fromarray(DRAW.integers(0, 65536, (37, 53), np.uint16))
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
    "PNG": encoded(CLEAR, "PNG"),
    "gray PNG": encoded(CLEAR.convert("LA"), "PNG"),
    "PNG with a palette": encoded(PALETTE, "PNG", transparency=bytes(range(256))),
    "PNG with a transparent gray": encoded(OPAQUE.convert("L"), "PNG", transparency=9),
    "PNG with a transparent colour": encoded(OPAQUE, "PNG", transparency=OPAQUE.getpixel((3, 3))),
    "PNG of one bit": encoded(OPAQUE.convert("1"), "PNG", transparency=0),
    "WebP": encoded(CLEAR, "WEBP"),
    "lossless WebP": encoded(CLEAR, "WEBP", lossless=True, exact=True),
    "GIF": encoded(PALETTE, "GIF", transparency=7),
    "interlaced GIF": encoded(PALETTE, "GIF", transparency=7, interlace=True),
    "BMP": bmp_with_alpha(CLEAR),
}


@pytest.mark.parametrize("name", TRANSPARENT)
def test_transparent_images_are_put_on_white(name):
    assert np.array_equal(decoder.read(TRANSPARENT[name]), on_white(TRANSPARENT[name]))


OPAQUE_FILES = {
    **{f"PNG {image.mode}": encoded(image, "PNG") for image in (OPAQUE, PALETTE, OPAQUE.convert("L"), DEEP)},
    "JPEG": encoded(OPAQUE, "JPEG"),
    "progressive JPEG": encoded(OPAQUE, "JPEG", progressive=True),
    "CMYK": encoded(OPAQUE.convert("CMYK"), "JPEG"),
    "GIF": encoded(PALETTE, "GIF"),
    "BMP": encoded(OPAQUE, "BMP"),
    "BMP whose fourth bytes mean nothing": encoded(CLEAR, "BMP"),
    "WebP": encoded(OPAQUE, "WEBP"),
}


@pytest.mark.parametrize("name", OPAQUE_FILES)
def test_opaque_images_are_as_tensorflow_decodes_them(name):
    file = OPAQUE_FILES[name]
    channels = 0 if name.startswith(("BMP", "WebP")) else 3
    expected = tf.io.decode_image(file, channels, expand_animations=False).numpy()[..., :3]
    assert np.array_equal(decoder.read(file), expected)


def test_training_sees_what_a_server_sees():
    """Of every kind of file; images that are not resized are the same to the bit."""
    files = [*TRANSPARENT.values(), *OPAQUE_FILES.values()]
    served = pictures.decode(tf.constant(files), 37, 53, "image_bytes").numpy()
    assert np.array_equal(served, [decoder.read(file) for file in files])


def test_on_white_in_parts(monkeypatch):
    monkeypatch.setattr(decoder, "PART", 100)
    assert np.array_equal(decoder.on_white(tf.constant(np.asarray(CLEAR))), on_white(TRANSPARENT["PNG"]))


# GIF.


def frames(count, size=(37, 53)):
    return [Image.fromarray(np.full(size, n % 256, np.uint8)).convert("P") for n in range(count)]


def test_of_an_animation_the_first_image_counts():
    animation = encoded(PALETTE, "GIF", save_all=True, append_images=frames(20), loop=0, transparency=3)
    cut = gif.first_images(tf.constant([animation, b"GIF89a", b"other"])).numpy()
    assert tf.io.decode_gif(cut[0]).shape == (1, 37, 53, 3) and cut[1] == b"GIF89a;" and cut[2] == b"other"
    assert np.array_equal(decoder.read(animation), on_white(animation))
    # What comes later is not even looked at.
    end = animation.index(cut[0][-50:-1]) + 49
    assert np.array_equal(decoder.read(animation[:end] + b"\x2c" + b"\xff" * 5000), on_white(animation))


def test_an_animation_is_decoded_in_the_memory_of_one_image(monkeypatch):
    """What the decoder is given has one image, however many there are."""
    animation = encoded(frames(1, (300, 300))[0], "GIF", save_all=True, append_images=frames(300, (300, 300))[1:])
    given = []
    decode = tf.io.decode_image
    monkeypatch.setattr(tf.io, "decode_image", lambda file, **options: given.append(file) or decode(file, **options))
    assert decoder.decode(gif.first_images(tf.constant([animation]))[0]).shape == (300, 300, 3)
    assert tf.io.decode_gif(given[0]).shape == (1, 300, 300, 3)


def test_a_gif_is_its_whole_screen():
    file = encoded(PALETTE, "GIF")
    place = file.index(b"\x2c\0\0\0\0")
    moved = file[:6] + struct.pack("<HH", 70, 60) + file[10 : place + 1] + struct.pack("<HH", 5, 9) + file[place + 5 :]
    expected = np.full((60, 70, 3), 255)
    expected[9:46, 5:58] = PALETTE.convert("RGB")
    assert np.array_equal(decoder.read(moved), expected)


@pytest.mark.parametrize("lengths", [[0], [255] * 300 + [0], [1] * 30_000 + [0], [1, 255, 3] * 100 + [0], [7], []])
def test_chains_end_where_they_end(lengths):
    chain = b"".join(bytes([length]) + b"\1" * length for length in lengths)
    data = tf.io.decode_raw(b"before" + chain + b"behind", tf.uint8)
    ends = 6 + len(chain) if 0 in lengths else len(data)
    assert gif.chain_end(data, tf.constant(6)).numpy() == ends
