"""Convert the value of the image pad to the bytes of the request."""

from __future__ import annotations

import base64
import io
import struct
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from PIL import Image

from demos.predictions import PageError

GRAPH_FORMATS = ("PNG", "JPEG", "GIF", "BMP")  # decoded by the exported graph
CONVERTED_FORMATS = ("WEBP", "TIFF", "AVIF")  # to PNG. No others: for some (EPS), Pillow runs other programs
MARGIN = 0.1  # of the longer side, on each side: between the bundled digits (almost none) and MNIST (0.2)
MAX_BYTES = 8_000_000
MAX_PIXELS = 25_000_000  # as in the exported graph; checked in the header, before decoding
MAX_CONVERTED_PIXELS = 13_000_000  # a photo of a phone; conversion needs 20 bytes per pixel
MAX_DRAWING_PIXELS = 1_000_000  # the pad has 320 × 320
MAX_CONVERTED_SIDE = 2000  # pixels, far more than the networks use; PNG does not compress photos well
EMPTY_PAD = "The pad is empty: draw something, choose an image, or click an example."
UNREADABLE = "This file is not a readable image; choose a PNG or JPEG."
INVALID_VALUE = 'The value of the pad is invalid; it must be {"kind": "drawing" or "image", "data": a data URL}.'
TOO_MANY_PIXELS = "This image has too many pixels; choose a smaller one."
# The exceptions of Pillow for corrupt files.
DECODE_ERRORS = (OSError, SyntaxError, ValueError, EOFError, OverflowError, RuntimeError, struct.error)
CONVERSION_LOCK = threading.Lock()  # one image at a time, to bound the memory
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # check_size rejects smaller images already


def image_from_pad(value: object) -> bytes:
    """Return the encoded image of the pad's value ``{"kind": "drawing" | "image", "data": data URL}``."""
    if not value:  # None or ""
        raise PageError(EMPTY_PAD)
    if not isinstance(value, Mapping) or value.get("kind") not in ("drawing", "image"):
        raise PageError(INVALID_VALUE)
    url = value.get("data")
    if not url:
        raise PageError(EMPTY_PAD)
    if not isinstance(url, str):
        raise PageError(INVALID_VALUE)
    data = data_url_bytes(url)
    return drawing_png(data) if value["kind"] == "drawing" else to_supported_format(data)


def data_url_bytes(url: str) -> bytes:
    """Decode ``data:TYPE;base64,...`` to at most ``MAX_BYTES`` bytes."""
    text = url.partition(",")[2]
    size = len(text) * 3 // 4 - text[-2:].count("=")
    if size > MAX_BYTES:
        raise PageError(f"This image has {size / 1e6:.1f} MB; at most {MAX_BYTES / 1e6:.0f} MB are allowed.")
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:  # from binascii, or for characters beyond ASCII
        raise PageError(UNREADABLE) from error


def data_url(data: bytes) -> str:
    """Return a URL that contains an encoded image."""
    kind = next((name for start, name in MAGIC_NUMBERS.items() if data.startswith(start)), "png")
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


MAGIC_NUMBERS = {b"\xff\xd8": "jpeg", b"GIF8": "gif", b"BM": "bmp"}


@contextmanager
def open_image(data: bytes, formats: tuple[str, ...]) -> Iterator[Image.Image]:
    """Open an image file and read its header.

    Raises: PageError if the file cannot be read, also when it is decoded later.
    """
    try:
        with Image.open(io.BytesIO(data), formats=formats) as image:
            yield image
    except Image.DecompressionBombError as error:
        raise PageError(TOO_MANY_PIXELS) from error
    except DECODE_ERRORS as error:
        raise PageError(UNREADABLE) from error


def check_size(image: Image.Image, kind: str, max_pixels: int) -> None:
    """Raise ``PageError`` for more than ``max_pixels`` pixels."""
    if image.width * image.height > max_pixels:
        raise PageError(
            f"This {kind} has {image.width} × {image.height} pixels; at most {max_pixels // 1_000_000} million are "
            "allowed. Choose a smaller one."
        )


def to_supported_format(data: bytes) -> bytes:
    """Return an image file unchanged, or as PNG if the graph cannot decode its format.

    Formats of the graph are not decoded here: the graph checks them more closely and reports errors.
    """
    with open_image(data, GRAPH_FORMATS + CONVERTED_FORMATS) as image:
        if image.format in GRAPH_FORMATS:
            check_size(image, "image", MAX_PIXELS)
            image.verify()
            return data
        check_size(image, f"{image.format} image", MAX_CONVERTED_PIXELS)
        with CONVERSION_LOCK:
            converted = image.convert("RGB")
            converted.thumbnail((MAX_CONVERTED_SIDE, MAX_CONVERTED_SIDE))
            return encode_png(converted)


def drawing_png(data: bytes) -> bytes:
    """Convert strokes on a transparent canvas to white strokes on black, cropped to a square around them.

    Datasets of handwritten digits are light on dark, centred, and fill the image; a small drawing in a corner would
    not resemble any training image.
    """
    with open_image(data, ("PNG",)) as canvas:
        check_size(canvas, "drawing", MAX_DRAWING_PIXELS)
        strokes = canvas.convert("RGBA").getchannel("A")  # the alpha channel is the drawing in any colour of the theme
    box = strokes.point(lambda alpha: 255 * (alpha > 64)).getbbox()
    if box is None:
        raise PageError(EMPTY_PAD)
    return encode_png(center_on_square(strokes.crop(box)))


def center_on_square(strokes: Image.Image) -> Image.Image:
    """Centre cropped strokes on a black square with a margin."""
    longer = max(strokes.size)
    side = round(longer * (1 + 2 * MARGIN))
    frame = Image.new("L", (side, side))
    frame.paste(strokes, ((side - strokes.width) // 2, (side - strokes.height) // 2))
    return frame


def encode_png(image: Image.Image) -> bytes:
    """Encode as PNG."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()
